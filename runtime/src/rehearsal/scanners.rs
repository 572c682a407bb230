//! Scanners from a file: what they say of any mail, when nobody must be asked.
//!
//! ```toml
//! [clamav]
//! virus = "Some.Virus"                 # or clean = true
//! [rspamd]
//! assessment = { score = 7.5, action = "add header", symbols = { SPAMMY = 7.5 } }   # also required, subject, text
//! [slow]
//! unavailable = "it does not answer in time"
//! [small]
//! too_big = 1000                       # octets that it is given at most
//! ```
//! One that is not in it is unavailable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use crate::host::dns::Lookup;
use crate::host::scan::ScannerKind;
use crate::host::{self, Subject};
use crate::mail::evidence::{Assessment, Scanned};

#[derive(Debug, Default, Clone)]
pub struct Scanners {
    says: HashMap<String, Scanned>,
}

/// Exactly one of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    clean: Option<bool>,
    virus: Option<String>,
    assessment: Option<WrittenAssessment>,
    unavailable: Option<String>,
    too_big: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAssessment {
    score: f64,
    #[serde(default = "usual_requirement")]
    required: f64,
    action: String,
    #[serde(default)]
    symbols: BTreeMap<String, f64>,
    subject: Option<String>,
    text: Option<String>,
}

/// rspamd's own.
const fn usual_requirement() -> f64 {
    15.0
}

impl Scanners {
    /// The error says what is wrong, and of which scanner.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: HashMap<String, Written> = toml::from_str(text).map_err(|error| error.to_string())?;
        let said = written.into_iter().map(|(name, written)| match written.said() {
            Some(said) => Ok((name, said)),
            None => {
                let name = name.escape_debug();
                Err(format!("{name}: one of `clean = true`, `virus`, `assessment`, `unavailable`, `too_big`"))
            }
        });
        Ok(Self { says: said.collect::<Result<_, _>>()? })
    }
}

impl Written {
    fn said(self) -> Option<Scanned> {
        match self {
            Self { clean: Some(true), virus: None, assessment: None, unavailable: None, too_big: None } => {
                Some(Scanned::Virus(None))
            }
            Self { clean: None, virus: Some(name), assessment: None, unavailable: None, too_big: None } => {
                Some(Scanned::Virus(Some(name)))
            }
            Self { clean: None, virus: None, assessment: Some(said), unavailable: None, too_big: None } => {
                Some(Scanned::Assessment(Arc::new(said.assessment())))
            }
            Self { clean: None, virus: None, assessment: None, unavailable: Some(why), too_big: None } => {
                Some(Scanned::Unavailable(why))
            }
            Self { clean: None, virus: None, assessment: None, unavailable: None, too_big: Some(most) } => {
                Some(Scanned::TooBig(most))
            }
            _ => None,
        }
    }
}

impl WrittenAssessment {
    fn assessment(self) -> Assessment {
        let Self { score, required, action, symbols, subject, text } = self;
        let mut symbols: Vec<_> = symbols.into_iter().collect();
        symbols.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Assessment { score, required, action, symbols, subject, text }
    }
}

impl host::Scanners for Scanners {
    fn has(&self, scanner: &str, kind: ScannerKind) -> bool {
        match self.says.get(scanner) {
            Some(Scanned::Virus(_)) => kind == ScannerKind::Clamd,
            Some(Scanned::Assessment(_)) => kind == ScannerKind::Rspamd,
            Some(Scanned::TooBig(_) | Scanned::Unavailable(_)) | None => true,
        }
    }

    fn scan(&self, scanner: Arc<str>, _: Subject) -> Lookup<'_, Scanned> {
        let said =
            self.says.get(&*scanner).cloned().unwrap_or_else(|| {
                Scanned::Unavailable(format!("what {scanner} says is not in the file of --scanners"))
            });
        Box::pin(std::future::ready(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Scanners as _;

    #[test]
    fn each_scanner_says_one_thing() {
        let text = "[a]\nvirus = \"V\"\n[b]\nclean = true\n[c]\nassessment = { score = 7, action = \"x\", symbols = { L = 1, H = 2 } }\n\
            [d]\nunavailable = \"no\"\n[e]\ntoo_big = 3\n";
        let scanners = Scanners::parse(text).unwrap();
        let says = |name: &str| scanners.says[name].clone();
        assert_eq!((says("a"), says("b")), (Scanned::Virus(Some("V".to_owned())), Scanned::Virus(None)));
        assert_eq!((says("d"), says("e")), (Scanned::Unavailable("no".to_owned()), Scanned::TooBig(3)));
        let Scanned::Assessment(said) = says("c") else { panic!() };
        assert_eq!((said.score, said.required, said.symbols[0].0.as_str()), (7.0, 15.0, "H"));
        for (name, clamd, rspamd) in
            [("a", true, false), ("b", true, false), ("c", false, true), ("d", true, true), ("nobody", true, true)]
        {
            let has = |kind| scanners.has(name, kind);
            assert_eq!((has(ScannerKind::Clamd), has(ScannerKind::Rspamd)), (clamd, rspamd), "{name}");
        }
    }

    #[test]
    fn what_says_nothing_or_two_things_is_named() {
        for (text, expected) in [
            ("[a]\n", "a: one of"),
            ("[a]\nclean = false\n", "a: one of"),
            ("[a]\nvirus = \"V\"\nclean = true\n", "a: one of"),
            ("[a]\nfound = \"V\"\n", "unknown field `found`"),
            ("[a]\nassessment = { score = 1 }\n", "missing field `action`"),
        ] {
            let error = Scanners::parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
