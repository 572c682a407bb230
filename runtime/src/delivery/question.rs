//! Asks a next hop whether it would take mail for a recipient: MAIL and RCPT (RFC 5321 §3.3), and no mail.

use super::connection::{Connection, refusal};
use super::dispatch::{Delivery, Live};
use super::failure::{Failure, Stage};
use super::pool::Key;
use super::target::Target;
use super::transaction::reset;
use super::way::{Terms, Way};
use crate::mail::Route;
use crate::smtp::{Mailbox, Reply, ReversePath};

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) sender: &'a ReversePath,
    pub(super) recipient: &'a Mailbox,
}

/// The recipient's name was never replied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoReply {
    pub(super) cause: String,
    /// No host of the destination got as far as MAIL: who asks for another recipient will hear no more.
    pub(super) down: bool,
}

impl Delivery {
    /// The reply to RCPT, of the first host that gives one; at the same hosts, over connections of the same terms, as a
    /// mail by that route. Takes as long as delivery may: the caller sets an end to it.
    pub(super) async fn ask(&self, route: &Route, question: &Question<'_>) -> Result<Reply, NoReply> {
        let live = self.live.load_full();
        let way = self.way(&live, route, Some(&question.recipient.host)).await;
        let Way { mut search, name, terms } =
            way.map_err(|no_way| NoReply { cause: no_way.outcome.diagnosis().reply.to_string(), down: no_way.down })?;
        let (mut cause, mut down) = (None, true);
        let mut left = live.settings.max_mx.max(1);
        'search: while let Some(targets) = search.next().await {
            for target in targets {
                if left == 0 {
                    break 'search;
                }
                left -= 1;
                match self.ask_target(&live, &target, &terms, question).await {
                    Ok(reply) => return Ok(reply),
                    Err((failure, heard)) => {
                        down &= !heard;
                        cause = Some(failure.outcome(&target.host).diagnosis().reply.to_string());
                        if failure == Failure::OwnHost {
                            break 'search;
                        }
                    }
                }
            }
        }
        let cause = cause.unwrap_or_else(|| search.verdict(&name).diagnosis().reply.to_string());
        Err(NoReply { cause, down })
    }

    /// The error says whether MAIL was replied to.
    async fn ask_target(
        &self,
        live: &Live,
        target: &Target,
        terms: &Terms,
        question: &Question<'_>,
    ) -> Result<Reply, (Failure, bool)> {
        let key = live.key(target, terms);
        while let Some(mut connection) = self.pool.take(&key, live.settings.idle_time) {
            // One that was closed meanwhile is no failure of anybody's (O10).
            if connection.is_alive().await
                && let Ok(reply) = connection.ask(live, question).await
            {
                return Ok(self.put_back(live, key, connection, reply));
            }
        }
        let opened = self.open(live, target, terms).await;
        let result = if opened.is_ok() { "ok" } else { "failed" };
        self.metrics.next_hop_connections.with_label_values(&[result]).inc();
        let mut connection = opened.map_err(|failure| (failure, false))?;
        match connection.ask(live, question).await {
            Ok(reply) => Ok(self.put_back(live, key, connection, reply)),
            Err(failure) => Err((failure, connection.mail_answered)),
        }
    }

    /// A connection over which something was refused is not used again: servers slow it down, and close it in the end.
    fn put_back(&self, live: &Live, key: Key, connection: Connection, reply: Reply) -> Reply {
        self.pool.put(key, connection, !reply.is_positive(), live.settings.max_idle_connections);
        reply
    }
}

impl Connection {
    async fn ask(&mut self, live: &Live, question: &Question<'_>) -> Result<Reply, Failure> {
        let timeouts = &live.settings.timeouts;
        self.mail_answered = false;
        reset(self, timeouts).await?;
        // RFC 6531 §3.4: a server that does not do it refuses such an address, or closes.
        let utf8 = self.extensions.smtputf8 && !question.recipient.is_ascii();
        let mail = format!("MAIL FROM:<{}>{}\r\n", question.sender, if utf8 { " SMTPUTF8" } else { "" });
        self.unfinished = true;
        self.channel.send(mail.as_bytes(), Stage::Mail, timeouts.block).await?;
        let reply = self.channel.reply(Stage::Mail, timeouts.mail).await?.reply;
        self.mail_answered = true;
        if reply.class() != 2 {
            return Err(refusal(Stage::Mail, reply));
        }
        let rcpt = format!("RCPT TO:<{}>\r\n", question.recipient);
        self.channel.send(rcpt.as_bytes(), Stage::Rcpt, timeouts.block).await?;
        let reply = self.channel.reply(Stage::Rcpt, timeouts.rcpt).await?.reply;
        if reply.class() == 3 { Err(Failure::Unexpected(Stage::Rcpt, reply)) } else { Ok(reply) }
    }
}
