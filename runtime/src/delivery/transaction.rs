//! Mail transactions (RFC 5321 §3.3) as a client: MAIL, RCPT…, DATA, the message, and one outcome for each recipient.
//!
//! The rule above all others: a recipient is *delivered* only by a 2yz reply to the final dot, read after the dot was sent.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::channel::Pending;
use super::connection::{Connection, refusal};
use super::content::{Content, DotStuffer, PIECE};
use super::extension::Extensions;
use super::failure::{Failure, Stage};
use super::settings::Timeouts;
use super::{Diagnosis, Outcome};
use crate::mail::{BodyType, Envelope, Message, Recipient, Ret};
use crate::smtp::{Enhanced, Reply};

/// RCPT commands written before their replies are read (RFC 2920 §3.1: neither side may block on a full window).
const MAX_WINDOW: usize = 100;
/// Octets a second that a server must take on average; 25 MiB in two hours.
const MIN_RATE: u64 = 4 * 1024;
/// RFC 3461 §4.4 and §4.2; longer ones are not passed on.
const MAX_ENVID: usize = 100;
const MAX_ORCPT: usize = 500;

/// The mail and what is known of it.
pub(super) struct Outgoing<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) message: &'a Message,
    /// Some octet is above 127; found out when it matters.
    eight_bit: OnceCell<bool>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(envelope: &'a Envelope, message: &'a Message) -> Self {
        Self { envelope, message, eight_bit: OnceCell::new() }
    }

    async fn is_eight_bit(&self) -> Result<bool, Failure> {
        self.eight_bit.get_or_try_init(|| Content::is_eight_bit(self.message)).await.copied()
    }

    fn has_utf8_header(&self) -> bool {
        self.envelope.smtputf8 && self.message.header.fields().iter().any(|field| !field.raw().is_ascii())
    }

    fn has_utf8_sender(&self) -> bool {
        self.envelope.reverse_path.mailbox().is_some_and(|sender| !sender.is_ascii())
    }
}

/// Outcomes of the envelope's recipients, in its order; `None`: not decided yet.
pub(super) type Outcomes = Vec<Option<Outcome>>;

/// Sends the mail to those recipients that have no outcome yet, in as many transactions as the server's limits ask for.
/// After a failure the connection is of no use; who has an outcome then keeps it.
///
/// Those for whom this server lacks an extension stay without an outcome, for another may have it; what theirs is if
/// none has, is returned, in the order of the envelope.
pub(super) async fn deliver(
    connection: &mut Connection,
    mail: &Outgoing<'_>,
    timeouts: &Timeouts,
    max_recipients: usize,
    outcomes: &mut Outcomes,
) -> Result<Outcomes, Failure> {
    connection.mail_answered = false;
    let (extensions, host) = (connection.extensions.clone(), connection.host.clone());
    let (parameters, lacking) = check_extensions(&extensions, &host, mail).await?;
    let max_recipients = extensions.max_recipients.unwrap_or(max_recipients).clamp(1, max_recipients.max(1));
    let mut waiting: Vec<usize> = undecided(outcomes, &lacking);
    while !waiting.is_empty() {
        let rest = waiting.split_off(max_recipients.min(waiting.len()));
        let mut transaction = Transaction { connection, mail, timeouts, outcomes, accepted: vec![], again: vec![] };
        transaction.run(&parameters, &waiting).await?;
        // "Too many" after some were taken: the others get a transaction of their own (RFC 5321 §4.5.3.1.10).
        let again = std::mem::take(&mut transaction.again);
        let progress = !transaction.accepted.is_empty();
        waiting = if progress { again } else { vec![] };
        waiting.extend(rest);
        for &recipient in &waiting {
            set(outcomes, recipient, None);
        }
    }
    Ok(lacking)
}

fn undecided(outcomes: &Outcomes, lacking: &Outcomes) -> Vec<usize> {
    let both = outcomes.iter().zip(lacking).enumerate();
    both.filter(|(_, (outcome, lack))| outcome.is_none() && lack.is_none()).map(|(n, _)| n).collect()
}

fn set(outcomes: &mut Outcomes, recipient: usize, outcome: Option<Outcome>) {
    if let Some(place) = outcomes.get_mut(recipient) {
        *place = outcome;
    }
}

