//! DATA, BDAT and the end of a message.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::{Machine, Next, Pending, Question, State};
use crate::authentication::results;
use crate::mail::{Mail, Message, MessageId, date};
use crate::pipeline::{RecordedSession, Role, Stage, Verdict};
use crate::session::answer::{Ruling, to_commit_error, to_unacceptable};
use crate::session::connection::{Accepted, CommitError};
use crate::session::received::{received, trace_field};
use crate::session::reception::{MAX_SURPLUS, Reception, Unacceptable};
use crate::smtp::Reply;
use crate::smtp::data::Progress;

impl Machine {
    pub(super) fn check_data(&mut self) -> Next {
        let line_ends = self.line_ends;
        let Some(transaction) = &mut self.transaction else {
            return self.complain(Reply::bad_sequence("Say MAIL first"));
        };
        if transaction.chunking {
            return self.complain(Reply::bad_sequence("DATA not allowed after BDAT"));
        }
        if transaction.taken() == 0 {
            return self.complain(Reply::no_valid_recipients());
        }
        let settings = transaction.snapshot.settings.clone();
        transaction.reception = Some(Reception::data(settings, transaction.max_message_size(), line_ends));
        self.say(&Reply::start_mail_input());
        self.state = State::Data;
        Next::GoOn
    }

    pub(super) fn read_data(&mut self, buffer: &mut BytesMut) -> Next {
        let Some(reception) = self.transaction.as_mut().and_then(|t| t.reception.as_mut()) else { return Next::Close };
        let progress = reception.read_data(buffer);
        if progress == Progress::End {
            return self.finish();
        }
        self.after_piece()
    }

    /// A piece of a message was taken: is it still to be read on, and is memory full?
    fn after_piece(&mut self) -> Next {
        let Some(transaction) = &mut self.transaction else { return Next::GoOn };
        let Some(reception) = transaction.reception.take() else { return Next::GoOn };
        if reception.is_hopeless() {
            self.say(&Reply::message_too_big());
            return Next::Close;
        }
        if reception.flush_is_due() {
            let state = std::mem::replace(&mut self.state, State::Closed);
            return Next::Ask(Question::Flush(Box::new(reception)), Pending::Flush(Box::new(state)));
        }
        transaction.reception = Some(reception);
        Next::GoOn
    }

    pub(super) fn proceed_flush(&mut self, mut reception: Reception, result: io::Result<()>) -> Next {
        let Some(transaction) = &mut self.transaction else { return Next::Close };
        if let Err(error) = result {
            tracing::error!(%error, "a message can't be written to the incoming directory");
            // Read on to the end, keep nothing, and say 4xx there.
            transaction.storage_failure = Some(storage_failure(&error));
            reception.discard();
        }
        transaction.reception = Some(reception);
        Next::GoOn
    }

    /// RFC 3030 §2. The octets of a chunk follow at once, so they are read even when the command is refused.
    pub(super) fn check_bdat(&mut self, size: u64, last: bool) -> Next {
        let line_ends = self.line_ends;
        let refused = match &mut self.transaction {
            None => Some(Reply::bad_sequence("Say MAIL first")),
            Some(transaction) if transaction.taken() == 0 => Some(Reply::no_valid_recipients()),
            Some(transaction) => {
                transaction.chunking = true;
                if transaction.reception.is_none() {
                    let settings = transaction.snapshot.settings.clone();
                    let reception = Reception::chunks(settings, transaction.max_message_size(), line_ends);
                    transaction.reception = Some(reception);
                }
                None
            }
        };
        self.begin_chunk(size, last, refused)
    }

    /// The octets of a refused chunk are no commands.
    pub(super) fn skip_chunk(&mut self, size: u64, last: bool, reply: Reply) -> Next {
        self.begin_chunk(size, last, Some(reply))
    }

    fn begin_chunk(&mut self, size: u64, last: bool, refused: Option<Reply>) -> Next {
        // What nobody will read to its end is not begun.
        if size > self.settings.max_message_size.saturating_add(MAX_SURPLUS) {
            self.say(&Reply::message_too_big());
            return Next::Close;
        }
        self.state = State::Chunk { remaining: size, size, last, refused };
        Next::GoOn
    }

