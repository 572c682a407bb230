//! Who has sent a mail: SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 9989), ARC (RFC 8617). Values in, values out.
//!
//! Evaluation is our own, over our own resolver, so that cache, limits and metrics are those of all other look-ups; why not
//! that of mail-auth: `docs/decisions/0010-sender-authentication.md`.
//!
//! One distinction rules here as in `dns`: `temperror` (nobody could say) may only delay a mail. What a result says of
//! foreign text is printable ASCII and bounded.

mod arc;
mod author;
pub mod body;
pub mod canonical;
mod dkim;
mod dmarc;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod key;
mod origin;
pub mod results;
mod spf;
mod tag;

pub use author::domains as author_domains;
pub use dmarc::Inquiry as DmarcInquiry;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::dns::Resolver;
use crate::mail::Message;
use crate::mail::evidence::{ArcChain, AuthOutcome as Outcome, Dmarc, Origin, Signature, Spf, SpfIdentity};
use crate::metrics::Metrics;
use crate::smtp::{Host, ReversePath};

#[derive(Debug, Clone)]
pub struct Settings {
    /// The gateway's own name, for macros of SPF.
    pub host_name: String,
    /// By which name results are signed (RFC 8601 §2.5).
    pub service_id: Arc<str>,
    /// Clients whose `Received` fields are believed (R11).
    pub relays: Vec<IpNet>,
    /// For the look-ups of each method. RFC 7208 §4.6.4 wants at least 20 s.
    pub dns_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_name: "localhost".to_owned(),
            service_id: Arc::from("localhost"),
            relays: Vec::new(),
            dns_time: Duration::from_secs(20),
        }
    }
}

/// Who has handed a mail in, or why nobody knows.
pub type Source = Result<Origin, String>;

/// Cheap to clone. Remembers nothing but what the resolver does: each call is an evaluation of its own.
#[derive(Clone)]
pub struct Verifier {
    resolver: Resolver,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
}

impl Verifier {
    pub fn new(resolver: Resolver, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self { resolver, settings: Arc::new(settings), metrics }
    }

    pub fn service_id(&self) -> &str {
        &self.settings.service_id
    }

    /// Its mail is judged by who stood before it.
    pub fn is_relay(&self, client: IpAddr) -> bool {
        origin::is_relay(&self.settings.relays, client)
    }

    /// Of mail that this client hands over. The message as received; none before its data: then `None` where a relay's
    /// `Received` fields must be read.
    pub fn origin(&self, client: IpAddr, helo: Option<&str>, message: Option<&Message>) -> Option<Source> {
        if !self.is_relay(client) {
            let (address, helo) = (client.to_canonical(), helo.map(str::to_owned));
            return Some(Ok(Origin { address, helo, relayed: false }));
        }
        message.map(|message| origin::behind_relay(&self.settings.relays, &message.header))
    }

    /// Of the name said at HELO.
    pub async fn spf_helo(&self, source: &Source) -> Spf {
        self.spf(SpfIdentity::Helo, source, "postmaster", helo_domain(source)).await
    }

    /// Of the reverse-path; of the null one, `postmaster@` the HELO name (RFC 7208 §2.4).
    pub async fn spf_mail_from(&self, source: &Source, path: &ReversePath) -> Spf {
        let local = path.0.as_ref().map_or("postmaster", |mailbox| mailbox.local.as_str());
        self.spf(SpfIdentity::MailFrom, source, local, spf_domain(source, path)).await
    }

    async fn spf(&self, identity: SpfIdentity, source: &Source, local: &str, domain: &str) -> Spf {
        let start = Instant::now();
        let spf = match source {
            Err(fault) => spf::undecided(identity, domain, fault),
            Ok(_) if domain.is_empty() => spf::without_domain(identity),
            Ok(origin) => {
                let (client, helo) = (origin.address, origin.helo.as_deref().unwrap_or_default());
                let receiver = &self.settings.host_name;
                let question = spf::Question { identity, client, helo, local, domain, receiver };
                spf::check(&self.resolver, &question, self.settings.dns_time).await
            }
        };
        let method = if identity == SpfIdentity::Helo { "spf-helo" } else { "spf" };
        self.count(method, [spf.outcome], start);
        spf
    }

    /// The signatures of the mail as it was received, of which those that [`dkim_of`](Self::dkim_of) gave are not verified again.
    pub async fn dkim(&self, message: &Message, known: &[(usize, Signature)]) -> Vec<Signature> {
        let start = Instant::now();
        let signatures = dkim::verify(&self.resolver, message, self.settings.dns_time, known).await;
        let unsigned = signatures.is_empty().then_some(Outcome::None);
        self.count("dkim", signatures.iter().map(|signature| signature.outcome).chain(unsigned), start);
        signatures
    }

    /// Those of these domains alone, each with its place in the mail. Not counted: it is a part of what [`dkim`](Self::dkim) would find out.
    pub async fn dkim_of(&self, message: &Message, domains: impl Fn(&str) -> bool) -> Vec<(usize, Signature)> {
        dkim::verify_some(&self.resolver, message, self.settings.dns_time, domains).await
    }

    /// What DMARC will need to know, found out without verifying anything.
    pub async fn dmarc_inquiry(&self, message: &Message, source: &Source, path: &ReversePath) -> DmarcInquiry {
        let claims = dmarc::Claims { spf: spf_domain(source, path).to_owned(), dkim: dkim::claimed_domains(message) };
        dmarc::inquire(&self.resolver, &message.header, claims, self.settings.dns_time).await
    }

    /// From what was verified since; see there. The SPF check is that of the reverse-path.
    pub async fn dmarc(&self, inquiry: DmarcInquiry, spf: Option<&Spf>, signatures: &[Signature]) -> Dmarc {
        let now = Instant::now();
        let start = now.checked_sub(inquiry.spent).unwrap_or(now);
        let dmarc = inquiry.conclude(spf, signatures).await;
        self.count("dmarc", [dmarc.outcome], start);
        dmarc
    }

    /// The chain of ARC sets of the mail as it was received.
    pub async fn arc(&self, message: &Message) -> ArcChain {
        let start = Instant::now();
        let chain = arc::validate(&self.resolver, message, self.settings.dns_time).await;
        self.count("arc", [chain.outcome], start);
        chain
    }

    fn count(&self, method: &str, outcomes: impl IntoIterator<Item = Outcome>, start: Instant) {
        for outcome in outcomes {
            self.metrics.authentication.with_label_values(&[method, outcome.name()]).inc();
        }
        self.metrics.authentication_seconds.with_label_values(&[method]).observe(start.elapsed().as_secs_f64());
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Whose record speaks of the reverse-path. Empty: nobody's.
fn spf_domain<'a>(source: &'a Source, path: &'a ReversePath) -> &'a str {
    match &path.0 {
        Some(mailbox) => mailbox.domain().map_or("", |domain| domain.as_str()),
        None => helo_domain(source),
    }
}

/// RFC 7208 §2.3: an address literal has no record.
fn helo_domain(source: &Source) -> &str {
    let helo = source.as_ref().ok().and_then(|origin| origin.helo.as_deref()).unwrap_or_default();
    match Host::parse(helo) {
        Ok(Host::Literal(_)) => "",
        _ => helo,
    }
}

/// Foreign text for results, header fields and logs: what is not printable ASCII is a question mark.
fn printable(text: &str, max: usize) -> String {
    let clean = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(max).map(clean).collect()
}