/// What the mail needs and this server lacks is known before anything is sent (O8). Returns the parameters of MAIL, and
/// for each recipient that this server can't be given, why.
async fn check_extensions(
    extensions: &Extensions,
    host: &str,
    mail: &Outgoing<'_>,
) -> Result<(String, Outcomes), Failure> {
    let mut lacking: Outcomes = vec![None; mail.envelope.recipients.len()];
    let fail = |code, subject, detail, text: String| {
        Some(Outcome::Failed(Diagnosis::own(code, Enhanced::new(subject, detail), text).at(host)))
    };
    let size = mail.message.len();
    let mut parameters = String::new();
    if let Some(limit) = extensions.size {
        let _ = write!(parameters, " SIZE={size}");
        if limit.is_some_and(|limit| size > limit) {
            lacking.fill(fail(552, 3, 4, format!("Message of {size} octets is too big for {host}")));
        }
    }
    // RFC 6531 §3.1, §3.2.
    let mut utf8 = mail.has_utf8_sender() || mail.has_utf8_header();
    for (recipient, place) in mail.envelope.recipients.iter().zip(&mut lacking) {
        let needed = utf8 || !recipient.mailbox.is_ascii();
        if place.is_none() && needed && !extensions.smtputf8 {
            *place = fail(553, 6, 7, format!("Mail needs SMTPUTF8, which {host} does not support"));
        }
    }
    utf8 |= mail.envelope.recipients.iter().any(|recipient| !recipient.mailbox.is_ascii());
    let eight_bit = match mail.envelope.body_type {
        // As declared; no need to look.
        BodyType::EightBitMime if extensions.eight_bit_mime => true,
        _ => mail.is_eight_bit().await?,
    };
    if eight_bit && extensions.eight_bit_mime {
        parameters.push_str(" BODY=8BITMIME");
    } else if eight_bit {
        // RFC 6152 §3: converting it would be for the content's owner to do.
        let outcome = fail(554, 6, 3, format!("Mail has 8-bit content, which {host} does not support"));
        lacking.iter_mut().filter(|lack| lack.is_none()).for_each(|place| place.clone_from(&outcome));
    }
    if utf8 && extensions.smtputf8 {
        parameters.push_str(" SMTPUTF8");
    }
    if extensions.dsn {
        add_dsn_parameters(&mut parameters, mail.envelope);
    }
    Ok((parameters, lacking))
}

/// RFC 3461 §4.3, §4.4.
fn add_dsn_parameters(parameters: &mut String, envelope: &Envelope) {
    match envelope.ret {
        Some(Ret::Full) => parameters.push_str(" RET=FULL"),
        Some(Ret::Headers) => parameters.push_str(" RET=HDRS"),
        None => {}
    }
    if let Some(envid) = envelope.envid.as_deref().filter(|envid| is_parameter(envid, MAX_ENVID)) {
        let _ = write!(parameters, " ENVID={envid}");
    }
}

/// It came from a client: it must not hold what would end it, or the line.
fn is_parameter(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic())
}

/// RFC 5321 §4.1.1.3, RFC 3461 §4.1, §4.2.
fn rcpt(recipient: &Recipient, dsn: bool) -> String {
    let mut command = format!("RCPT TO:<{}>", recipient.mailbox);
    if dsn {
        if let Some(notify) = recipient.notify {
            let asked = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
            let words: Vec<&str> = asked.into_iter().filter(|(asked, _)| *asked).map(|(_, word)| word).collect();
            let _ = write!(command, " NOTIFY={}", if words.is_empty() { "NEVER".to_owned() } else { words.join(",") });
        }
        if let Some(orcpt) = recipient.orcpt.as_deref().filter(|orcpt| is_parameter(orcpt, MAX_ORCPT)) {
            let _ = write!(command, " ORCPT={orcpt}");
        }
    }
    command.push_str("\r\n");
    command
}

/// RFC 5321 §4.1.1.5: what an earlier use of the connection has begun is nothing to the next.
pub(super) async fn reset(connection: &mut Connection, timeouts: &Timeouts) -> Result<(), Failure> {
    if !connection.unfinished {
        return Ok(());
    }
    connection.channel.send(b"RSET\r\n", Stage::Reset, timeouts.block).await?;
    let reply = connection.channel.reply(Stage::Reset, timeouts.hello).await?.reply;
    if reply.code() != 250 {
        return Err(refusal(Stage::Reset, reply));
    }
    connection.unfinished = false;
    Ok(())
}

struct Transaction<'a, 'm> {
    connection: &'a mut Connection,
    mail: &'a Outgoing<'m>,
    timeouts: &'a Timeouts,
    outcomes: &'a mut Outcomes,
    accepted: Vec<usize>,
    /// Refused with "too many recipients".
    again: Vec<usize>,
}