    pub(super) fn read_chunk(&mut self, buffer: &mut BytesMut) -> Next {
        let State::Chunk { remaining, size, last, refused } = &mut self.state else { return Next::Close };
        let here = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buffer.len());
        *remaining -= here as u64;
        let (end, size, last) = (*remaining == 0, *size, *last);
        if let Some(reply) = refused {
            let reply = reply.clone();
            buffer.advance(here);
            if !end {
                return Next::GoOn;
            }
            self.state = State::Command;
            // RFC 3030 §2: after a refused chunk the transaction can't be completed any more.
            self.transaction = None;
            return self.complain(reply);
        }
        let Some(reception) = self.transaction.as_mut().and_then(|t| t.reception.as_mut()) else { return Next::Close };
        reception.read_chunk(buffer.get(..here).unwrap_or_default(), end && last);
        buffer.advance(here);
        match (end, last) {
            (true, true) => self.finish(),
            (true, false) => {
                self.state = State::Command;
                // An empty chunk moves nothing on (RS14).
                if size == 0 {
                    return self.junk_command(&Reply::chunk_ok(0));
                }
                self.say(&Reply::chunk_ok(size));
                self.after_piece()
            }
            (false, _) => self.after_piece(),
        }
    }

    fn finish(&mut self) -> Next {
        self.verb = "message";
        match self.transaction.as_mut().and_then(|t| t.reception.take()) {
            Some(reception) => Next::Ask(Question::Finish(Box::new(reception)), Pending::Finish),
            None => Next::Close,
        }
    }

    pub(super) fn proceed_finish(&mut self, result: Result<io::Result<Message>, Unacceptable>) -> Next {
        let failure = self.transaction.as_ref().and_then(|transaction| transaction.storage_failure);
        let mut message = match result {
            _ if failure.is_some() => {
                let reply = failure.map_or_else(Reply::local_error, to_commit_error);
                return self.refuse_message(reply, "defer");
            }
            Err(fault) => return self.refuse_message(to_unacceptable(fault), "reject"),
            Ok(Err(error)) => {
                tracing::error!(%error, "a message can't be written to the incoming directory");
                return self.refuse_message(to_commit_error(storage_failure(&error)), "defer");
            }
            Ok(Ok(message)) => message,
        };
        // R47. Loops are recognised by their trace (RFC 5321 §6.3).
        if message.header.named("Received").count() > self.settings.max_hops {
            return self.refuse_message(Reply::too_many_hops(), "reject");
        }
        let facts = self.facts();
        let now = jiff::Timestamp::now();
        let Some(transaction) = &mut self.transaction else { return Next::Close };
        let id = transaction.mail.id;
        // Before anything is added: signatures are verified over what the client sent.
        let _ = transaction.mail.evidence.received.set(message.clone());
        let forged = results::remove_own(&mut message.header, &transaction.snapshot.settings.service_id);
        // RFC 6409 §8.1, §8.3: a submission server may add what the client left out.
        if self.listener.role == Role::Submission {
            if message.header.first("Date").is_none() {
                message.header.append(trace_field("Date", &date(now)));
            }
            if message.header.first("Message-ID").is_none() {
                message.header.append(trace_field("Message-ID", &format!("<{id}@{}>", self.settings.host_name)));
            }
        }
        message.header.prepend(received(&facts, &transaction.mail.envelope, id, &self.settings.host_name, now));
        let size = message.len();
        let message_id = message.header.message_id();
        Arc::make_mut(&mut transaction.mail).message = Some(message);
        let (nobody, postmaster) = (transaction.mail.envelope.recipients.is_empty(), transaction.only_postmaster());
        let mut record = self.record("message").number("size", size);
        if forged > 0 {
            record = record.number("forged_results", u64::try_from(forged).unwrap_or(u64::MAX));
        }
        if let Some(message_id) = message_id {
            record = record.text("message_id", message_id);
        }
        self.gateway.clerk.log.emit(record);
        match (nobody, postmaster) {
            (true, _) => self.drop_message(),
            (false, true) => self.commit(None),
            (false, false) => Next::Ask(Question::Hear(Stage::Data, None, self.hearing()), Pending::Data),
        }
    }

    pub(super) fn proceed_data(&mut self, verdict: Verdict) -> Next {
        let name = verdict.name();
        match Ruling::from(verdict) {
            Ruling::Take => self.commit(None),
            Ruling::KeepBack(reason) => self.commit(Some(reason)),
            Ruling::Drop => self.drop_message(),
            Ruling::Refuse(reply) => self.refuse_message(reply, name),
            Ruling::Close(reply) => {
                self.gateway.clerk.metrics.messages.with_label_values(&[name]).inc();
                self.say(&reply);
                Next::Close
            }
        }
    }

    /// Hands the mail over to be made durable; `kept_back`: all of it goes to quarantine, for this reason.
    fn commit(&mut self, kept_back: Option<String>) -> Next {
        let session = RecordedSession::from(self.facts().as_ref());
        let Some(transaction) = &mut self.transaction else { return Next::Close };
        let authenticated = self.user.is_some() || session.trusted;
        let outbound = transaction.direction == crate::pipeline::Direction::Outbound;
        let whole = Mail::clone(&transaction.mail);
        let mut copies: Vec<Accepted> = Vec::new();
        for recipient in &whole.envelope.recipients {
            let own = transaction.kept_back.iter().find(|(mailbox, _)| *mailbox == recipient.mailbox);
            let reason = kept_back.clone().or_else(|| own.map(|(_, reason)| reason.clone()));
            match copies.iter_mut().find(|copy| copy.kept_back == reason) {
                Some(copy) => copy.mail.envelope.recipients.push(recipient.clone()),
                None => {
                    let mut mail = whole.clone();
                    mail.envelope.recipients = vec![recipient.clone()];
                    if !copies.is_empty() {
                        mail.id = MessageId::next();
                    }
                    copies.push(Accepted {
                        mail,
                        session: session.clone(),
                        outbound,
                        authenticated,
                        kept_back: reason,
                        origin: (!copies.is_empty()).then_some(whole.id),
                    });
                }
            }
        }
        if copies.is_empty() {
            return self.drop_message();
        }
        transaction.all_kept_back = kept_back.is_some();
        Next::Ask(Question::Commit(copies), Pending::Commit)
    }

    pub(super) fn proceed_commit(&mut self, result: Result<(), CommitError>) -> Next {
        let Some(transaction) = &self.transaction else { return Next::Close };
        let id = transaction.mail.id;
        if let Err(error) = result {
            return self.refuse_message(to_commit_error(error), "defer");
        }
        let metrics = &self.gateway.clerk.metrics;
        let verdict = if transaction.all_kept_back { "quarantine" } else { "accept" };
        metrics.messages.with_label_values(&[verdict]).inc();
        metrics.count_tenant(transaction.mail.tenant.as_ref());
        metrics.message_octets.inc_by(transaction.mail.message.as_ref().map_or(0, Message::len));
        self.accepted(id)
    }

    /// A policy wants it gone; the client hears yes, the log the truth.
    fn drop_message(&mut self) -> Next {
        self.gateway.clerk.metrics.messages.with_label_values(&["discard"]).inc();
        let record = self.record("discarded");
        self.gateway.clerk.log.emit(record);
        let Some(transaction) = &self.transaction else { return Next::Close };
        let id = transaction.mail.id;
        self.accepted(id)
    }

    fn accepted(&mut self, id: MessageId) -> Next {
        self.say(&Reply::queued(id));
        self.transaction = None;
        self.taken = self.taken.saturating_add(1);
        (self.errors, self.junk) = (0, 0);
        Next::GoOn
    }

    /// The transaction is over (RFC 5321 §4.1.1.4): RCPT or DATA after it is out of order.
    fn refuse_message(&mut self, reply: Reply, verdict: &'static str) -> Next {
        self.gateway.clerk.metrics.messages.with_label_values(&[verdict]).inc();
        let next = self.complain(reply);
        self.transaction = None;
        next
    }
}

/// Whether the disk is full, or does not work (faults.md D1–D3).
fn storage_failure(error: &io::Error) -> CommitError {
    match error.kind() {
        io::ErrorKind::StorageFull => CommitError::Full,
        _ => CommitError::Failed,
    }
}
