//! From the plugins' `dns` to the resolver.

use std::net::IpAddr;

use crate::dns::{self, Iprev, Resolver};
use crate::host::NameService;
use crate::host::dns::{Answer, DnsError, Lookup, Question, RecordType};
use crate::pipeline::ClientName;
use crate::smtp::Domain;

pub struct Names(pub Resolver);

impl NameService for Names {
    fn resolve(&self, question: Question) -> Lookup<'_, Result<Answer, DnsError>> {
        Box::pin(async move {
            let answer = self.answer(question).await.map_err(plain)?;
            // Of records that can't be used, such as an MX whose name no host can have, nothing is left: to a plugin,
            // which is promised that no list is empty, that is as if there were none.
            if answer.is_empty() { Err(DnsError::NotFound) } else { Ok(answer) }
        })
    }

    fn client_name(&self, client: IpAddr) -> Lookup<'_, ClientName> {
        Box::pin(async move {
            match self.0.client_name(client).await {
                Iprev::Verified(name) => ClientName::Verified(name),
                Iprev::Unconfirmed(name) => ClientName::Unconfirmed(name),
                Iprev::None => ClientName::None,
                Iprev::TemporaryFailure => ClientName::TemporaryFailure,
            }
        })
    }
}

impl Names {
    async fn answer(&self, question: Question) -> Result<Answer, dns::DnsError> {
        let name = question.name.as_str();
        Ok(match question.kind {
            RecordType::A => Answer::Addresses(self.0.ipv4(name).await?.into_iter().map(IpAddr::V4).collect()),
            RecordType::Aaaa => Answer::Addresses(self.0.ipv6(name).await?.into_iter().map(IpAddr::V6).collect()),
            RecordType::Mx => {
                let domain = Domain::parse(name).map_err(|_| dns::DnsError::BadName)?;
                let exchanges = self.0.mx(&domain).await?.into_iter();
                // RFC 7505: the null MX is the root, written as a dot.
                let host = |host: Option<Domain>| host.map_or_else(|| ".".to_owned(), |host| host.to_string());
                Answer::Exchanges(exchanges.map(|mx| (mx.preference, host(mx.host))).collect())
            }
            RecordType::Txt => Answer::Texts(self.0.txt(name).await?),
            RecordType::Ptr => {
                let address = address_of(name).ok_or(dns::DnsError::BadName)?;
                Answer::Names(self.0.names_of(address).await?.iter().map(Domain::to_string).collect())
            }
            RecordType::Ns => Answer::Names(self.0.ns(name).await?.iter().map(Domain::to_string).collect()),
            RecordType::Cname => Answer::Names(vec![self.0.cname(name).await?.to_string()]),
        })
    }
}

fn plain(error: dns::DnsError) -> DnsError {
    match error {
        error if error.is_timeout() => DnsError::TimedOut,
        dns::DnsError::NotFound => DnsError::NotFound,
        dns::DnsError::Temporary(_) => DnsError::Temporary,
        dns::DnsError::BadName => DnsError::BadName,
    }
}

/// An address, or its name under `in-addr.arpa` or `ip6.arpa`.
pub(crate) fn address_of(name: &str) -> Option<IpAddr> {
    if let Ok(address) = name.parse() {
        return Some(address);
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = labels.split('.').rev().map(|label| label.parse().ok()).collect::<Option<_>>()?;
        return <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    }
    let nibbles: String = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    let whole = nibbles.len() == 32;
    u128::from_str_radix(&nibbles, 16).ok().filter(|_| whole).map(|bits| IpAddr::from(bits.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::responder::Responder;

    #[tokio::test]
    async fn records_of_which_none_can_be_used_are_not_found() {
        let dns = Responder::start().await;
        dns.mx("useless.example", &[(10, "*.example")]).mx("null.example", &[(0, ".")]);
        dns.ptr("192.0.2.1", &["."]);
        let names = Names(dns.resolver());
        let ask = |name: &str, kind| names.resolve(Question { name: name.to_owned(), kind });
        assert_eq!(ask("useless.example", RecordType::Mx).await, Err(DnsError::NotFound));
        assert_eq!(ask("192.0.2.1", RecordType::Ptr).await, Err(DnsError::NotFound));
        let null = Answer::Exchanges(vec![(0, ".".to_owned())]);
        assert_eq!(ask("null.example", RecordType::Mx).await, Ok(null));
    }

    #[test]
    fn reverse_names_are_addresses() {
        assert_eq!(address_of("192.0.2.1"), "192.0.2.1".parse().ok());
        assert_eq!(address_of("1.2.0.192.in-addr.arpa."), "192.0.2.1".parse().ok());
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.IP6.ARPA";
        assert_eq!(address_of(v6), "2001:db8::1".parse().ok());
        for bad in ["example.com", "1.2.in-addr.arpa", "300.2.0.192.in-addr.arpa", "1.2.ip6.arpa", ""] {
            assert_eq!(address_of(bad), None, "{bad}");
        }
    }
}
