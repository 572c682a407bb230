//! A connection to a next hop, from its greeting to where mail can be sent: EHLO, STARTTLS, AUTH.
//!
//! What the server says in the clear ends with the value that holds it: after STARTTLS everything is made anew
//! (RFC 3207 §4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::timeout;

use super::channel::{Channel, Pending, Wire};
use super::extension::Extensions;
use super::failure::{Failure, Stage};
use super::settings::{Login, Timeouts};
use super::tls::Connectors;
use crate::mail::TlsPolicy;
use crate::smtp::{Reply, ServerReply};

/// How a connection is to be opened.
pub(super) struct Opening<'a> {
    /// Our name.
    pub(super) hello: &'a str,
    /// The server's: in its certificate, and in what we say of it.
    pub(super) host: &'a str,
    pub(super) tls: TlsPolicy,
    pub(super) login: Option<&'a Login>,
    pub(super) connectors: &'a Connectors,
    pub(super) timeouts: &'a Timeouts,
}

/// Ready for mail.
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) extensions: Extensions,
    pub(super) host: String,
    /// Transactions that came to their end.
    pub(super) mails: u32,
    /// MAIL was sent, and no reply to an end of data has closed the transaction: RSET before the next.
    pub(super) unfinished: bool,
    /// In this use, MAIL was replied to: from here on the server has a say in what happens to the mail.
    pub(super) mail_answered: bool,
}

impl Connection {
    pub(super) async fn open(wire: Wire, opening: &Opening<'_>) -> Result<Self, Failure> {
        let implicit = opening.tls == TlsPolicy::Implicit;
        let wire = if implicit { opening.handshake(wire, true).await? } else { wire };
        let mut channel = Channel::new(wire);
        let greeting = channel.reply(Stage::Greeting, opening.timeouts.greeting).await?.reply;
        if greeting.code() != 220 {
            return Err(refusal(Stage::Greeting, greeting));
        }
        let extensions = opening.hello(&mut channel).await?;
        let (mut channel, extensions) = opening.secure(channel, extensions).await?;
        if let Some(login) = opening.login {
            opening.log_in(&mut channel, &extensions, login).await?;
        }
        let host = opening.host.to_owned();
        Ok(Self { channel, extensions, host, mails: 0, unfinished: false, mail_answered: false })
    }

    /// Between two mails the server has nothing to say; if it has, it is closing.
    pub(super) async fn is_alive(&mut self) -> bool {
        self.channel.pending().await == Pending::Nothing
    }

    /// RFC 5321 §4.1.1.10: the reply is waited for, though not for long.
    pub(super) async fn quit(mut self, timeouts: &Timeouts) {
        if self.channel.send(b"QUIT\r\n", Stage::Quit, timeouts.quit).await.is_ok() {
            // Whatever it says, it is over.
            let _ = self.channel.reply(Stage::Quit, timeouts.quit).await;
        }
    }
}

/// A reply that is not the one hoped for: refusing, or none that could stand here.
pub(super) fn refusal(stage: Stage, reply: Reply) -> Failure {
    if reply.is_positive() { Failure::Unexpected(stage, reply) } else { Failure::Refused(reply) }
}

impl Opening<'_> {
    /// RFC 5321 §3.2, §4.1.1.1: HELO where EHLO is not known.
    async fn hello(&self, channel: &mut Channel) -> Result<Extensions, Failure> {
        let reply = self.ask(channel, &format!("EHLO {}\r\n", self.hello), Stage::Hello).await?;
        if reply.reply.code() == 250 {
            return Ok(Extensions::parse(&reply.lines));
        }
        if !reply.reply.is_permanent() {
            return Err(refusal(Stage::Hello, reply.reply));
        }
        let reply = self.ask(channel, &format!("HELO {}\r\n", self.hello), Stage::Hello).await?.reply;
        if reply.code() == 250 { Ok(Extensions::default()) } else { Err(refusal(Stage::Hello, reply)) }
    }

    async fn ask(&self, channel: &mut Channel, command: &str, stage: Stage) -> Result<ServerReply, Failure> {
        channel.send(command.as_bytes(), stage, self.timeouts.block).await?;
        channel.reply(stage, self.timeouts.hello).await
    }

    async fn handshake(&self, wire: Wire, verify: bool) -> Result<Wire, Failure> {
        let handshake = self.connectors.handshake(wire, self.host, verify);
        timeout(self.timeouts.handshake, handshake).await.unwrap_or(Err(Failure::TimedOut(Stage::StartTls)))
    }

    /// STARTTLS as the policy wants it. Without it, nothing goes on that needs it: SP4.
    async fn secure(&self, mut channel: Channel, extensions: Extensions) -> Result<(Channel, Extensions), Failure> {
        let must = match self.tls {
            TlsPolicy::Never | TlsPolicy::Implicit => return Ok((channel, extensions)),
            TlsPolicy::Opportunistic => false,
            TlsPolicy::Required | TlsPolicy::Verified => true,
        };
        if !extensions.starttls {
            return if must { Err(Failure::Tls("not offered".to_owned())) } else { Ok((channel, extensions)) };
        }
        let reply = self.ask(&mut channel, "STARTTLS\r\n", Stage::StartTls).await?.reply;
        if reply.code() != 220 {
            if must {
                return Err(Failure::Tls(format!("STARTTLS refused: {reply}")));
            }
            tracing::info!(host = self.host, %reply, "STARTTLS was offered and refused; mail goes in the clear");
            return Ok((channel, extensions));
        }
        let wire = self.handshake(channel.into_wire()?, self.tls == TlsPolicy::Verified).await?;
        let mut channel = Channel::new(wire);
        let extensions = self.hello(&mut channel).await?;
        Ok((channel, extensions))
    }

    /// RFC 4954. A login that fails never becomes mail without login.
    async fn log_in(&self, channel: &mut Channel, offered: &Extensions, login: &Login) -> Result<(), Failure> {
        if !matches!(self.tls, TlsPolicy::Verified | TlsPolicy::Implicit) {
            return Err(Failure::Login("not over a connection whose certificate was verified".to_owned()));
        }
        let answers = if offered.auth_plain {
            let secret = STANDARD.encode(format!("\0{}\0{}", login.user, login.password));
            vec![format!("AUTH PLAIN {secret}\r\n")]
        } else if offered.auth_login {
            let line = |text: &str| format!("{}\r\n", STANDARD.encode(text));
            vec!["AUTH LOGIN\r\n".to_owned(), line(&login.user), line(&login.password)]
        } else {
            return Err(Failure::Login("neither AUTH PLAIN nor AUTH LOGIN is offered".to_owned()));
        };
        let last = answers.len() - 1;
        for (n, answer) in answers.iter().enumerate() {
            let reply = self.ask(channel, answer, Stage::Login).await?.reply;
            if reply.code() != if n == last { 235 } else { 334 } {
                return Err(Failure::Login(format!("refused: {reply}")));
            }
        }
        Ok(())
    }
}
