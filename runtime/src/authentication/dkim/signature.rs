//! The field `DKIM-Signature` (RFC 6376 §3.5), which of the mail's fields it signs (§5.4), and its like in ARC.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::Outcome;
use super::super::canonical::Form;
use super::super::key::Algorithm;
use super::super::tag::{TagList, base64};
use crate::mail::{Field, Header};
use crate::smtp::Domain;

/// Clocks differ: a signature may come from a future that is not further away.
const CLOCK_SKEW: u64 = 300;

/// Why a signature can't be verified at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Fault(pub Outcome, pub String);

impl Fault {
    /// RFC 8601 §2.7.1: what has syntax errors is neutral.
    pub fn syntax(reason: impl Into<String>) -> Self {
        Self(Outcome::Neutral, reason.into())
    }
}

/// A signature with all that its verification needs.
#[derive(Debug, Clone)]
pub(in super::super) struct Parsed {
    pub algorithm: Algorithm,
    pub domain: String,
    pub selector: String,
    /// Of `i=`.
    pub identity_domain: String,
    pub header_form: Form,
    pub body_form: Form,
    /// `h=`
    pub signed: Vec<String>,
    pub body_hash: Vec<u8>,
    /// `b=`
    pub value: Vec<u8>,
    /// `l=`
    pub length: Option<u64>,
}

impl Parsed {
    /// The value of the field, unfolded; `now` in seconds since 1970.
    pub fn parse(value: &[u8], now: u64) -> Result<Self, Fault> {
        let tags =
            TagList::parse(value).map_err(|what| Fault::syntax(format!("the signature is malformed: {what}")))?;
        // §3.5: needed, so that nobody takes a later version for this one.
        if tags.find("v") != Some("1") {
            return Err(Fault::syntax("the signature is of another version"));
        }
        let mut parsed = Self::from_tags(&tags, (Form::Simple, Form::Simple))?;
        if parsed.signed.iter().any(String::is_empty) {
            return Err(Fault::syntax("h= has an empty name"));
        }
        // §5.4: without it, anybody could have written anything into it.
        if !parsed.signed.iter().any(|name| name.eq_ignore_ascii_case("From")) {
            return Err(Fault(Outcome::Permerror, "From is not signed".to_owned()));
        }
        if let Some(identity) = tags.find("i") {
            parsed.identity_domain = identity_domain(identity, &parsed.domain)?;
        }
        check_times(&tags, now)?;
        Ok(parsed)
    }

    /// What DKIM and ARC have in common. `forms`: of header and body where `c=` does not say.
    pub fn from_tags(tags: &TagList<'_>, forms: (Form, Form)) -> Result<Self, Fault> {
        let needed = |name: &str| {
            let value = tags.find(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| Fault::syntax(format!("the signature has no {name}=")))
        };
        let octets = |name: &str| {
            let octets = base64(needed(name)?).filter(|octets| !octets.is_empty());
            octets.ok_or_else(|| Fault::syntax(format!("{name}= is not Base64")))
        };
        let algorithm = parse_algorithm(needed("a")?)?;
        let (header_form, body_form) = match tags.find("c") {
            Some(value) => Form::parse_both(value).ok_or_else(|| Fault::syntax("c= names no canonical form"))?,
            None => forms,
        };
        let domain = Domain::parse(needed("d")?).map_err(|_| Fault::syntax("d= is no domain"))?;
        if tags.find("q").is_some() && !tags.list("q").any(|method| method == "dns/txt") {
            return Err(Fault::syntax("q= names no way to the key that there is"));
        }
        let length = match tags.find("l") {
            Some(digits) => Some(number(digits).ok_or_else(|| Fault::syntax("l= is no number"))?),
            None => None,
        };
        if tags.find("h").is_none() {
            return Err(Fault::syntax("the signature has no h="));
        }
        Ok(Self {
            algorithm,
            identity_domain: domain.as_str().to_owned(),
            domain: domain.as_str().to_owned(),
            selector: needed("s")?.to_owned(),
            header_form,
            body_form,
            signed: tags.list("h").map(str::to_owned).collect(),
            body_hash: octets("bh")?,
            value: octets("b")?,
            length,
        })
    }
}

pub(in super::super) fn parse_algorithm(name: &str) -> Result<Algorithm, Fault> {
    match Algorithm::parse(name) {
        Some(algorithm) => Ok(algorithm),
        // RFC 8301 §3.1.
        None if name.eq_ignore_ascii_case("rsa-sha1") => {
            Err(Fault(Outcome::Fail, "it is signed with SHA-1, which anybody can forge".to_owned()))
        }
        None => Err(Fault::syntax("it is signed in a way that is not known")),
    }
}

