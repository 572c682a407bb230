//! Names, addresses and networks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::FromText;
use crate::scan::Address;
use crate::smtp::{Domain, Host, Mailbox};

/// The name of a tenant, plugin, listener …: it goes into labels, scopes and file names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(pub Arc<str>);

impl FromText for Name {
    const WHAT: &'static str = "a name";

    fn from_text(text: &str) -> Result<Self, String> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if (1..=64).contains(&text.len()) && text.bytes().all(legal) && !text.starts_with('-') {
            return Ok(Self(text.into()));
        }
        Err(format!("`{}` is not a name\na name has 1 to 64 characters of a-z, 0-9, `-` and `_`", text.escape_debug()))
    }
}

impl FromText for Domain {
    const WHAT: &'static str = "a domain";

    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        let domain =
            Self::parse(text).map_err(|error| format!("`{shown}` is not a domain: {}", without_prefix(&error)))?;
        // A name whose last label is a number is an address, or half of one.
        let last = domain.as_str().rsplit('.').next().unwrap_or("");
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{shown}` is not a domain: it ends in a number"));
        }
        Ok(domain)
    }
}

impl FromText for Mailbox {
    const WHAT: &'static str = "an address like \"postmaster@example.com\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        Self::parse(text).map_err(|error| format!("`{shown}` is not an address: {}", without_prefix(&error)))
    }
}

fn without_prefix(error: &impl ToString) -> String {
    let text = error.to_string();
    text.strip_prefix("address syntax: ").unwrap_or(&text).to_owned()
}

impl FromText for Host {
    const WHAT: &'static str = "a host name or IP address";

    /// A name, an address, or an address in brackets (R13).
    fn from_text(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Literal(address));
        }
        Domain::from_text(text).map(Self::Domain).map_err(|error| error.replace("is not a domain", "is not a host"))
    }
}

/// A host and perhaps a port, as a destination is written in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: Host,
    pub port: Option<u16>,
}

impl FromText for HostPort {
    const WHAT: &'static str = "a host like \"mail.example.com\", \"192.0.2.11\" or \"[2001:db8::1]:2525\"";

    fn from_text(text: &str) -> Result<Self, String> {
        if let Ok(host) = Host::from_text(text) {
            return Ok(Self { host, port: None });
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Host::from_text(text).map(|host| Self { host, port: None });
        };
        match port.parse() {
            Ok(port @ 1_u16..) => Ok(Self { host: Host::from_text(host)?, port: Some(port) }),
            _ => Err(format!("`{}` is not a port: those are 1 to 65535", port.escape_debug())),
        }
    }
}

impl FromText for SocketAddr {
    const WHAT: &'static str = "an address and port like \"0.0.0.0:25\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            let shown = text.escape_debug();
            format!("`{shown}` is not an IP address with a port\nwrite it like \"0.0.0.0:25\" or \"[::]:25\"")
        })
    }
}

impl FromText for IpAddr {
    const WHAT: &'static str = "an IP address";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{}` is not an IP address", text.escape_debug()))
    }
}

impl FromText for Address {
    const WHAT: &'static str = "the address of a scanner like \"unix:/run/clamav/clamd.ctl\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        let help = "write \"unix:PATH\", \"tcp:HOST:PORT\" or \"http://HOST:PORT\"";
        let bad = || format!("`{shown}` is not the address of a scanner\n{help}");
        let (scheme, rest) = text.split_once(':').ok_or_else(bad)?;
        if scheme == "unix" {
            let absolute = rest.starts_with('/') && !rest.contains('\0');
            return absolute
                .then(|| Self::Unix(rest.into()))
                .ok_or_else(|| format!("`{shown}` has no absolute path\n{help}"));
        }
        let place = match scheme {
            "tcp" => rest,
            "http" => rest.strip_prefix("//").ok_or_else(bad)?,
            _ => return Err(bad()),
        };
        let HostPort { host, port } = HostPort::from_text(place.strip_suffix('/').unwrap_or(place))?;
        let port = port.ok_or_else(|| format!("`{shown}` has no port\n{help}"))?;
        let host = match host {
            Host::Domain(name) => name.to_string(),
            Host::Literal(address) => address.to_string(),
        };
        Ok(if scheme == "tcp" { Self::Tcp(host, port) } else { Self::Http(host, port) })
    }
}

/// A DNS server; the port is 53 unless it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsServer(pub SocketAddr);

impl FromText for DnsServer {
    const WHAT: &'static str = "the IP address of a DNS server";

    fn from_text(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)).or_else(|_| text.parse());
        address.map(Self).map_err(|_| format!("`{}` is not the IP address of a DNS server", text.escape_debug()))
    }
}

impl FromText for IpNet {
    const WHAT: &'static str = "a network like \"192.0.2.0/24\"";

    /// An address alone, `NET/BITS` or `NET/MASK`; bits beyond the mask are an error, for they are a slip.
    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        let bad = || {
            format!("`{shown}` is not a network\nwrite it like \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.7\"")
        };
        let Some((address, mask)) = text.split_once('/') else {
            return text.parse::<IpAddr>().map(Self::from).map_err(|_| bad());
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let network = match (mask.parse::<u8>(), mask.parse::<IpAddr>()) {
            (Ok(bits), _) => Self::new(address, bits).map_err(|_| bad())?,
            (_, Ok(mask)) => Self::with_netmask(address, mask).map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        if network.trunc() != network {
            return Err(format!("`{shown}` has bits set beyond its prefix\ndid you mean `{}`?", network.trunc()));
        }
        Ok(network)
    }
}

/// An address, `@domain`, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderPattern {
    Any,
    Domain(Domain),
    Mailbox(Mailbox),
}

