//! `[server]`: the gateway itself, and what one client may do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::tz::TimeZone;
use toml::Spanned;

use super::{Checker, HOUR, MINUTE, SECOND};
use crate::config::settings::{Http, Server};
use crate::config::value::quantity::{ByteSize, Count, Percent};
use crate::config::written;
use crate::smtp::Domain;

impl Checker<'_> {
    pub(super) fn server(&mut self, written: written::Server, host_name: Option<Domain>) -> Option<Server> {
        if let (Some(at), Some(name)) = (&written.host_name, &host_name)
            && !name.is_fully_qualified()
        {
            self.findings
                .push_warning(Some(at.span), format!("`{name}` is not fully qualified"))
                .help("other servers refuse such a name; write the one that DNS has for this host");
        }
        if written.administrators.is_empty() && host_name.is_some() {
            let span = written.host_name.as_ref().map(|at| at.span);
            self.findings
                .push_warning(span, "nobody gets the mail to postmaster".to_owned())
                .help("add `administrators = [\"you@example.com\"]` to [server]");
        }
        let count = |written: Option<Count>, default| written.map_or(default, |count| count.0);
        let (overload_above, overload_below) = self.overload(written.overload_above, written.overload_below);
        Some(Server {
            host_name: host_name?,
            banner: written.banner.map_or_else(|| "Postern".to_owned(), |banner| banner.value.0),
            administrators: written.administrators.into_iter().map(|at| at.value).collect(),
            max_connections: count(written.max_connections, 2000),
            max_connections_per_client: count(written.max_connections_per_client, 50),
            max_connection_rate: count(written.max_connection_rate, 1000),
            max_connection_rate_per_client: count(written.max_connection_rate_per_client, 50),
            max_handshake_rate_per_client: count(written.max_handshake_rate_per_client, 20),
            exempt_networks: match written.exempt_networks {
                Some(networks) => networks.into_iter().map(|at| at.value).collect(),
                None => loopback(),
            },
            max_message_size: self.size(written.max_message_size, ByteSize::mib(50), ByteSize::kib(64)),
            max_header_size: self.size(written.max_header_size, ByteSize::kib(256), ByteSize::kib(4)),
            max_header_fields: count(written.max_header_fields, 1000),
            max_recipients: count(written.max_recipients, 1000),
            max_hops: count(written.max_hops, 50),
            junk_commands: count(written.junk_commands, 100),
            max_errors: count(written.max_errors, 20),
            allow_routed_local_parts: written.allow_routed_local_parts.unwrap_or(false),
            command_timeout: self.positive(written.command_timeout, 5 * MINUTE),
            data_timeout: self.positive(written.data_timeout, 5 * MINUTE),
            min_data_rate: self.size(written.min_data_rate, ByteSize(500), ByteSize(1)),
            write_timeout: self.positive(written.write_timeout, 2 * MINUTE),
            handshake_timeout: self.positive(written.handshake_timeout, 30 * SECOND),
            session_timeout: self.positive(written.session_timeout, HOUR),
            overload_above,
            overload_below,
            overload_timeout: self.positive(written.overload_timeout, 10 * SECOND),
            overload_max_errors: count(written.overload_max_errors, 1),
            overload_connections_per_client: count(written.overload_connections_per_client, 10),
            drain_timeout: self.positive(written.drain_timeout, 30 * SECOND),
            time_zone: written.time_zone.map_or_else(system_time_zone, |at| at.value),
        })
    }

    pub(super) fn http(&mut self, written: &written::Http) -> Http {
        let address = written.address.value;
        if !address.ip().is_loopback() {
            self.findings
                .push_warning(
                    Some(written.address.span),
                    "everyone who can reach this address sees the metrics".to_owned(),
                )
                .help("listen on a loopback address, or on one that only the monitoring can reach");
        }
        Http { address }
    }

    /// Overload that ends where it begins would begin and end with every connection.
    fn overload(&mut self, above: Option<Spanned<Percent>>, below: Option<Spanned<Percent>>) -> (u32, u32) {
        let begins = above.as_ref().map_or(80, |written| written.get_ref().0);
        let ends = below.as_ref().map_or(begins * 3 / 4, |written| written.get_ref().0);
        if let Some(below) = below
            && ends >= begins
        {
            let message = format!("overload would end at {ends} %, and begins at {begins} %");
            self.findings.push_error(Some(below.span().into()), message).help("write less than `overload_above`");
        }
        (begins, ends)
    }
}

/// The machine's own.
fn loopback() -> Vec<IpNet> {
    let v4 = IpNet::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
    let v6 = IpNet::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
    [v4, v6].into_iter().flatten().collect()
}

/// UTC where the system says nothing that makes sense.
fn system_time_zone() -> TimeZone {
    TimeZone::try_system().ok().filter(|zone| !zone.is_unknown()).unwrap_or(TimeZone::UTC)
}
