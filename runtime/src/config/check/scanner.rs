//! Scanners: where they listen, and what a scan of theirs may take.

use std::net::IpAddr;

use super::{Checker, MINUTE};
use crate::config::settings::{Scanner, Secret};
use crate::config::value::At;
use crate::config::value::quantity::ByteSize;
use crate::config::written;
use crate::scan::{Address, Kind};

impl Checker<'_> {
    /// `None` after a mistake.
    pub(super) fn scanner(&mut self, written: &written::Scanner) -> Option<Scanner> {
        let kind = written.kind.value;
        let fits = self.fits(kind, &written.address);
        let password = self.scanner_password(written);
        // clamd's own limit in Debian's config (StreamMaxLength), and rspamd's by default (max_message).
        let max_size = ByteSize::mib(if kind == Kind::Clamd { 25 } else { 50 });
        let scanner = Scanner {
            name: written.name.value.0.clone(),
            kind,
            address: written.address.value.clone(),
            timeout: self.positive(written.timeout.clone(), MINUTE),
            max_size: self.size(written.max_size.clone(), max_size, ByteSize::kib(1)),
            connections: written.connections.map_or(10, |count| count.0),
            password: password?,
        };
        fits.then_some(scanner)
    }

    fn fits(&mut self, kind: Kind, address: &At<Address>) -> bool {
        let help = match (kind, &address.value) {
            (Kind::Clamd, Address::Http(..)) => "clamd listens at \"unix:PATH\" or \"tcp:HOST:PORT\"",
            (Kind::Rspamd, Address::Unix(_) | Address::Tcp(..)) => "rspamd listens at \"http://HOST:PORT\"",
            _ => {
                self.warn_of_stranger(address);
                return true;
            }
        };
        let message = format!("{} is not spoken to at `{}`", kind.name(), address.value);
        self.findings.push_error(Some(address.span), message).help(help);
        false
    }

    /// Whole mails go there.
    fn warn_of_stranger(&mut self, address: &At<Address>) {
        let (Address::Tcp(host, _) | Address::Http(host, _)) = &address.value else { return };
        let far = host.parse::<IpAddr>().is_ok_and(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_private() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unique_local() && !ip.is_unicast_link_local(),
        });
        if far {
            self.findings
                .push_warning(Some(address.span), "every mail goes to this address in the clear".to_owned())
                .help("let the scanner listen on this machine, or in a network of your own");
        }
    }

    /// `None` after a mistake.
    fn scanner_password(&mut self, written: &written::Scanner) -> Option<Option<Secret>> {
        let from_file = written.password_file.as_ref().map(|at| (at.span, Secret::from_file(&self.path(at))));
        let from_env = written.password_env.as_ref().map(|at| (at.span, Secret::from_environment(&at.value)));
        let (span, password) = match (from_file, from_env) {
            (None, None) => return Some(None),
            (Some((file, _)), Some((env, _))) => {
                self.findings.push_error(Some(file), "two passwords".to_owned()).also(env, "the other");
                return None;
            }
            (Some(one), None) | (None, Some(one)) => one,
        };
        if written.kind.value == Kind::Clamd {
            self.findings.error(Some(span), "clamd asks for no password".to_owned());
            return None;
        }
        match password {
            Ok(password) => Some(Some(password)),
            Err(problem) => {
                self.findings.error(Some(span), problem);
                None
            }
        }
    }
}
