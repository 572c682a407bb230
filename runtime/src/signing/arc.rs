//! The ARC set of this gateway (RFC 8617 §4, §5.1): what it found, a signature over the mail, a seal over the chain.

use super::authres::{own_results, result_of};
use super::dkim::signed_fields;
use super::tags::Tags;
use super::{KeyError, Named, Policy};
use crate::authentication::canonical::Form;
use crate::mail::{Field, Header};

/// RFC 8617 §4.2.1.
const MAX_INSTANCE: u32 = 50;
/// The fields of a set, in the order in which a seal covers them (§5.1.1).
const RESULTS: &str = "ARC-Authentication-Results";
const SIGNATURE: &str = "ARC-Message-Signature";
const SEAL: &str = "ARC-Seal";

/// Why there is no seal of ours on a mail that was to have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsealed {
    /// The newest seal says that the chain is broken (§5.1: whoever sees that adds nothing).
    Failed,
    /// There are 50 sets.
    Full,
    /// It has been sealed by this gateway, as somebody else asked.
    Sealed,
    /// There is a chain, and nothing of ours says whether it holds.
    Unverified,
}

impl Unsealed {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "chain-failed",
            Self::Full => "chain-full",
            Self::Sealed => "sealed-already",
            Self::Unverified => "chain-unverified",
        }
    }
}

/// What our seal says of the chain before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validation {
    None,
    Pass,
    Fail,
}

impl Validation {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
        }
    }
}

/// The sets that a mail has come with.
struct Chain<'a> {
    /// By instance from 1 on, each complete; meaningless when it is broken.
    sets: Vec<[&'a Field; 3]>,
    /// 0: there is none.
    highest: u32,
    /// Something is missing, twice there, or can't be read.
    broken: bool,
    /// The newest seal says `cv=fail`.
    failed: bool,
}

/// The three fields in the order in which they are put on top, the seal last; or why there are none.
pub(super) fn set(
    header: &Header,
    body_hash: &str,
    by: &Named<'_>,
    policy: &Policy,
    now: u64,
) -> Result<Result<[Field; 3], Unsealed>, KeyError> {
    // Not over `Authentication-Results`, which are removed on the way, nor over ARC's own fields (§4.1.2, §5.1.1).
    set_over(signed_fields(header, &["DKIM-Signature"]), header, body_hash, by, policy, now)
}

/// `signed`: the names of the fields that the signature covers, and these fields in their canonical form.
fn set_over(
    signed: (Vec<&str>, Vec<u8>),
    header: &Header,
    body_hash: &str,
    by: &Named<'_>,
    policy: &Policy,
    now: u64,
) -> Result<Result<[Field; 3], Unsealed>, KeyError> {
    let chain = Chain::read(header);
    let found = own_results(header, &policy.service_id);
    let validation = match chain.judge(result_of(&found, "arc")) {
        Ok(validation) => validation,
        Err(why) => return Ok(Err(why)),
    };
    let instance = (chain.highest + 1).to_string();
    let results = results(&instance, &policy.service_id, &found);
    let signature = signature(signed, &instance, body_hash, by, policy.timestamp.then_some(now))?;
    let mut covered = Vec::new();
    // §5.1.2: over a broken chain nothing could be said but that it is broken.
    if validation == Validation::Pass {
        chain.sets.iter().flatten().for_each(|field| Form::Relaxed.add_field(field.raw(), &mut covered));
    }
    Form::Relaxed.add_field(results.raw(), &mut covered);
    Form::Relaxed.add_field(signature.raw(), &mut covered);
    let seal = Tags::new(SEAL)
        .tag("i", &instance)
        .tag("a", by.key.algorithm().name())
        .tag("cv", validation.name())
        .tag("d", by.domain.as_str())
        .tag("s", by.selector.as_str())
        .number("t", policy.timestamp.then_some(now))
        .signed(covered, by.key)?;
    Ok(Ok([results, signature, seal]))
}

/// §4.1.1: the instance, then what an `Authentication-Results` field holds.
fn results(instance: &str, service_id: &str, found: &[String]) -> Field {
    let nothing = ["none".to_owned()];
    let write = |found: &[String]| Field::new(RESULTS, &format!("i={instance}; {service_id}; {}", found.join("; ")));
    // Ours was a field before; one that can't be one again says nothing.
    write(if found.is_empty() { &nothing } else { found })
        .or_else(|_| write(&nothing))
        .unwrap_or_else(|_| Field::from_raw(format!("{RESULTS}: i={instance}; invalid; none\r\n").into()))
}

/// §4.1.2: as a DKIM signature.
fn signature(
    (names, before): (Vec<&str>, Vec<u8>),
    instance: &str,
    body_hash: &str,
    by: &Named<'_>,
    time: Option<u64>,
) -> Result<Field, KeyError> {
    Tags::new(SIGNATURE)
        .tag("i", instance)
        .tag("a", by.key.algorithm().name())
        .tag("c", "relaxed/relaxed")
        .tag("d", by.domain.as_str())
        .tag("s", by.selector.as_str())
        .number("t", time)
        .list("h", &names)
        .tag("bh", body_hash)
        .signed(before, by.key)
}

