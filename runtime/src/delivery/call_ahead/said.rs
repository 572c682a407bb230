//! What a reply to RCPT says of the mailbox: one table, of codes and enhanced status codes alone. What stands in the text is in
//! any language and decides nothing.

use crate::smtp::{Enhanced, Reply};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Exists,
    /// There is no such mailbox, or none that mail may go to.
    Unknown(Reply),
    /// For good, and not whether the mailbox is meant or whoever asks.
    Refused(Reply),
    /// We may not send to it, or not now.
    Unavailable(String),
}

impl Said {
    pub(super) fn of(reply: Reply) -> Self {
        match (reply.class(), reply.enhanced()) {
            (2, _) => Self::Exists,
            // RFC 3463 §3.2: X.1.7 and X.1.8 are about the sender's address, the others about the recipient's.
            (5, Some(Enhanced { subject: 1, detail })) if !matches!(detail, 7 | 8) => Self::Unknown(reply),
            // What Exchange Online says of a mailbox that its directory does not have; no answer from a host, which it means
            // in RFC 3463 §3.5, can't be what a host says of itself.
            (5, Some(Enhanced { subject: 4, detail: 1 })) if reply.code() == 550 => Self::Unknown(reply),
            // RFC 3463 §3.1: X.0.z says no more than the code. RFC 5321 §4.2.3: mailbox unavailable, user not local, mailbox
            // name not allowed; but also how servers without enhanced codes say that they relay for nobody.
            (5, Some(Enhanced { subject: 0, .. }) | None) if matches!(reply.code(), 550 | 551 | 553) => {
                Self::Refused(reply)
            }
            _ => Self::Unavailable(reply.to_string()),
        }
    }

    #[cfg(test)]
    const fn label(&self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Unknown(_) => "unknown",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x9_what_replies_say_of_a_mailbox() {
        for (code, status, expected) in [
            (250, Some((1, 5)), "exists"),
            (251, None, "exists"),
            (252, Some((5, 2)), "exists"),
            (550, Some((1, 1)), "unknown"),
            (550, Some((1, 10)), "unknown"),
            (553, Some((1, 3)), "unknown"),
            (550, Some((4, 1)), "unknown"),
            (550, Some((0, 0)), "refused"),
            (550, None, "refused"),
            (551, None, "refused"),
            (553, None, "refused"),
            // The sender, us, the state of the mailbox or of the server.
            (550, Some((1, 7)), "unavailable"),
            (550, Some((1, 8)), "unavailable"),
            (550, Some((7, 1)), "unavailable"),
            (554, Some((7, 1)), "unavailable"),
            (554, Some((4, 1)), "unavailable"),
            // Disabled; but some say it of one that gets too much mail just now.
            (550, Some((2, 1)), "unavailable"),
            (552, Some((2, 2)), "unavailable"),
            (554, Some((0, 0)), "unavailable"),
            (554, None, "unavailable"),
            (552, None, "unavailable"),
            (503, Some((5, 1)), "unavailable"),
            (450, Some((1, 1)), "unavailable"),
            (451, None, "unavailable"),
            (452, Some((5, 3)), "unavailable"),
        ] {
            let status = status.map(|(subject, detail)| Enhanced::new(subject, detail));
            assert_eq!(Said::of(Reply::new(code, status, "x")).label(), expected, "{code} {status:?}");
        }
    }
}
