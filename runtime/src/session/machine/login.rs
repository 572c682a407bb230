//! AUTH (RFC 4954).

use super::{Machine, Next, Pending, Question, State};
use crate::session::authentication::{Step, begin, go_on};
use crate::session::extension::offers_auth;
use crate::smtp::Reply;
use crate::smtp::line::Line;
use crate::tenancy::User;
use std::sync::Arc;

impl Machine {
    pub(super) fn check_auth(&mut self, mechanism: &str, initial: Option<&str>) -> Next {
        if self.user.is_some() || self.transaction.is_some() || self.greeted.is_none() {
            return self.complain(Reply::bad_sequence("AUTH not allowed here"));
        }
        if !self.listener.auth {
            return self.complain(Reply::not_implemented());
        }
        if !offers_auth(&self.listener, self.peer.tls.is_some()) {
            return self.complain(Reply::encryption_required_for_authentication());
        }
        let step = begin(mechanism, initial);
        self.exchange(step)
    }

    pub(super) fn auth_line(&mut self, line: Line) -> Next {
        self.verb = "auth";
        let State::Auth(exchange) = std::mem::replace(&mut self.state, State::Command) else { return Next::Close };
        let line = match line {
            Line::Complete(line) => line,
            Line::Endless | Line::TlsHello => {
                self.say(&Reply::too_many_errors());
                return Next::Close;
            }
            _ => return self.complain(Reply::authentication_line_too_long()),
        };
        let step = match std::str::from_utf8(&line) {
            Ok(text) => go_on(exchange, text),
            Err(_) => Step::Refuse(Reply::syntax("Bad base64")),
        };
        self.exchange(step)
    }

    fn exchange(&mut self, step: Step) -> Next {
        match step {
            Step::Challenge(exchange, reply) => {
                self.say(&reply);
                self.state = State::Auth(exchange);
                Next::GoOn
            }
            Step::Refuse(reply) => {
                self.gateway.clerk.metrics.authentications.with_label_values(&["cancelled"]).inc();
                self.complain(reply)
            }
            Step::Verify(credentials) => {
                let user = self.gateway.current.load().directory.user(&credentials.login).cloned();
                // Somebody who does not exist costs the same time: see `password_is_right`.
                let hash = user.as_ref().map(|user| user.password_hash.clone());
                let pending = user.map_or(Pending::VerifyNobody, Pending::Verify);
                Next::Ask(Question::Verify { hash, credentials }, pending)
            }
        }
    }

    pub(super) fn proceed_verify(&mut self, user: Option<Arc<User>>) -> Next {
        let result = if user.is_some() { "ok" } else { "failed" };
        self.gateway.clerk.metrics.authentications.with_label_values(&[result]).inc();
        let Some(user) = user else { return self.complain(Reply::authentication_failed()) };
        let record = self.record("login").text("login", &user.login);
        self.gateway.clerk.log.emit(record);
        self.user = Some(user);
        self.say(&Reply::authenticated());
        Next::GoOn
    }
}