/// §3.5 `t=`, `x=`.
pub(in super::super) fn check_times(tags: &TagList<'_>, now: u64) -> Result<(), Fault> {
    let time = |name: &str| match tags.find(name) {
        Some(digits) => number(digits).map(Some).ok_or_else(|| Fault::syntax(format!("{name}= is no number"))),
        None => Ok(None),
    };
    let (signed, expires) = (time("t")?, time("x")?);
    if expires.zip(signed).is_some_and(|(expires, signed)| expires < signed) {
        return Err(Fault::syntax("it ends before it begins"));
    }
    if expires.is_some_and(|expires| expires < now) {
        return Err(Fault(Outcome::Fail, "the signature has expired".to_owned()));
    }
    if signed.is_some_and(|signed| signed > now + CLOCK_SKEW) {
        return Err(Fault(Outcome::Fail, "it was signed in the future".to_owned()));
    }
    Ok(())
}

/// Digits only; more of them than fit are as many as fit.
fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.len() <= 76 && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// §3.5 `i=`: the domain of `d=` or one below it.
fn identity_domain(identity: &str, domain: &str) -> Result<String, Fault> {
    let below = |text: &str| text.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let text = identity.rsplit_once('@').map(|(_, text)| text.to_ascii_lowercase());
    text.filter(|text| below(text))
        .ok_or_else(|| Fault(Outcome::Permerror, "i= is of another domain than d=".to_owned()))
}

/// The fields of a mail by their names, for many signatures.
pub(in super::super) struct Selection<'a>(HashMap<String, Vec<&'a Field>>);

impl<'a> Selection<'a> {
    pub fn new(header: &'a Header) -> Self {
        let mut fields: HashMap<String, Vec<&Field>> = HashMap::new();
        for field in header.fields() {
            fields.entry(field.name().to_ascii_lowercase()).or_default().push(field);
        }
        Self(fields)
    }

    /// §5.4.2: each name takes the lowest of its fields that is not taken yet; where none is left, it stands for nothing.
    /// `own` is the signature's own field, which is no part of it.
    pub fn canonical(&self, form: Form, names: &[String], own: Option<&Bytes>) -> Vec<u8> {
        let mut taken: HashMap<String, usize> = HashMap::new();
        let mut out = Vec::new();
        for name in names {
            let name = name.to_ascii_lowercase();
            let Some(fields) = self.0.get(&name) else { continue };
            let taken = taken.entry(name).or_default();
            let is_own = |field: &Field| own.is_some_and(|own| std::ptr::eq(own.as_ptr(), field.raw().as_ptr()));
            // Each field is looked at once, however often a hostile `h=` names it.
            while let Some(field) = fields.iter().rev().nth(*taken) {
                *taken += 1;
                if !is_own(field) {
                    form.add_field(field.raw(), &mut out);
                    break;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn parse(change: &str) -> Result<Parsed, Fault> {
        // The change goes before: a tag that is there twice would be a fault of its own.
        let whole = "v=1; a=rsa-sha256; d=Example.COM; s=sel; h=From:To; bh=YWJj; b=YWJj";
        let name = change.split_once('=').map_or("", |(name, _)| name);
        let kept = whole.split("; ").filter(|tag| tag.split_once('=').is_none_or(|(known, _)| known != name));
        let text = kept.chain((!change.is_empty()).then_some(change)).collect::<Vec<_>>().join("; ");
        Parsed::parse(text.as_bytes(), NOW)
    }

    #[test]
    fn what_can_be_verified() {
        let parsed = parse("").unwrap();
        assert_eq!((parsed.domain.as_str(), parsed.header_form, parsed.length), ("example.com", Form::Simple, None));
        assert_eq!(parse("i=joe@mail.example.com").unwrap().identity_domain, "mail.example.com");
        assert_eq!(parse("c=relaxed").unwrap().body_form, Form::Simple);
        for (change, outcome) in [
            ("v=2", Outcome::Neutral),
            ("v=", Outcome::Neutral),
            ("a=rsa-sha1", Outcome::Fail),
            ("a=rot13", Outcome::Neutral),
            ("c=loose", Outcome::Neutral),
            ("d=not a domain", Outcome::Neutral),
            ("s=", Outcome::Neutral),
            ("h=To:Subject", Outcome::Permerror),
            ("h=From::To", Outcome::Neutral),
            ("bh=%", Outcome::Neutral),
            ("b=", Outcome::Neutral),
            ("q=http", Outcome::Neutral),
            ("l=-1", Outcome::Neutral),
            ("i=joe@example.org", Outcome::Permerror),
            ("i=joe@notexample.com", Outcome::Permerror),
            ("x=999999", Outcome::Fail),
            ("t=1000301", Outcome::Fail),
            ("x=soon", Outcome::Neutral),
        ] {
            assert_eq!(parse(change).err().map(|Fault(outcome, _)| outcome), Some(outcome), "{change}");
        }
        assert!(parse("x=1000001").is_ok() && parse("l=99999999999999999999999").is_ok());
    }

    #[test]
    fn fields_are_taken_from_below_and_never_twice() {
        let header = Header::parse(&Bytes::from_static(b"X: 1\r\nY: 2\r\nx: 3\r\nZ: 4\r\n"));
        let names = |text: &str| text.split(':').map(str::to_owned).collect::<Vec<_>>();
        let selection = Selection::new(&header);
        let own = header.first("Y").map(Field::raw);
        assert_eq!(selection.canonical(Form::Relaxed, &names("x:X:x:y:q"), own), b"x:3\r\nx:1\r\n");
    }
}
