//! Look-ups of names that need be no host's: in the targets of SPF (RFC 7208 §7) any visible octet stands for itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{DnsError, Resolver, ipv4_in, ipv6_in, text_in};

/// A name as it stands in a question: labels between dots, nothing escaped, nothing converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiteralName(Name);

impl LiteralName {
    /// One trailing dot is dropped. `BadName`: an empty label, one of more than 63 octets, more than 255 in all.
    pub fn parse(text: &str) -> Result<Self, DnsError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(DnsError::BadName);
        }
        let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).map_err(|_| DnsError::BadName)?;
        name.set_fqdn(true);
        Ok(Self(name))
    }
}

impl Resolver {
    pub async fn literal_ipv4(&self, name: &LiteralName) -> Result<Vec<Ipv4Addr>, DnsError> {
        self.ask(Ok(name.0.clone()), RecordType::A, ipv4_in).await
    }

    pub async fn literal_ipv6(&self, name: &LiteralName) -> Result<Vec<Ipv6Addr>, DnsError> {
        self.ask(Ok(name.0.clone()), RecordType::AAAA, ipv6_in).await
    }

    pub async fn literal_txt(&self, name: &LiteralName) -> Result<Vec<Vec<u8>>, DnsError> {
        self.ask(Ok(name.0.clone()), RecordType::TXT, text_in).await
    }

    /// The hosts of all MX records, best first; a null MX (RFC 7505) is none of them.
    pub async fn literal_mx(&self, name: &LiteralName) -> Result<Vec<LiteralName>, DnsError> {
        let pick = |data: &RData| match data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.clone())),
            _ => None,
        };
        let mut hosts = self.ask(Ok(name.0.clone()), RecordType::MX, pick).await?;
        hosts.sort_by_key(|(preference, _)| *preference);
        Ok(hosts.into_iter().filter(|(_, host)| !host.is_root()).map(|(_, host)| LiteralName(host)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::responder::Responder;

    #[tokio::test]
    async fn any_octet_stands_for_itself() {
        let dns = Responder::start().await;
        let asked = LiteralName::parse("a%b c:d/e.example.").unwrap();
        dns.a(asked.0.to_ascii().trim_end_matches('.'), &["192.0.2.1"]);
        assert_eq!(dns.resolver().literal_ipv4(&asked).await.unwrap().len(), 1);
        let long = format!("{}.example", "a".repeat(64));
        let longer = vec!["a".repeat(60); 5].join(".");
        for bad in ["", ".", "a..example", "example..", &long, &longer] {
            assert_eq!(LiteralName::parse(bad), Err(DnsError::BadName), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_without_addresses_exists() {
        let dns = Responder::start().await;
        dns.mx("example.org", &[(10, "mx.example.org")]);
        let resolver = dns.resolver();
        assert_eq!(
            (resolver.exists("example.org").await, resolver.exists("none.example").await),
            (Ok(true), Ok(false))
        );
        // From the cache, too.
        assert_eq!(
            (resolver.exists("example.org").await, resolver.exists("none.example").await),
            (Ok(true), Ok(false))
        );
        assert_eq!(resolver.ipv4("example.org").await, Err(DnsError::NotFound));
    }
}
