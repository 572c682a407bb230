//! What DNS says of the gateway itself: hosts that MX records lead to, and names of the addresses from which mail leaves.

use super::expectation::Gateway;
use super::finding::{Finding, Status};
use super::observation::{Answer, GatewayObservation, HostObservation};
use crate::dns::{DnsError, Iprev};
use std::net::IpAddr;

pub(super) fn compare(gateway: &Gateway, observation: &GatewayObservation) -> Vec<Finding> {
    let mut findings: Vec<Finding> = observation.hosts.iter().map(host).collect();
    findings.push(hello(gateway, observation));
    findings.extend(observation.egress.iter().map(|(address, name)| egress(gateway, *address, name)));
    findings
}

fn host(observed: &HostObservation) -> Finding {
    let name = &observed.host;
    let addresses = match &observed.addresses {
        Ok(addresses) => addresses,
        Err(error) => return no_address("A/AAAA", name.as_str(), error, "MX records lead here: publish its addresses"),
    };
    match &observed.alias {
        // RFC 2181 §10.3.
        Ok(target) => Finding::new("A/AAAA", name, Status::Warn)
            .found([format!("alias of {target}")])
            .advising("an MX record must not lead to an alias: give the host addresses of its own"),
        Err(_) => Finding::new("A/AAAA", name, Status::Ok).found(addresses),
    }
}

fn no_address(record: &'static str, name: &str, error: &DnsError, advice: &str) -> Finding {
    match error {
        DnsError::Temporary(_) => Finding::unknown(record, name, error),
        DnsError::NotFound | DnsError::BadName => Finding::new(record, name, Status::Missing).advising(advice),
    }
}

/// RFC 5321 §4.1.4, R44: the name with which the gateway says hello is its own.
fn hello(gateway: &Gateway, observation: &GatewayObservation) -> Finding {
    let (record, name) = ("EHLO", gateway.host_name.as_str());
    let addresses: &Answer<Vec<IpAddr>> = &observation.host_name;
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(error) => return no_address(record, name, error, "other servers refuse a host name without an address"),
    };
    let strange: Vec<String> =
        gateway.egress.iter().filter(|egress| !addresses.contains(egress)).map(ToString::to_string).collect();
    if strange.is_empty() {
        return Finding::new(record, name, Status::Ok).found(addresses);
    }
    Finding::new(record, name, Status::Warn).found(addresses).expecting(&gateway.egress).advising(format!(
        "mail leaves from {} too: some servers want EHLO name and address to match",
        strange.join(", ")
    ))
}

/// PTR, and whether the name leads back (FCrDNS).
fn egress(gateway: &Gateway, address: IpAddr, name: &Iprev) -> Finding {
    let finding = |status| Finding::new("PTR", address, status);
    let expected = [gateway.host_name.as_str()];
    match name {
        Iprev::Verified(name) if *name == gateway.host_name => finding(Status::Ok).found([name]),
        Iprev::Verified(name) => finding(Status::Warn)
            .found([name])
            .expecting(expected)
            .advising("the name leads back to the address, but is not the one that the gateway says in EHLO"),
        Iprev::Unconfirmed(name) => finding(Status::Wrong)
            .found([name])
            .expecting(expected)
            .advising("the name does not lead back to the address: many servers refuse its mail"),
        Iprev::None => finding(Status::Missing)
            .expecting(expected)
            .advising("the address has no name: ask its provider for this PTR record; many servers refuse its mail"),
        Iprev::TemporaryFailure => {
            let error = DnsError::Temporary("its name could not be looked up".to_owned());
            Finding::unknown("PTR", address, &error).expecting(expected)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::MailExchange;
    use crate::smtp::Domain;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn gateway() -> Gateway {
        Gateway {
            host_name: domain("mx.example.net"),
            mx: vec![MailExchange { preference: 10, host: domain("mx.example.net") }],
            egress: vec![[192, 0, 2, 25].into()],
        }
    }

    #[test]
    fn r31_names_of_the_egress_addresses() {
        let address: IpAddr = [192, 0, 2, 25].into();
        for (name, status) in [
            (Iprev::Verified(domain("mx.example.net")), Status::Ok),
            (Iprev::Verified(domain("host25.isp.example")), Status::Warn),
            (Iprev::Unconfirmed(domain("mx.example.net")), Status::Wrong),
            (Iprev::None, Status::Missing),
            (Iprev::TemporaryFailure, Status::Unknown),
        ] {
            assert_eq!(egress(&gateway(), address, &name).status, status, "{name:?}");
        }
    }

    #[test]
    fn r31_hosts_of_mx_records_have_addresses_of_their_own() {
        let (own, temporary) = (vec![IpAddr::from([192, 0, 2, 25])], DnsError::Temporary("timed out".to_owned()));
        for (addresses, alias, status) in [
            (Ok(own.clone()), Err(DnsError::NotFound), Status::Ok),
            (Ok(own.clone()), Err(temporary.clone()), Status::Ok),
            (Ok(own), Ok(domain("other.example")), Status::Warn),
            (Err(DnsError::NotFound), Err(DnsError::NotFound), Status::Missing),
            (Err(temporary), Err(DnsError::NotFound), Status::Unknown),
        ] {
            let observed = HostObservation { host: domain("mx.example.net"), addresses, alias };
            assert_eq!(host(&observed).status, status, "{observed:?}");
        }
    }

    #[test]
    fn r44_the_host_name_is_that_of_the_egress_addresses() {
        for (found, status) in [
            (Ok(vec![[192, 0, 2, 25].into()]), Status::Ok),
            (Ok(vec![[192, 0, 2, 99].into()]), Status::Warn),
            (Err(DnsError::NotFound), Status::Missing),
            (Err(DnsError::Temporary("x".to_owned())), Status::Unknown),
        ] {
            let observation = GatewayObservation { hosts: Vec::new(), host_name: found, egress: Vec::new() };
            let findings = compare(&gateway(), &observation);
            assert_eq!(findings[0].status, status, "{observation:?}");
        }
    }
}
