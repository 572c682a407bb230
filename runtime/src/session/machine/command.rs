//! A command line: what it says, whether it may come now, who handles it.

use bytes::BytesMut;

use super::{Machine, Next, Pending, Question, SLOW_DOWN};
use crate::session::answer::to_command_error;
use crate::session::settings::TlsMode;
use crate::smtp::line::Line;
use crate::smtp::{Command, CommandError, Reply};

/// R73: every so many junk commands the answer waits.
const JUNK_STEP: u32 = 10;

/// A command that must not come now, whatever it says.
enum OutOfOrder {
    EarlyTalker,
    BeforeTls,
}

impl Machine {
    pub(super) fn command_line(&mut self, line: Line, buffer: &BytesMut) -> Next {
        self.verb = "unknown";
        let line = match line {
            Line::Complete(line) => line,
            Line::TooLong => return self.not_understood(Reply::command_too_long()),
            Line::BareLineEnd => return self.not_understood(Reply::bare_line_end_in_command()),
            Line::TlsHello => {
                self.say(&Reply::not_smtp());
                return Next::Close;
            }
            Line::Endless | Line::Incomplete => {
                self.say(&Reply::too_many_errors());
                return Next::Close;
            }
        };
        match Command::parse(&line) {
            Ok(command) => {
                self.verb = verb(&command);
                match self.check_sequence(&command, !buffer.is_empty()) {
                    Ok(()) => self.command(command),
                    Err(OutOfOrder::EarlyTalker) => {
                        self.say(&Reply::early_talker());
                        Next::Close
                    }
                    Err(OutOfOrder::BeforeTls) => match command {
                        Command::Bdat { size, last } => self.skip_chunk(size, last, Reply::tls_required()),
                        _ => self.complain(Reply::tls_required()),
                    },
                }
            }
            Err(error @ CommandError::NotSmtp) => {
                // A browser or a message where commands should be (SP15): nothing that follows is meant for us.
                self.say(&to_command_error(&error));
                Next::Close
            }
            Err(error) => self.not_understood(to_command_error(&error)),
        }
    }

    /// After a BDAT nobody knows how many octets of a message follow; read as commands they would be an envelope of
    /// somebody else's making. So that is the end (SP8).
    fn not_understood(&mut self, reply: Reply) -> Next {
        if self.lines.was_bdat() {
            self.say(&reply);
            return Next::Close;
        }
        self.complain(reply)
    }

    /// What may be said when, and what must be the last of a group (RFC 2920 §3.1).
    fn check_sequence(&self, command: &Command, more: bool) -> Result<(), OutOfOrder> {
        let ends_group = matches!(
            command,
            Command::Helo(_)
                | Command::Ehlo(_)
                | Command::Data
                | Command::StartTls
                | Command::Auth { .. }
                | Command::XClient(_)
                | Command::Quit
        );
        // R69: before EHLO was answered nobody knows that PIPELINING is offered.
        let plain_session = self.greeted.as_ref().is_none_or(|helo| !helo.extended);
        let has_octets = matches!(command, Command::Bdat { .. });
        if more && (ends_group || (plain_session && !has_octets)) {
            return Err(OutOfOrder::EarlyTalker);
        }
        let secured = self.peer.tls.is_some();
        let before_tls = matches!(
            command,
            Command::Helo(_)
                | Command::Ehlo(_)
                | Command::Noop
                | Command::Quit
                | Command::StartTls
                | Command::XClient(_)
        );
        if self.listener.tls == TlsMode::Required && !secured && !before_tls {
            return Err(OutOfOrder::BeforeTls);
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Next {
        match command {
            Command::Helo(name) => self.check_helo(name, false),
            Command::Ehlo(name) => self.check_helo(name, true),
            Command::Mail(path, parameters) => self.check_mail(path, parameters),
            Command::Rcpt(path, parameters) => self.check_rcpt(path, parameters),
            Command::Data => self.check_data(),
            Command::Bdat { size, last } => self.check_bdat(size, last),
            Command::Rset => {
                self.transaction = None;
                self.junk_command(&Reply::ok())
            }
            Command::Noop => self.junk_command(&Reply::ok()),
            Command::Vrfy => self.junk_command(&Reply::cannot_verify()),
            Command::Help => self.junk_command(&Reply::new(214, None, "See RFC 5321")),
            Command::Quit => {
                self.say(&Reply::closing(&self.settings.host_name));
                Next::Close
            }
            Command::StartTls => self.check_starttls(),
            Command::Auth { mechanism, initial } => self.check_auth(&mechanism, initial.as_deref()),
            Command::XClient(attributes) => self.check_xclient(&attributes),
            Command::NotImplemented("ETRN") => {
                let next = self.junk_command(&Reply::not_implemented());
                self.errors += 1;
                next
            }
            Command::NotImplemented(_) => self.complain(Reply::not_implemented()),
        }
    }

    /// R73: NOOP, VRFY, ETRN, RSET and the like, which move nothing on.
    pub(super) fn junk_command(&mut self, reply: &Reply) -> Next {
        self.junk += 1;
        if self.junk > self.settings.max_junk_commands {
            self.say(&Reply::too_many_junk_commands());
            return Next::Close;
        }
        self.say(reply);
        if self.junk.is_multiple_of(JUNK_STEP) {
            return Next::Ask(Question::Wait(SLOW_DOWN), Pending::Wait);
        }
        Next::GoOn
    }
}

/// A closed set of names for the log and metrics.
fn verb(command: &Command) -> &'static str {
    match command {
        Command::Helo(_) => "helo",
        Command::Ehlo(_) => "ehlo",
        Command::Mail(..) => "mail",
        Command::Rcpt(..) => "rcpt",
        Command::Data => "data",
        Command::Bdat { .. } => "bdat",
        Command::Rset => "rset",
        Command::Noop => "noop",
        Command::Vrfy => "vrfy",
        Command::Help => "help",
        Command::Quit => "quit",
        Command::StartTls => "starttls",
        Command::Auth { .. } => "auth",
        Command::XClient(_) => "xclient",
        Command::NotImplemented(_) => "other",
    }
}
