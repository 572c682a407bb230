//! `[identity]` and `[[blocklist]]`: what tenants publish in DNS for us, and who says whether our addresses are in bad repute.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Checker, HOUR};
use crate::config::settings::{Delivery, Identity, MailExchange};
use crate::config::source::Span;
use crate::config::value::At;
use crate::config::written;
use crate::dns::blocklist::{BlockList, Subjects, is_code};
use crate::smtp::Domain;

/// Between MX records whose preference is not written.
const PREFERENCE_STEP: u16 = 10;
/// RFC 7208 §4.6.4 allows a record ten look-ups, and customers need some of them.
const MAX_SPF: usize = 10;

impl Checker<'_> {
    /// `None` only without a host name, which is a mistake already.
    pub(super) fn identity(
        &mut self,
        written: written::Identity,
        lists: Vec<written::Blocklist>,
        host_name: Option<&Domain>,
        delivery: &Delivery,
    ) -> Option<Identity> {
        let blocklists = self.blocklists(lists);
        let mut mx = self.exchanges(written.mx);
        let egress = self.egress(&written.egress_addresses, &delivery.source_addresses);
        if let Some(at) = written.spf.get(MAX_SPF) {
            self.findings.error(Some(at.span), format!("more than {MAX_SPF} mechanisms do not fit into a record"));
        }
        let mut spf: Vec<String> = written.spf.into_iter().map(|at| at.value.0).collect();
        let host_name = host_name?;
        if mx.is_empty() {
            mx.push(MailExchange { preference: PREFERENCE_STEP, host: host_name.clone() });
        }
        if spf.is_empty() {
            spf = own_mechanisms(&egress, host_name);
        }
        let blocklist_interval = self.interval(written.blocklist_interval);
        if blocklist_interval.is_some() && blocklists.is_empty() {
            self.findings.push_warning(None, "`blocklist_interval` does nothing without a [[blocklist]]".to_owned());
        }
        let dmarc_reports = written.dmarc_reports.map(|at| at.value);
        Some(Identity { mx, egress, spf, dmarc_reports, blocklists, blocklist_interval })
    }

    /// Zero: never.
    fn interval(&mut self, written: Option<At<Duration>>) -> Option<Duration> {
        let at = written.filter(|at| !at.value.is_zero())?;
        if at.value < HOUR {
            self.findings
                .push_error(Some(at.span), "block lists must not be asked more often than once an hour".to_owned())
                .help("their operators count the questions");
        }
        Some(at.value)
    }

    fn exchanges(&mut self, written: Vec<toml::Spanned<written::Exchange>>) -> Vec<MailExchange> {
        let mut exchanges: Vec<MailExchange> = Vec::new();
        let mut place = 0_u16;
        for exchange in written {
            let span: Span = exchange.span().into();
            place = place.saturating_add(PREFERENCE_STEP);
            let (host, preference) = match exchange.into_inner() {
                written::Exchange::Short(host) => (host, None),
                written::Exchange::Table(table) => (table.host.value, table.preference),
            };
            if exchanges.iter().any(|known| known.host == host) {
                self.findings.error(Some(span), format!("`{host}` is there twice"));
            }
            exchanges.push(MailExchange { preference: preference.map_or(place, |preference| preference.0), host });
        }
        exchanges.sort_by_key(|exchange| exchange.preference);
        exchanges
    }

    /// What is written, else the source addresses as far as others can see them.
    fn egress(&mut self, written: &[At<IpAddr>], source: &[IpAddr]) -> Vec<IpAddr> {
        for at in written.iter().filter(|at| !is_public(at.value)) {
            self.findings
                .push_warning(Some(at.span), format!("others do not see mail come from {}", at.value))
                .help("write the public address behind which this host stands");
        }
        let mut addresses: Vec<IpAddr> = match written {
            [] => source.iter().copied().filter(|address| is_public(*address)).collect(),
            written => written.iter().map(|at| at.value).collect(),
        };
        addresses.iter_mut().for_each(|address| *address = address.to_canonical());
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn blocklists(&mut self, written: Vec<written::Blocklist>) -> Vec<Arc<BlockList>> {
        self.declared("block list", written.iter().map(|list| &list.name));
        let mut lists = Vec::new();
        for list in written {
            for code in list.codes.iter().filter(|code| !is_code(&code.value)) {
                self.findings
                    .push_error(Some(code.span), format!("{} is no answer of a block list", code.value))
                    .help("those are in 127.0.0.0/8, and 127.255.255.0/24 is for errors");
            }
            lists.push(Arc::new(BlockList {
                name: list.name.value.0,
                zone: list.zone.value,
                subjects: list.lists.map_or(Subjects::Addresses, |at| at.value),
                codes: list.codes.into_iter().map(|at| at.value).collect(),
            }));
        }
        lists
    }
}

fn own_mechanisms(egress: &[IpAddr], host_name: &Domain) -> Vec<String> {
    if egress.is_empty() || egress.len() > MAX_SPF {
        return vec![format!("a:{host_name}")];
    }
    let mechanism = |address: &IpAddr| match address {
        IpAddr::V4(four) => format!("ip4:{four}"),
        IpAddr::V6(six) => format!("ip6:{six}"),
    };
    egress.iter().map(mechanism).collect()
}

/// As far as it can be told from the address alone: it is in no range for private use (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(four) => {
            let [a, b, ..] = four.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            !(four.is_private()
                || four.is_loopback()
                || four.is_link_local()
                || four.is_unspecified()
                || four.is_multicast()
                || shared)
        }
        IpAddr::V6(six) => {
            !(six.is_loopback()
                || six.is_unspecified()
                || six.is_unique_local()
                || six.is_unicast_link_local()
                || six.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_see() {
        for (address, public) in [
            ("192.0.2.1", true),
            ("10.1.2.3", false),
            ("192.168.0.1", false),
            ("127.0.0.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("2001:db8::1", true),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn r26_without_mechanisms_it_is_the_addresses_or_the_host() {
        let host = Domain::parse("mx.example.net").unwrap();
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            own_mechanisms(&addresses(&["192.0.2.1", "2001:db8::1"]), &host),
            ["ip4:192.0.2.1", "ip6:2001:db8::1"]
        );
        assert_eq!(own_mechanisms(&[], &host), ["a:mx.example.net"]);
        assert_eq!(own_mechanisms(&[[192, 0, 2, 1].into(); 11], &host), ["a:mx.example.net"]);
    }
}