impl<'a> Chain<'a> {
    fn read(header: &'a Header) -> Self {
        let mut slots: Vec<[Option<&Field>; 3]> = Vec::new();
        let mut broken = false;
        for (place, name) in [RESULTS, SIGNATURE, SEAL].into_iter().enumerate() {
            for field in header.named(name) {
                let Some(instance) = instance(field) else {
                    broken = true;
                    continue;
                };
                let at = usize::try_from(instance - 1).unwrap_or(usize::MAX);
                while slots.len() <= at {
                    slots.push([None; 3]);
                }
                let slot = slots.get_mut(at).and_then(|set| set.get_mut(place));
                broken |= slot.is_none_or(|slot| slot.replace(field).is_some());
            }
        }
        let failed = slots.last().and_then(|[_, _, seal]| *seal).is_some_and(says_failed);
        let highest = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let whole = |set: &[Option<&'a Field>; 3]| match *set {
            [Some(results), Some(signature), Some(seal)] => Some([results, signature, seal]),
            _ => None,
        };
        let sets: Option<Vec<_>> = slots.iter().map(whole).collect();
        Self { broken: broken || sets.is_none(), sets: sets.unwrap_or_default(), highest, failed }
    }

    /// `found`: what verification has said of the mail as it came.
    fn judge(&self, found: Option<&str>) -> Result<Validation, Unsealed> {
        if self.failed {
            return Err(Unsealed::Failed);
        }
        if self.highest >= MAX_INSTANCE {
            return Err(Unsealed::Full);
        }
        match found {
            _ if self.broken => Ok(Validation::Fail),
            _ if self.highest == 0 => Ok(Validation::None),
            Some(word) if word.eq_ignore_ascii_case("pass") => Ok(Validation::Pass),
            Some(word) if word.eq_ignore_ascii_case("fail") => Ok(Validation::Fail),
            // `temperror`, or nobody has looked: a seal would either vouch for what may be forged or end a good chain.
            _ => Err(Unsealed::Unverified),
        }
    }
}

/// `i=`, 1 to 50.
fn instance(field: &Field) -> Option<u32> {
    let value = tag(field, "i")?;
    let digits = (1..=2).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|instance| digits && (1..=MAX_INSTANCE).contains(instance))
}

fn says_failed(seal: &Field) -> bool {
    tag(seal, "cv").is_some_and(|value| value.eq_ignore_ascii_case("fail"))
}

/// The value of a tag (RFC 6376 §3.2). Of results only the first part is a tag.
fn tag(field: &Field, name: &str) -> Option<String> {
    let value = field.value();
    value.split(|&octet| octet == b';').find_map(|part| {
        let (key, value) = std::str::from_utf8(part).ok()?.split_once('=')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod suite;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn header(raw: &str) -> Header {
        Header::parse(&Bytes::copy_from_slice(raw.as_bytes()))
    }

    fn fields(instances: std::ops::RangeInclusive<u32>) -> String {
        let one = |i: u32| {
            format!(
                "ARC-Seal: a=rsa-sha256; i={i}; cv=pass; b=x\r\nARC-Message-Signature: i={i};\r\n b=x\r\n\
                 ARC-Authentication-Results: i={i}; x; none\r\n"
            )
        };
        instances.rev().map(one).collect()
    }

    #[test]
    fn what_is_said_of_a_chain() {
        let broken = |raw: &str| fields(1..=2) + raw;
        for (raw, found, expected) in [
            (String::new(), None, Ok(Validation::None)),
            (String::new(), Some("none"), Ok(Validation::None)),
            (fields(1..=2), Some("pass"), Ok(Validation::Pass)),
            (fields(1..=2), Some("Fail"), Ok(Validation::Fail)),
            (fields(1..=2), Some("temperror"), Err(Unsealed::Unverified)),
            (fields(1..=2), Some("none"), Err(Unsealed::Unverified)),
            (fields(1..=2), None, Err(Unsealed::Unverified)),
            (fields(1..=49), Some("pass"), Ok(Validation::Pass)),
            (fields(1..=50), Some("pass"), Err(Unsealed::Full)),
            (fields(1..=2).replace("i=2; cv=pass", "i=2; cv= fail "), Some("fail"), Err(Unsealed::Failed)),
            // An older one does not say it of the chain; who verifies has.
            (fields(1..=2).replace("i=1; cv=pass", "i=1; cv=fail"), Some("fail"), Ok(Validation::Fail)),
            // Out of order, twice there, unreadable: broken, whatever was said.
            (fields(2..=2), Some("pass"), Ok(Validation::Fail)),
            (broken("ARC-Seal: i=1; cv=none\r\n"), Some("pass"), Ok(Validation::Fail)),
            (broken("ARC-Seal: i=3; cv=pass\r\n"), Some("pass"), Ok(Validation::Fail)),
            (broken("ARC-Seal: i=0; cv=pass\r\n"), Some("pass"), Ok(Validation::Fail)),
            (broken("ARC-Seal: i=51; cv=pass\r\n"), Some("pass"), Ok(Validation::Fail)),
            (broken("ARC-Seal: i=+3; cv=pass\r\n"), Some("pass"), Ok(Validation::Fail)),
            (broken("ARC-Seal: \r\n"), Some("pass"), Ok(Validation::Fail)),
        ] {
            let header = header(&raw);
            let chain = Chain::read(&header);
            assert_eq!(chain.judge(found), expected, "{found:?}\n{raw}");
        }
    }

    #[test]
    fn results_that_make_no_field_are_left_out() {
        let word = "x".repeat(2000);
        for (found, expected) in [
            (vec![], "i=2; mx; none"),
            (vec!["arc=pass".to_owned(), "spf=none".to_owned()], "i=2; mx; arc=pass; spf=none"),
            (vec![word], "i=2; mx; none"),
            (vec!["x\0y".to_owned()], "i=2; mx; none"),
        ] {
            assert_eq!(results("2", "mx", &found).value(), expected.as_bytes());
        }
    }
}