impl FromText for SenderPattern {
    const WHAT: &'static str = "an address, \"@domain\" or \"*\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            _ if text == "*" => Ok(Self::Any),
            Some(domain) => Domain::from_text(domain).map(Self::Domain),
            None => Mailbox::from_text(text).map(Self::Mailbox).map_err(|error| {
                format!("{error}\nwrite an address, \"@domain\" for all of a domain, or \"*\" for any")
            }),
        }
    }
}

/// One that lets mail pass, without qualifier and macros (RFC 7208 §5): what customers put into their records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfMechanism(pub String);

impl FromText for SpfMechanism {
    const WHAT: &'static str = "an SPF mechanism like \"include:spf.example.net\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let help = "write \"include:NAME\", \"a:NAME\", \"mx:NAME\", \"ip4:NETWORK\" or \"ip6:NETWORK\"";
        let bad = || format!("`{}` is not an SPF mechanism\n{help}", text.escape_debug());
        let (kind, value) = text.split_once(':').ok_or_else(bad)?;
        let kind = kind.to_ascii_lowercase();
        let value = match kind.as_str() {
            "include" | "a" | "mx" => Domain::from_text(value)?.to_string(),
            "ip4" | "ip6" => {
                let network = IpNet::from_text(value)?;
                if network.addr().is_ipv4() != (kind == "ip4") {
                    return Err(bad());
                }
                let alone = network.prefix_len() == network.max_prefix_len();
                if alone { network.addr().to_string() } else { network.to_string() }
            }
            _ => return Err(bad()),
        };
        Ok(Self(format!("{kind}:{value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (text, expected) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(IpNet::from_text(text).map(|n| n.to_string()).as_deref(), Ok(expected));
        }
        for bad in ["", "192.0.2.0/33", "192.0.2.1/24", "192.0.2/24", "10.0.0.0/255.0.255.0", "example.com", "::/129"] {
            assert!(IpNet::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn destinations_in_short() {
        for (text, host, port) in [
            ("mail.company.com", "mail.company.com", None),
            ("Mail.Company.com.", "mail.company.com", None),
            ("mail.company.com:2525", "mail.company.com", Some(2525)),
            ("192.0.2.11", "[192.0.2.11]", None),
            ("192.0.2.11:25", "[192.0.2.11]", Some(25)),
            ("[192.0.2.11]", "[192.0.2.11]", None),
            ("2001:db8::1", "[IPv6:2001:db8::1]", None),
            ("[2001:db8::1]:26", "[IPv6:2001:db8::1]", Some(26)),
            ("localhost", "localhost", None),
        ] {
            let parsed = HostPort::from_text(text).unwrap();
            assert_eq!((parsed.host.to_string().as_str(), parsed.port), (host, port), "{text}");
        }
        for bad in
            ["", ":25", "mail.company.com:0", "mail.company.com:65536", "mail company.com", "192.0.2.300", "a@b.com"]
        {
            assert!(HostPort::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spf_mechanisms() {
        for (text, expected) in [
            ("Include:SPF.example.net.", "include:spf.example.net"),
            ("a:mx.example.net", "a:mx.example.net"),
            ("ip4:192.0.2.7/32", "ip4:192.0.2.7"),
            ("ip4:192.0.2.0/24", "ip4:192.0.2.0/24"),
            ("ip6:2001:db8::/32", "ip6:2001:db8::/32"),
        ] {
            assert_eq!(SpfMechanism::from_text(text).map(|m| m.0).as_deref(), Ok(expected));
        }
        for bad in
            ["", "include:", "a", "+a:x.example", "-all", "all", "ip4:::1", "ip6:192.0.2.1", "include:%{d}", "x:y"]
        {
            assert!(SpfMechanism::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_scanners() {
        for text in [
            "unix:/run/clamav/clamd.ctl",
            "tcp:127.0.0.1:3310",
            "tcp:[::1]:3310",
            "tcp:clamav:3310",
            "http://127.0.0.1:11333",
            "http://rspamd.example.net:11333",
        ] {
            assert_eq!(Address::from_text(text).map(|address| address.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(Address::from_text("http://[::1]:11333/"), Ok(Address::Http("::1".to_owned(), 11333)));
        for bad in [
            "",
            "/run/clamd.ctl",
            "unix:",
            "unix:run/clamd.ctl",
            "tcp:127.0.0.1",
            "tcp:127.0.0.1:0",
            "tcp://127.0.0.1:1",
            "http:127.0.0.1:1",
            "http://127.0.0.1",
            "http://a:1/checkv2",
            "http://user@a:1",
            "https://127.0.0.1:1",
            "http://a\r\nb:1",
        ] {
            assert!(Address::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert!(Name::from_text("company-1_x").is_ok());
        for bad in ["", "-x", "A", "a b", "a.b", "../x", "a:b", &"a".repeat(65)] {
            assert!(Name::from_text(bad).is_err(), "{bad}");
        }
    }
}