impl Transaction<'_, '_> {
    async fn run(&mut self, parameters: &str, recipients: &[usize]) -> Result<(), Failure> {
        reset(self.connection, self.timeouts).await?;
        let mail = format!("MAIL FROM:<{}>{parameters}\r\n", self.mail.envelope.reverse_path);
        self.connection.unfinished = true;
        self.connection.channel.end_by(Some(Instant::now() + self.timeouts.total));
        let go = if self.connection.extensions.pipelining {
            self.pipelined(mail, recipients).await?
        } else {
            self.one_by_one(&mail, recipients).await?
        };
        if go {
            let time = self.timeouts.total + Duration::from_secs(self.mail.message.len() / MIN_RATE);
            self.connection.channel.end_by(Some(Instant::now() + time));
            self.send_content().await?;
        }
        self.connection.channel.end_by(None);
        Ok(())
    }

    /// RFC 2920 §3.1: MAIL, all RCPT and DATA in one write, or in few. True when the message may be sent.
    async fn pipelined(&mut self, mail: String, recipients: &[usize]) -> Result<bool, Failure> {
        let mut commands = mail;
        let mut taken = None;
        let mut groups = recipients.chunks(MAX_WINDOW).peekable();
        while let Some(group) = groups.next() {
            for &recipient in group {
                commands.push_str(&self.rcpt(recipient));
            }
            let last = groups.peek().is_none();
            if last {
                commands.push_str("DATA\r\n");
            }
            self.send(commands.as_bytes(), if taken.is_none() { Stage::Mail } else { Stage::Rcpt }).await?;
            commands.clear();
            let sender_taken = match taken {
                Some(taken) => taken,
                None => self.read_mail(recipients).await?,
            };
            taken = Some(sender_taken);
            for &recipient in group {
                let reply = self.connection.channel.reply(Stage::Rcpt, self.timeouts.rcpt).await?.reply;
                // Without a sender every recipient is refused too, for want of one; the cause is the sender's.
                if sender_taken {
                    self.judge_rcpt(recipient, reply)?;
                }
            }
            if last {
                return self.read_data().await;
            }
            if !sender_taken {
                return Ok(false);
            }
        }
        Ok(false)
    }

    async fn one_by_one(&mut self, mail: &str, recipients: &[usize]) -> Result<bool, Failure> {
        self.send(mail.as_bytes(), Stage::Mail).await?;
        if !self.read_mail(recipients).await? {
            return Ok(false);
        }
        for &recipient in recipients {
            let command = self.rcpt(recipient);
            self.send(command.as_bytes(), Stage::Rcpt).await?;
            let reply = self.connection.channel.reply(Stage::Rcpt, self.timeouts.rcpt).await?.reply;
            self.judge_rcpt(recipient, reply)?;
        }
        if self.accepted.is_empty() {
            return Ok(false);
        }
        self.send(b"DATA\r\n", Stage::Data).await?;
        self.read_data().await
    }

    fn rcpt(&self, recipient: usize) -> String {
        let dsn = self.connection.extensions.dsn;
        self.mail.envelope.recipients.get(recipient).map_or_else(String::new, |recipient| rcpt(recipient, dsn))
    }

    async fn send(&mut self, commands: &[u8], stage: Stage) -> Result<(), Failure> {
        self.connection.channel.send(commands, stage, self.timeouts.block).await
    }

    /// True when the sender was taken; else all have their outcome.
    async fn read_mail(&mut self, recipients: &[usize]) -> Result<bool, Failure> {
        let reply = self.connection.channel.reply(Stage::Mail, self.timeouts.mail).await?.reply;
        self.connection.mail_answered = true;
        match reply.class() {
            2 => Ok(true),
            3 => Err(Failure::Unexpected(Stage::Mail, reply)),
            _ => {
                self.refuse(recipients, &reply);
                Ok(false)
            }
        }
    }

    fn judge_rcpt(&mut self, recipient: usize, reply: Reply) -> Result<(), Failure> {
        match reply.code() {
            200..=299 => self.accepted.push(recipient),
            300..=399 => return Err(Failure::Unexpected(Stage::Rcpt, reply)),
            code @ (452 | 552) => {
                // RFC 5321 §4.5.3.1.10: 552 is what old servers say for 452.
                let too_many = reply.enhanced().is_none_or(|status| status == Enhanced::new(5, 3));
                if too_many {
                    self.again.push(recipient);
                }
                let reply = if code == 552 { Reply::new(452, reply.enhanced(), reply.text()) } else { reply };
                self.refuse_recipient(recipient, reply);
            }
            _ => self.refuse_recipient(recipient, reply),
        }
        Ok(())
    }

