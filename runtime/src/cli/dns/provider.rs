//! What Google and Microsoft 365 want besides (R18): their own servers out of MX, and steps in their consoles.

use super::expectation::{Expectation, Provider};
use super::finding::{Finding, Status};
use super::observation::Observation;
use super::spf;

/// `None`: the mailboxes are somewhere else.
pub(super) fn notes(expectation: &Expectation, observation: &Observation) -> Option<Finding> {
    let provider = expectation.provider()?;
    let finding = |status| Finding::new("PROVIDER", &expectation.domain, status).found([provider.name()]);
    let Ok(exchanges) = &observation.exchanges else {
        return Some(finding(Status::Ok).advising(console(provider)));
    };
    let left: Vec<String> = exchanges
        .iter()
        .filter_map(|exchange| exchange.host.as_ref())
        .filter(|host| Provider::of(host) == Some(provider))
        .map(ToString::to_string)
        .collect();
    let is_visible =
        exchanges.first().and_then(|best| best.host.as_ref()).is_some_and(|best| expectation.is_ours(best));
    if !left.is_empty() {
        let advice = format!("the change of MX is not complete: {} still gets mail past the gateway", left.join(", "));
        return Some(finding(Status::Warn).advising(advice));
    }
    if !is_visible {
        return Some(finding(Status::Warn).advising("the change of MX is not visible yet; then look into its console"));
    }
    if !sends(provider, observation) {
        let advice = format!(
            "SPF has no `include:{}`: right if all outbound mail goes through the gateway, else add it. {}",
            provider.spf(),
            console(provider)
        );
        return Some(finding(Status::Warn).advising(advice));
    }
    Some(finding(Status::Ok).advising(console(provider)))
}

/// Its servers may send for the domain.
fn sends(provider: Provider, observation: &Observation) -> bool {
    let records = observation.spf.as_deref().unwrap_or_default();
    records.iter().filter_map(|record| spf::Record::parse(record).ok()).any(|record| record.has_include(provider.spf()))
}

const fn console(provider: Provider) -> &'static str {
    match provider {
        Provider::Google => {
            "in the Admin console: Domains shows the new MX records when Google sees them; Gmail, Inbound gateway: the \
             gateway's egress addresses (`postern dns records --egress`)"
        }
        Provider::Microsoft365 => {
            "in the Exchange admin center: an inbound connector that takes mail from the gateway's egress addresses only \
             (`postern dns records --egress`), with Enhanced Filtering; the admin center shows MX as wrong, which is meant"
        }
    }
}
