//! What there is of a sender's domain: in its name, and in DNS.

use postern_sdk::dns::{self, Answer, DnsError, Question, RecordType};

/// The form of the part behind the @.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// Two labels or more, the last one no number.
    FullyQualified,
    /// RFC 5321 §4.1.3.
    Literal,
    Other,
}

/// What DNS says of a domain. The letter is how it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has an MX, A or AAAA record.
    Exists,
    /// There is no such record, of any of the three types.
    Absent,
    /// It says that it takes no mail (RFC 7505), so no answer or bounce can reach the sender.
    NullMx,
    /// Nobody could say.
    Unknown,
}

impl Form {
    pub fn of(domain: &str) -> Self {
        match domain.rsplit_once('.') {
            _ if domain.starts_with('[') => Self::Literal,
            // A last label of digits alone is an address without its brackets.
            Some((first, last)) if !first.is_empty() && !last.bytes().all(|byte| byte.is_ascii_digit()) => {
                Self::FullyQualified
            }
            _ => Self::Other,
        }
    }
}

impl Standing {
    /// One record of one type is enough; without any, a failure outweighs an absence.
    pub fn look_up(domain: &str) -> Self {
        let questions = [RecordType::Mx, RecordType::A, RecordType::Aaaa].map(|kind| Question::new(domain, kind));
        let answers = dns::resolve_many(questions.into());
        if answers.iter().any(is_null_mx) {
            Self::NullMx
        } else if answers.iter().any(Result::is_ok) {
            Self::Exists
        } else if answers.iter().any(|answer| answer.as_ref().is_err_and(|error| error.is_temporary())) {
            Self::Unknown
        } else {
            Self::Absent
        }
    }

    pub fn letter(self) -> u8 {
        match self {
            Self::Exists => b'+',
            Self::Absent => b'-',
            Self::NullMx => b'0',
            Self::Unknown => b'?',
        }
    }

    pub fn of_letter(letter: u8) -> Option<Self> {
        [Self::Exists, Self::Absent, Self::NullMx, Self::Unknown].into_iter().find(|one| one.letter() == letter)
    }
}

/// RFC 7505 §3: one record, whose host is the root.
fn is_null_mx(answer: &Result<Answer, DnsError>) -> bool {
    matches!(answer, Ok(Answer::Exchanges(exchanges)) if matches!(exchanges.as_slice(), [only] if only.host == "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r63_forms() {
        for (domain, expected) in [
            ("example.org", Form::FullyQualified),
            ("mail.example.org", Form::FullyQualified),
            ("xn--bcher-kva.example", Form::FullyQualified),
            ("1.2.3.4a", Form::FullyQualified),
            ("[192.0.2.1]", Form::Literal),
            ("[IPv6:2001:db8::1]", Form::Literal),
            ("localhost", Form::Other),
            ("ai", Form::Other),
            ("192.0.2.1", Form::Other),
            (".org", Form::Other),
            ("", Form::Other),
        ] {
            assert_eq!(Form::of(domain), expected, "{domain:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_what_was_found() {
        for standing in [Standing::Exists, Standing::Absent, Standing::NullMx, Standing::Unknown] {
            assert_eq!(Standing::of_letter(standing.letter()), Some(standing));
        }
        assert_eq!(Standing::of_letter(b'x'), None);
    }
}
