//! Connect, HELO and EHLO, STARTTLS, XCLIENT.

use bytes::BytesMut;

use super::{Machine, Next, Pending, Question};
use crate::pipeline::{Helo, Stage, Verdict};
use crate::session::extension::{ehlo_reply, offers_starttls};
use crate::session::xclient;
use crate::smtp::{Host, Reply};

impl Machine {
    pub(super) fn begin(&mut self) -> Next {
        let record = self.record("connect").text("client", self.peer.client).text("listener", &self.listener.name);
        self.gateway.clerk.log.emit(record);
        Next::Ask(Question::Hear(Stage::Connect, None, self.hearing()), Pending::Connect)
    }

    /// RFC 5321 §4.3.1: the client waits for the greeting; who has spoken before it is not a mail server (R69).
    pub(super) fn proceed_connect(&mut self, verdict: Verdict, buffer: &BytesMut) -> Next {
        if let Verdict::Disconnect(reply) = verdict {
            self.say(&reply);
            return Next::Close;
        }
        if !buffer.is_empty() {
            self.say(&Reply::early_talker());
            return Next::Close;
        }
        if self.greeted.is_some() {
            return Next::Ask(Question::Hear(Stage::Helo, None, self.hearing()), Pending::HeloOfXClient);
        }
        self.proceed_banner(verdict)
    }

    pub(super) fn proceed_banner(&mut self, verdict: Verdict) -> Next {
        if let Verdict::Disconnect(reply) = verdict {
            self.say(&reply);
            return Next::Close;
        }
        self.say(&Reply::new(220, None, format!("{} {}", self.settings.host_name, self.settings.banner)));
        Next::GoOn
    }

    /// RFC 5321 §4.1.4: EHLO ends a transaction as RSET does.
    pub(super) fn check_helo(&mut self, name: String, extended: bool) -> Next {
        self.transaction = None;
        if self.greeted.is_some() {
            self.junk += 1;
            if self.junk > self.settings.max_junk_commands {
                self.say(&Reply::too_many_junk_commands());
                return Next::Close;
            }
        }
        self.standing.forget_helo();
        let record = self.record("helo").text("name", &name).flag("extended", extended);
        self.gateway.clerk.log.emit(record);
        self.greeted = Some(Helo { host: Host::parse(&name).ok(), name, extended });
        Next::Ask(Question::Hear(Stage::Helo, None, self.hearing()), Pending::Helo)
    }

    pub(super) fn proceed_helo(&mut self, verdict: Verdict) -> Next {
        if let Verdict::Disconnect(reply) = verdict {
            self.say(&reply);
            return Next::Close;
        }
        let client = self.peer.client.ip().to_canonical();
        let reply = if self.greeted.as_ref().is_some_and(|helo| helo.extended) {
            let secured = self.peer.tls.is_some();
            ehlo_reply(&self.settings, &self.listener, secured, self.may_xclient(), &format!("[{client}]"))
        } else {
            Reply::new(250, None, self.settings.host_name.clone())
        };
        self.say(&reply);
        Next::GoOn
    }

    /// RFC 3207 §4.
    pub(super) fn check_starttls(&mut self) -> Next {
        if self.peer.tls.is_some() || self.transaction.is_some() {
            return self.complain(Reply::bad_sequence("STARTTLS not allowed here"));
        }
        if !offers_starttls(&self.listener, false) {
            return self.complain(Reply::not_implemented());
        }
        if !self.gateway.admits_handshake(self.peer.client) {
            self.say(&Reply::too_many_handshakes());
            return Next::Close;
        }
        self.say(&Reply::ready_for_tls());
        Next::StartTls
    }

    fn may_xclient(&self) -> bool {
        let ip = self.peer.connecting.ip().to_canonical();
        self.listener.xclient_from.iter().any(|network| network.contains(&ip))
    }

    pub(super) fn check_xclient(&mut self, attributes: &[(String, String)]) -> Next {
        if !self.may_xclient() {
            return self.complain(Reply::not_implemented());
        }
        if self.transaction.is_some() {
            return self.complain(Reply::bad_sequence("XCLIENT not allowed in a transaction"));
        }
        let said = match xclient::apply(&self.peer, attributes) {
            Ok(said) => said,
            Err(error) => return self.complain(Reply::syntax(error.to_string())),
        };
        // A new client: the session begins anew, with the banner.
        let user = said.login.and_then(|login| self.gateway.current.load().directory.user(&login).cloned());
        let (errors, junk) = (self.errors, self.junk);
        let replies = self.take_replies();
        *self = Self::new(self.gateway.clone(), self.listener.clone(), said.peer);
        self.replies = replies;
        self.user = user;
        (self.errors, self.junk, self.verb) = (errors, junk, "xclient");
        self.greeted = said.helo.map(|name| Helo { host: Host::parse(&name).ok(), name, extended: true });
        self.begin()
    }
}
