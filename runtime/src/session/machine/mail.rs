//! MAIL and RCPT, and who may have mail relayed.

use std::sync::Arc;

use super::{Fallback, Machine, Next, Pending, Question};
use crate::mail::{BodyType, Envelope, Recipient};
use crate::pipeline::{Direction, Role, Stage, Verdict};
use crate::session::answer::Ruling;
use crate::session::transaction::Transaction;
use crate::smtp::command::{MailParameters, RcptParameters};
use crate::smtp::{Enhanced, ForwardPath, Host, Mailbox, Reply, ReversePath};
use crate::tenancy::Tenant;

/// Recipients beyond the limit that are no error yet: a client that pipelines its RCPTs must be able to go on with those
/// that were taken (RFC 5321 §4.5.3.1.10).
const MAX_OVERSHOOT: usize = 1000;

/// For whom a recipient is, as far as relaying goes.
enum Relay {
    /// A domain of this tenant, which has a destination (R6, R56).
    Tenant(Arc<Tenant>),
    /// Anywhere: the client may relay (R55, AUTH).
    Outbound,
    /// Ours: goes to the administrators (R49).
    Administrators,
    Denied,
}

impl Machine {
    pub(super) fn check_mail(&mut self, path: ReversePath, parameters: MailParameters) -> Next {
        if self.greeted.is_none() {
            return self.complain(Reply::bad_sequence("Say EHLO first"));
        }
        if self.transaction.is_some() {
            return self.complain(Reply::bad_sequence("Nested MAIL command"));
        }
        let facts = self.facts();
        let stranger = self.user.is_none() && !facts.trusted;
        match self.listener.role {
            Role::Submission if stranger => return self.complain(Reply::authentication_required()),
            // Only for clients that config trusts, or that log in where they can.
            Role::Relay if stranger && self.listener.auth => return self.complain(Reply::authentication_required()),
            Role::Relay if stranger => return self.complain(Reply::relay_denied()),
            _ => {}
        }
        if parameters.non_ascii && !parameters.smtputf8 {
            return self.complain(Reply::non_ascii_without_smtputf8());
        }
        if let (Some(user), Some(sender)) = (&self.user, path.mailbox())
            && !facts.trusted
            && !user.may_send_as.allows(sender)
        {
            return self.complain(Reply::sender_not_owned());
        }
        let snapshot = (**self.gateway.current.load()).clone();
        let declared = parameters.size.unwrap_or(0);
        let tenant = if facts.is_outbound() { self.sending_tenant(&path) } else { None };
        let direction = if facts.is_outbound() { Direction::Outbound } else { Direction::Inbound };
        let mut envelope = Envelope::new(path);
        envelope.body_type = if parameters.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit };
        envelope.smtputf8 = parameters.smtputf8;
        envelope.ret = parameters.ret;
        envelope.envid = parameters.envid;
        let transaction = Transaction::new(snapshot, envelope, direction, tenant);
        // RFC 1870 §6.1.
        if declared > transaction.max_message_size() {
            return self.complain(Reply::message_too_big());
        }
        if !(self.gateway.has_room)(declared) {
            return self.junk_command(&Reply::storage_full());
        }
        let record =
            self.record("mail").id(transaction.mail.id).text("sender", &transaction.mail.envelope.reverse_path);
        self.gateway.clerk.log.emit(record.number("declared_size", declared));
        self.transaction = Some(transaction);
        Next::Ask(Question::Hear(Stage::MailFrom, None, self.hearing()), Pending::Mail)
    }

    /// Whose outbound mail it is: of the login, of the trusted network, of the sender's domain.
    fn sending_tenant(&self, path: &ReversePath) -> Option<Arc<Tenant>> {
        let current = self.gateway.current.load();
        let directory = &current.directory;
        let by_login = self.user.as_ref().and_then(|user| user.tenant.as_deref());
        let by_network = || directory.trusted(self.peer.client.ip()).and_then(|rule| rule.tenant.as_deref());
        let by_name = by_login.or_else(by_network).and_then(|name| directory.tenant(name));
        let by_domain = || path.mailbox().and_then(Mailbox::domain).and_then(|domain| directory.tenant_of(domain));
        by_name.or_else(by_domain).cloned()
    }

    pub(super) fn proceed_mail(&mut self, verdict: Verdict) -> Next {
        if let Verdict::Disconnect(reply) = verdict {
            self.say(&reply);
            return Next::Close;
        }
        self.say(&Reply::sender_ok());
        Next::GoOn
    }

    pub(super) fn check_rcpt(&mut self, path: ForwardPath, parameters: RcptParameters) -> Next {
        let Some(transaction) = &mut self.transaction else {
            return self.complain(Reply::bad_sequence("Say MAIL first"));
        };
        if transaction.chunking {
            return self.complain(Reply::bad_sequence("RCPT not allowed after BDAT"));
        }
        if parameters.non_ascii && !transaction.mail.envelope.smtputf8 {
            return self.complain(Reply::non_ascii_without_smtputf8());
        }
        // R46: those taken stay taken.
        if transaction.taken() >= transaction.max_recipients() {
            return self.one_too_many(&Reply::too_many_recipients());
        }
        match self.relay(&path) {
            Relay::Denied => {
                // No plugin has seen it, and someone will ask what became of mail for this address.
                if let ForwardPath::Mailbox(mailbox) = &path {
                    let record = self.record("rcpt").text("recipient", mailbox).text("verdict", "reject");
                    self.gateway.clerk.log.emit(record);
                }
                self.complain(Reply::relay_denied())
            }
            Relay::Administrators => self.take_for_administrators(),
            Relay::Outbound => self.judge_rcpt(path, parameters, None),
            Relay::Tenant(tenant) => self.judge_rcpt(path, parameters, Some(tenant)),
        }
    }

    /// Those taken stay taken (R46). Who sends a long group hears 4xx for the rest of it and comes back with them; who goes
    /// on and on is in error.
    fn one_too_many(&mut self, reply: &Reply) -> Next {
        let Some(transaction) = &mut self.transaction else { return Next::Close };
        transaction.overshoot += 1;
        if transaction.overshoot > MAX_OVERSHOOT {
            return self.complain(reply.clone());
        }
        self.say(reply);
        Next::GoOn
    }

    /// Not an open relay, in any form of address (faults.md SP9).
    fn relay(&self, path: &ForwardPath) -> Relay {
        let mailbox = match path {
            ForwardPath::Postmaster => return Relay::Administrators,
            ForwardPath::Mailbox(mailbox) => mailbox,
        };
        let ours = match &mailbox.host {
            Host::Domain(domain) => domain.as_str().eq_ignore_ascii_case(&self.settings.host_name),
            Host::Literal(ip) => *ip == self.peer.local.ip().to_canonical(),
        };
        let name = mailbox.local.as_str();
        if ours && (mailbox.local.is_postmaster() || name.eq_ignore_ascii_case("mailer-daemon")) {
            return Relay::Administrators;
        }
        let facts = self.facts();
        let may_relay = facts.trusted || self.user.is_some();
        if !self.settings.allow_routed_local_parts && mailbox.local.looks_routed() && !may_relay {
            return Relay::Denied;
        }
        let Some(transaction) = &self.transaction else { return Relay::Denied };
        let directory = &transaction.snapshot.directory;
        let tenant = mailbox.domain().and_then(|domain| directory.tenant_of(domain));
        match tenant {
            // R6, whoever asks: by MX the mail would come back to us.
            Some(tenant) if tenant.destination.is_none() => Relay::Denied,
            _ if may_relay => Relay::Outbound,
            Some(tenant) => Relay::Tenant(tenant.clone()),
            None => Relay::Denied,
        }
    }

    /// R49: always taken, whatever the lists say (RFC 5321 §4.5.1).
    fn take_for_administrators(&mut self) -> Next {
        let administrators = self.settings.administrators.clone();
        if administrators.is_empty() {
            return self.complain(Reply::new(550, Some(Enhanced::new(1, 1)), "No administrator is configured here"));
        }
        if let Some(transaction) = &mut self.transaction {
            let before = transaction.taken();
            administrators.into_iter().for_each(|mailbox| transaction.take(Recipient::new(mailbox)));
            transaction.postmaster += transaction.taken() - before;
        }
        self.say(&Reply::recipient_ok());
        Next::GoOn
    }

    fn judge_rcpt(&mut self, path: ForwardPath, parameters: RcptParameters, tenant: Option<Arc<Tenant>>) -> Next {
        let (ForwardPath::Mailbox(mailbox), Some(transaction)) = (path, &mut self.transaction) else {
            return Next::Close;
        };
        let mut fallback = Box::new(Fallback { mail: transaction.mail.clone(), standing: None });
        if let Some(tenant) = tenant {
            match &transaction.tenant {
                Some(fixed) if fixed.name != tenant.name => {
                    return self.one_too_many(&Reply::other_tenant());
                }
                Some(_) => {}
                None => {
                    fallback.standing = Some(transaction.standing.clone());
                    Arc::make_mut(&mut transaction.mail).tenant = Some(tenant.name.clone());
                    transaction.tenant = Some(tenant);
                }
            }
        }
        let recipient = Recipient { mailbox, notify: parameters.notify, orcpt: parameters.orcpt };
        let question = Question::Hear(Stage::Rcpt, Some(recipient.clone()), self.hearing());
        Next::Ask(question, Pending::Rcpt(recipient, fallback))
    }

    pub(super) fn proceed_rcpt(&mut self, recipient: Recipient, fallback: Box<Fallback>, verdict: Verdict) -> Next {
        let record = self.record("rcpt").text("recipient", &recipient.mailbox).text("verdict", verdict.name());
        self.gateway.clerk.log.emit(record);
        let Some(transaction) = &mut self.transaction else { return Next::Close };
        match Ruling::from(verdict) {
            Ruling::Take => {
                // Else the mail is shared with it, and copied for each recipient.
                drop(fallback);
                transaction.take(recipient);
            }
            Ruling::Drop => transaction.dropped += 1,
            Ruling::KeepBack(reason) => {
                drop(fallback);
                transaction.kept_back.push((recipient.mailbox.clone(), reason));
                transaction.take(recipient);
            }
            Ruling::Refuse(reply) => {
                // What plugins changed for a recipient that is refused is undone, or one that they added would get the mail.
                transaction.mail = fallback.mail;
                let by_platform = transaction.standing.refused_by_platform();
                // It has not fixed the tenant after all: what its chain said counts no more.
                if let Some(standing) = fallback.standing {
                    transaction.standing = standing;
                    transaction.tenant = None;
                }
                if by_platform {
                    self.note_unknown(&reply);
                }
                return self.complain(reply);
            }
            Ruling::Close(reply) => {
                self.say(&reply);
                return Next::Close;
            }
        }
        self.say(&Reply::recipient_ok());
        Next::GoOn
    }

    /// R72: who guesses mailboxes is known by how many of them there are not, as the platform's chain says: a reseller's or
    /// tenant's plugin must not have a client kept out from everybody else. Those who may relay are known anyway, and write
    /// to whom their users do.
    fn note_unknown(&self, reply: &Reply) {
        let unknown = reply.is_permanent() && reply.enhanced() == Some(Enhanced::new(1, 1));
        let client = self.peer.client.ip().to_canonical();
        let relayed = self.settings.relays.iter().any(|network| network.contains(&client));
        if unknown && self.user.is_none() && !self.facts().trusted && !relayed {
            (self.gateway.unknown_recipient)(self.peer.client.ip());
        }
    }
}
