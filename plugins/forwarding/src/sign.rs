//! By what a mail is known that a mailbox has passed on by itself: what servers write into it.
//!
//! There is no standard for it, and a server may write nothing at all; then only who is in `From` and where the mail has been
//! tells, if it is known whose mail may come this way.

use postern_sdk::ReadError;
use postern_sdk::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `Auto-Submitted: auto-forwarded`; `Autoforwarded: true`, from X.400 (RFC 2156), and its relatives.
    Declared,
    /// Rules and forwarding addresses of Exchange and Microsoft 365.
    Exchange,
    /// Gmail, and those who do as it does: `X-Forwarded-For`, `X-Forwarded-To`.
    ForwardedFor,
    /// Sieve's redirect as Dovecot does it.
    Sieve,
    /// Sent again (RFC 5322 §3.6.6) by somebody in another domain than the author.
    Resent,
    /// It has been delivered to a mailbox of one of our own domains.
    Delivered,
    /// Nobody of our own domains has written it, and it has come a long way.
    Author,
}

/// What was found, and whose mailbox has forwarded it, where the mail says that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    pub kind: Kind,
    pub forwarder: Option<Address>,
}

/// Fields of one name that are looked at.
const MAX_FIELDS: usize = 20;
/// Octets of a field.
const MAX_VALUE: usize = 4096;

/// `Received` fields of a mail from outside: our own, that of the client's server, and that of the sender's own one. What a
/// user has handed to the client's server has two.
const LONG_WAY: usize = 3;

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Declared, Self::Exchange, Self::ForwardedFor, Self::Sieve, Self::Resent, Self::Delivered, Self::Author];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Exchange => "exchange",
            Self::ForwardedFor => "forwarded-for",
            Self::Sieve => "sieve",
            Self::Resent => "resent",
            Self::Delivered => "delivered",
            Self::Author => "author",
        }
    }

    pub const fn metric(self) -> &'static str {
        match self {
            Self::ForwardedFor => "forwarded_for",
            _ => self.name(),
        }
    }

    /// `own`: the domains of those who send through here.
    pub fn look(self, message: &Message, own: &[Pattern]) -> Result<Option<Sign>, ReadError> {
        let found = |forwarder| Some(Sign { kind: self, forwarder });
        let is_own = |address: &Address| own.iter().any(|pattern| pattern.matches(address));
        Ok(match self {
            Self::Declared => is_declared(message)?.then_some(Sign { kind: self, forwarder: None }),
            Self::Exchange => by_exchange(message)?.and_then(found),
            Self::ForwardedFor => {
                let mut values = texts(message, "X-Forwarded-For")?;
                values.extend(texts(message, "X-Forwarded-To")?);
                let with_mailbox = values.iter().find_map(|value| first_mailbox(value));
                with_mailbox.and_then(|mailbox| found(Some(mailbox)))
            }
            Self::Sieve => {
                let values = texts(message, "X-Sieve-Redirected-From")?;
                values.first().and_then(|value| found(first_mailbox(value)))
            }
            Self::Resent => {
                let by = texts(message, "Resent-From")?.iter().find_map(|value| first_mailbox(value));
                let author = texts(message, "From")?.iter().find_map(|value| first_mailbox(value));
                let foreign =
                    |by: &Address| author.is_none_or(|author| !author.domain.eq_ignore_ascii_case(&by.domain));
                by.filter(foreign).and_then(|by| found(Some(by)))
            }
            Self::Delivered => {
                let mailboxes = texts(message, "Delivered-To")?;
                let own = mailboxes.iter().filter_map(|value| first_mailbox(value)).find(is_own);
                own.and_then(|mailbox| found(Some(mailbox)))
            }
            Self::Author => {
                let authors: Vec<_> = texts(message, "From")?.iter().filter_map(|value| first_mailbox(value)).collect();
                let foreign = !own.is_empty() && !authors.is_empty() && !authors.iter().any(is_own);
                if foreign && message.header("Received")?.len() >= LONG_WAY { found(None) } else { None }
            }
        })
    }
}

fn is_declared(message: &Message) -> Result<bool, ReadError> {
    if texts(message, "Auto-Submitted")?.iter().any(|value| keyword(value) == "auto-forwarded") {
        return Ok(true);
    }
    for name in ["Autoforwarded", "X-Autoforward", "X-Autoforwarded", "X-MS-Exchange-Organization-AutoForwarded"] {
        if texts(message, name)?.iter().any(|value| matches!(keyword(value).as_str(), "true" | "yes" | "1")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Exchange marks automatic replies with the same fields, so these are left out: they say `Auto-Submitted`, and that no reply is wanted.
fn by_exchange(message: &Message) -> Result<Option<Option<Address>>, ReadError> {
    let mut loops = texts(message, "X-MS-Exchange-ForwardingLoop")?;
    if let Some(mailbox) = loops.pop() {
        return Ok(Some(first_mailbox(&mailbox)));
    }
    let rules = texts(message, "X-MS-Exchange-Inbox-Rules-Loop")?;
    let made = texts(message, "X-MS-Exchange-Generated-Message-Source")?;
    let by_rule = made.iter().any(|value| value.trim().eq_ignore_ascii_case("Mailbox Rules Agent"));
    if rules.is_empty() && !by_rule || is_auto_reply(message)? {
        return Ok(None);
    }
    Ok(Some(rules.first().and_then(|value| first_mailbox(value))))
}

fn is_auto_reply(message: &Message) -> Result<bool, ReadError> {
    let words: Vec<_> = texts(message, "Auto-Submitted")?.iter().map(|value| keyword(value)).collect();
    let generated = words.iter().any(|word| word == "auto-generated");
    let silent = generated && !message.header("X-Auto-Response-Suppress")?.is_empty();
    Ok(words.iter().any(|word| word == "auto-replied") || silent)
}

fn texts(message: &Message, name: &str) -> Result<Vec<String>, ReadError> {
    let text = |value: Vec<u8>| {
        let start = value.get(..MAX_VALUE).unwrap_or(&value);
        start.iter().map(|&octet| if octet.is_ascii() { char::from(octet) } else { '?' }).collect()
    };
    Ok(message.header(name)?.into_iter().take(MAX_FIELDS).map(text).collect())
}

/// The word before parameters and comments (RFC 3834 §5), in lower case.
fn keyword(value: &str) -> String {
    value.split([';', '(']).next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The first mailbox in a field: in angle brackets, else a word with an @.
fn first_mailbox(value: &str) -> Option<Address> {
    let bracketed = value.split('<').skip(1).filter_map(|rest| rest.split('>').next());
    let words = value.split(|c: char| c.is_ascii_whitespace() || ",;<>()\"".contains(c));
    bracketed.chain(words).find_map(|word| word.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes() {
        for (value, expected) in [
            ("ann@example.org", Some("ann@example.org")),
            ("Ann <ann@example.org>", Some("ann@example.org")),
            ("\"x@y.example\" <ann@example.org>", Some("ann@example.org")),
            ("ann@example.org bob@example.com", Some("ann@example.org")),
            ("ann@example.org;0a1b-2c", Some("ann@example.org")),
            ("203.0.113.5", None),
            ("<>", None),
            ("@", None),
            ("", None),
        ] {
            assert_eq!(first_mailbox(value).map(|mailbox| mailbox.to_string()).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn keywords() {
        for (value, expected) in [
            ("Auto-Forwarded", "auto-forwarded"),
            ("auto-forwarded; owner=x", "auto-forwarded"),
            (" auto-replied (vacation)", "auto-replied"),
            ("", ""),
        ] {
            assert_eq!(keyword(value), expected);
        }
    }
}