    /// True when the message may be sent.
    async fn read_data(&mut self) -> Result<bool, Failure> {
        let reply = self.connection.channel.reply(Stage::Data, self.timeouts.data).await?.reply;
        match reply.class() {
            // Without a recipient there is nothing to send, not even a dot: closing ends it with no message made.
            3 if reply.code() == 354 && !self.accepted.is_empty() => Ok(true),
            2 | 3 => Err(Failure::Unexpected(Stage::Data, reply)),
            _ => {
                let accepted = std::mem::take(&mut self.accepted);
                self.refuse(&accepted, &reply);
                Ok(false)
            }
        }
    }

    /// RCPT was answered so.
    fn refuse_recipient(&mut self, recipient: usize, reply: Reply) {
        let diagnosis = Diagnosis { of_recipient: true, ..Diagnosis::of(&self.connection.host, reply) };
        set(self.outcomes, recipient, Some(Outcome::refused(diagnosis)));
    }

    /// Some other command was, for all of them.
    fn refuse(&mut self, recipients: &[usize], reply: &Reply) {
        let outcome = Outcome::refused(Diagnosis::of(&self.connection.host, reply.clone()));
        for &recipient in recipients {
            set(self.outcomes, recipient, Some(outcome.clone()));
        }
    }

    async fn send_content(&mut self) -> Result<(), Failure> {
        let mut content = Content::new(self.mail.message);
        let mut stuffer = DotStuffer::default();
        let len = usize::try_from(self.mail.message.len()).unwrap_or(PIECE).min(PIECE);
        let mut out = Vec::with_capacity(len + len / 16 + 16);
        if self.connection.channel.pending().await == Pending::Octets {
            return Err(Failure::Desynchronised(Stage::Content));
        }
        while let Some(piece) = content.piece().await? {
            stuffer.push(&piece, &mut out)?;
            if out.len() >= PIECE {
                self.write_content(&out).await?;
                out.clear();
            }
        }
        stuffer.finish(&mut out)?;
        // What is said before the dot is no reply to it (O6): it can refuse, never accept.
        match self.connection.channel.pending().await {
            Pending::Nothing => self.write_content(&out).await?,
            Pending::Octets => return Err(self.early_reply().await),
            Pending::End => return Err(Failure::Lost(Stage::Content, "closed by the server".to_owned())),
        }
        self.read_dot().await
    }

    async fn write_content(&mut self, octets: &[u8]) -> Result<(), Failure> {
        match self.connection.channel.write(octets, Stage::Content, self.timeouts.block).await {
            // It may have said why before it closed, e.g. 552.
            Err(Failure::Lost(stage, cause)) => match self.connection.channel.pending().await {
                Pending::Octets => Err(self.early_reply().await),
                Pending::Nothing | Pending::End => Err(Failure::Lost(stage, cause)),
            },
            written => written,
        }
    }

    async fn early_reply(&mut self) -> Failure {
        match self.connection.channel.reply(Stage::Content, self.timeouts.quit).await {
            Ok(reply) => refusal(Stage::Content, reply.reply),
            Err(failure) => failure,
        }
    }

    async fn read_dot(&mut self) -> Result<(), Failure> {
        let reply = self.connection.channel.reply(Stage::Dot, self.timeouts.dot).await?.reply;
        match reply.class() {
            2 => {
                self.check_only_reply().await?;
                let dsn_relayed = self.connection.extensions.dsn;
                let diagnosis = Diagnosis { dsn_relayed, ..Diagnosis::of(&self.connection.host, reply) };
                for &recipient in &self.accepted {
                    set(self.outcomes, recipient, Some(Outcome::Delivered(diagnosis.clone())));
                }
            }
            3 => return Err(Failure::Unexpected(Stage::Dot, reply)),
            _ => {
                let accepted = self.accepted.clone();
                self.refuse(&accepted, &reply);
            }
        }
        self.connection.unfinished = false;
        self.connection.mails += 1;
        Ok(())
    }

    /// With two replies after one dot, the first may have been said before it, and the second be the one that counts.
    /// To send a mail once more is better than to lose it.
    async fn check_only_reply(&mut self) -> Result<(), Failure> {
        if self.connection.channel.pending().await != Pending::Octets {
            return Ok(());
        }
        match self.connection.channel.reply(Stage::Dot, self.timeouts.quit).await {
            // RFC 5321 §3.8: that it closes now, a server may say at any time.
            Err(Failure::Refused(_)) => Ok(()),
            _ => Err(Failure::Desynchronised(Stage::Dot)),
        }
    }
}
