//! Which host gets the mail, over loopback: exchanges, families, routes, the pool; faults SP10 and O10.

mod call_ahead;
mod exchange;
mod idle;
mod own;
mod split;

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::dns::responder::{Answer, Responder};
use crate::metrics::Metrics;
use crate::smtp::Host;

const GREET: &str = "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING\n";
const MAIL: &str = "C: MAIL*\nC: RCPT*\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\n.\nS: 250 taken\n";

fn taking() -> String {
    format!("{GREET}{MAIL}hang")
}

/// Servers on one port of several loopback addresses.
struct Servers {
    port: u16,
    /// Where the connections came from.
    clients: Arc<Mutex<Vec<SocketAddr>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    /// For each address, one script for each connection, in order; a connection more is refused.
    async fn start(hosts: &[(&str, &[&str])]) -> Self {
        let clients = Arc::new(Mutex::new(Vec::new()));
        let listeners = bind(hosts).await;
        let port = listeners.first().map_or(1, |listener| listener.local_addr().unwrap().port());
        let mut tasks = Vec::new();
        for (listener, (_, scripts)) in listeners.into_iter().zip(hosts) {
            let scripts: Vec<String> = scripts.iter().map(|&script| script.to_owned()).collect();
            let clients = clients.clone();
            tasks.push(tokio::spawn(async move {
                let mut played = Vec::new();
                for script in scripts {
                    let (stream, client) = listener.accept().await.unwrap();
                    clients.lock().unwrap().push(client);
                    played.push(tokio::spawn(async move { play(Box::new(stream), &script, None).await }));
                }
                drop(listener);
                for played in played {
                    played.await.unwrap();
                }
            }));
        }
        Self { port, clients, tasks }
    }

    /// All scripts were played to their end.
    async fn finish(self) {
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn bind(hosts: &[(&str, &[&str])]) -> Vec<TcpListener> {
    'ports: loop {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for (address, _) in hosts {
            let port = listeners.first().map_or(0, |listener| listener.local_addr().unwrap().port());
            match TcpListener::bind((address.parse::<IpAddr>().unwrap(), port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'ports,
            }
        }
        return listeners;
    }
}

fn settings(port: u16) -> Settings {
    Settings { host_name: "us.example".to_owned(), mx_port: port, allow_loopback_mx: true, ..Settings::default() }
}

fn delivery(dns: &Responder, settings: Settings) -> (Delivery, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    (Delivery::new(settings, dns.resolver(), metrics.clone()).unwrap(), metrics)
}

fn mx(domain: &str) -> Job {
    job(Route::Mx(Some(Domain::parse(domain).unwrap())), &["to@them.example"])
}

fn summary(report: &Report) -> String {
    let down = if report.destination_down { " down" } else { "" };
    format!("{}{down}", briefs(&report.outcomes).join(", "))
}

fn host_of(report: &Report) -> Option<&str> {
    report.outcomes[0].diagnosis().host.as_deref()
}

#[tokio::test]
async fn the_next_exchange_when_one_can_not_be_had() {
    let taking = taking();
    for bad in ["S: 554 no\nend", "S: 421 busy\nend", "close", "S: 220 mx\nC: EHLO*\nS: 451 later\nend", "S: what\nend"]
    {
        let servers = Servers::start(&[("127.0.0.2", &[bad]), ("127.0.0.3", &[&taking])]).await;
        let dns = Responder::start().await;
        // Nobody listens on the first.
        dns.mx("them.example", &[(20, "b.example"), (5, "dead.example"), (30, "c.example")]);
        dns.a("dead.example", &["127.0.0.4"]).a("b.example", &["127.0.0.2"]).a("c.example", &["127.0.0.3"]);
        let (delivery, metrics) = delivery(&dns, settings(servers.port));
        let report = delivery.deliver(mx("them.example")).await;
        assert_eq!(summary(&report), "delivered 250 2.0.0 remote", "{bad}");
        assert_eq!(host_of(&report), Some("c.example"));
        assert_eq!(metrics.next_hop_connections.with_label_values(&["ok"]).get(), 1);
        assert_eq!(metrics.next_hop_connections.with_label_values(&["failed"]).get(), 2);
        drop(delivery);
        servers.finish().await;
    }
}

#[tokio::test]
async fn when_no_exchange_takes_mail() {
    for (banner, expected) in [
        ("S: 554 5.3.2 no\nend", "failed 554 5.3.2 remote"),
        ("S: 450 4.3.2 later\nend", "deferred 450 4.3.2 remote down"),
    ] {
        let servers = Servers::start(&[("127.0.0.2", &[banner])]).await;
        let dns = Responder::start().await;
        dns.a("them.example", &["127.0.0.2"]);
        let (delivery, _) = delivery(&dns, settings(servers.port));
        assert_eq!(summary(&delivery.deliver(mx("them.example")).await), expected);
        servers.finish().await;
    }
}

/// Else ten mails of such senders would hold up all mail to that host for hours: each of them would be the one that
/// tries it for all.
#[tokio::test]
async fn a_mail_that_a_host_will_not_have_does_not_make_it_down() {
    for (after, expected) in
        [("S: 421 4.7.0 not you\nend", "deferred 421 4.7.0 remote"), ("close", "deferred 451 4.4.2 own")]
    {
        let script = format!("{GREET}C: MAIL*\nC: RCPT*\nC: DATA\n{after}");
        let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
        let dns = Responder::start().await;
        dns.a("them.example", &["127.0.0.2"]);
        let (delivery, _) = delivery(&dns, settings(servers.port));
        assert_eq!(summary(&delivery.deliver(mx("them.example")).await), expected);
        drop(delivery);
        servers.finish().await;
    }
}

#[tokio::test]
async fn both_families_are_tried() {
    let taking = taking();
    let servers = Servers::start(&[("127.0.0.2", &[&taking])]).await;
    let dns = Responder::start().await;
    dns.a("them.example", &["127.0.0.2"]).aaaa("them.example", &["::1"]);
    let (delivery, _) = delivery(&dns, settings(servers.port));
    assert_eq!(summary(&delivery.deliver(mx("them.example")).await), "delivered 250 2.0.0 remote");
    drop(delivery);
    servers.finish().await;
}

/// Without any server: what DNS and config alone decide.
#[tokio::test]
async fn what_dns_says_of_a_domain() {
    let dns = Responder::start().await;
    dns.mx("null.example", &[(0, ".")]);
    dns.set("broken.example", RecordType::MX, Answer::Code(ResponseCode::ServFail));
    dns.mx("nowhere.example", &[(10, "none.example")]);
    dns.mx("unsure.example", &[(10, "unsure-host.example")]);
    dns.set("unsure-host.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
    dns.mx("odd.example", &[(10, "*.example")]);
    dns.mx("ours.example", &[(10, "us.example"), (20, "backup.example")]);
    dns.mx("alias.example", &[(10, "other-name.example"), (20, "backup.example")]);
    dns.mx("equal.example", &[(10, "backup.example"), (10, "us.example")]);
    dns.a("other-name.example", &["192.0.2.25"]).a("backup.example", &["127.0.0.2"]);
    dns.mx("loopback.example", &[(10, "localhost-by-name.example")]);
    dns.a("localhost-by-name.example", &["127.0.0.1", "0.0.0.0"])
        .aaaa("localhost-by-name.example", &["::1", "::ffff:127.0.0.1"]);
    let own_hosts = vec![Host::parse("us.example").unwrap(), Host::parse("[192.0.2.25]").unwrap()];
    let (delivery, _) = delivery(&dns, Settings { own_hosts, allow_loopback_mx: false, ..settings(1) });
    for (domain, expected) in [
        ("null.example", "failed 556 5.1.10 own"),
        ("none.example", "failed 550 5.1.2 own"),
        ("nowhere.example", "failed 550 5.1.2 own"),
        ("odd.example", "failed 550 5.1.2 own"),
        ("broken.example", "deferred 451 4.4.3 own down"),
        ("unsure.example", "deferred 451 4.4.3 own down"),
        // We are the best exchange, under our name or another, or one of the best.
        ("ours.example", "failed 554 5.4.6 own"),
        ("alias.example", "failed 554 5.4.6 own"),
        ("equal.example", "failed 554 5.4.6 own"),
        ("us.example", "failed 554 5.4.6 own"),
        ("loopback.example", "failed 554 5.4.6 own"),
    ] {
        assert_eq!(summary(&delivery.deliver(mx(domain)).await), expected, "{domain}");
    }
    for (recipient, expected) in [
        ("to@[192.0.2.25]", "failed 554 5.4.6 own"),
        ("to@[127.0.0.1]", "failed 554 5.4.6 own"),
        ("to@null.example", "failed 556 5.1.10 own"),
    ] {
        assert_eq!(summary(&delivery.deliver(job(Route::Mx(None), &[recipient])).await), expected, "{recipient}");
    }
    let mixed = delivery.deliver(job(Route::Mx(None), &["a@a.example", "b@b.example"])).await;
    assert_eq!(summary(&mixed), "deferred 451 4.3.5 own, deferred 451 4.3.5 own");
    assert!(delivery.deliver(job(Route::Mx(None), &[])).await.outcomes.is_empty());
}

#[tokio::test]
async fn better_exchanges_than_ourselves_are_tried_and_worse_ones_are_not() {
    let servers = Servers::start(&[("127.0.0.2", &["S: 421 busy\nend"]), ("127.0.0.3", &[])]).await;
    let dns = Responder::start().await;
    dns.mx("them.example", &[(10, "a.example"), (20, "us.example"), (30, "c.example")]);
    dns.a("a.example", &["127.0.0.2"]).a("c.example", &["127.0.0.3"]);
    let own_hosts = vec![Host::parse("us.example").unwrap()];
    let (delivery, metrics) = delivery(&dns, Settings { own_hosts, ..settings(servers.port) });
    assert_eq!(summary(&delivery.deliver(mx("them.example")).await), "deferred 421 4.0.0 remote down");
    assert_eq!(metrics.next_hop_connections.with_label_values(&["failed"]).get(), 1);
}

#[tokio::test]
async fn sp10_more_exchanges_than_are_ever_tried() {
    let servers = Servers::start(&[("127.0.0.2", &[])]).await;
    let (port, dns) = (servers.port, Responder::start().await);
    servers.finish().await;
    let names: Vec<String> = (0..100).map(|n| format!("n{n}.example")).collect();
    dns.mx("them.example", &names.iter().map(|name| (10, name.as_str())).collect::<Vec<_>>());
    let addresses: Vec<String> = (2..100).map(|n| format!("127.0.1.{n}")).collect();
    for name in &names {
        dns.a(name, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let (delivery, metrics) = delivery(&dns, settings(port));
    assert_eq!(summary(&delivery.deliver(mx("them.example")).await), "deferred 451 4.4.1 own down");
    assert_eq!(metrics.next_hop_connections.with_label_values(&["failed"]).get(), 10);
}

#[tokio::test]
async fn hosts_as_given() {
    let taking = taking();
    let twice = format!("{GREET}{MAIL}{MAIL}hang");
    let servers = Servers::start(&[("127.0.0.2", &[&taking, &twice])]).await;
    let dns = Responder::start().await;
    dns.a("mail.them.example", &["127.0.0.2"]).mx("mail.them.example", &[(10, "wrong.example")]);
    let (delivery, _) = delivery(&dns, Settings { allow_loopback_mx: false, ..settings(1) });
    for host in ["mail.them.example.", "127.0.0.2", "[127.0.0.2]"] {
        let route = Route::Host { host: Host::parse(host).unwrap(), port: servers.port, tls: TlsPolicy::Never };
        let report = delivery.deliver(job(route, &["to@them.example"])).await;
        assert_eq!(summary(&report), "delivered 250 2.0.0 remote", "{host}");
    }
    assert_eq!(dns.queries("mail.them.example", RecordType::MX), 0);
    drop(delivery);
    servers.finish().await;
}

#[tokio::test]
async fn smart_hosts_and_reload() {
    let taking = taking();
    let servers = Servers::start(&[("127.0.0.2", &[&taking, "S: 220 mx\nC: EHLO*\nS: 250 mx\nend"])]).await;
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, settings(1));
    let route = Route::SmartHost("out".into());
    let unknown = delivery.deliver(job(route.clone(), &["to@them.example"])).await;
    assert_eq!(summary(&unknown), "deferred 451 4.3.5 own");
    let mut smart_host = SmartHost {
        host: Host::parse("127.0.0.2").unwrap(),
        port: servers.port,
        tls: TlsPolicy::Opportunistic,
        login: None,
    };
    let with =
        |smart_host: &SmartHost| Settings { smart_hosts: [("out".into(), smart_host.clone())].into(), ..settings(1) };
    delivery.replace(delivery.prepare(with(&smart_host)).unwrap());
    let report = delivery.deliver(job(route.clone(), &["to@them.example"])).await;
    assert_eq!(summary(&report), "delivered 250 2.0.0 remote");
    // With a login, neither the idle connection without one nor a clear one will do.
    smart_host.login = Some(Login { user: "u".to_owned(), password: "p".to_owned() });
    delivery.replace(delivery.prepare(with(&smart_host)).unwrap());
    let report = delivery.deliver(job(route, &["to@them.example"])).await;
    assert_eq!(summary(&report), "deferred 451 4.7.5 own down");
    drop(delivery);
    servers.finish().await;
}

#[tokio::test]
async fn where_tls_is_welcome_and_fails_mail_goes_without() {
    let broken = "S: 220 mx\nC: EHLO*\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\nS: this is no TLS\nhang";
    let clear = format!("S: 220 mx\nC: EHLO*\nS: 250-mx\nS: 250-STARTTLS\nS: 250 PIPELINING\n{MAIL}hang");
    for (tls, scripts, expected) in [
        (TlsPolicy::Opportunistic, &[broken, clear.as_str()][..], "delivered 250 2.0.0 remote"),
        (TlsPolicy::Required, &[broken], "deferred 451 4.7.5 own down"),
    ] {
        let servers = Servers::start(&[("127.0.0.2", scripts)]).await;
        let dns = Responder::start().await;
        let (delivery, _) = delivery(&dns, settings(1));
        let route = Route::Host { host: Host::parse("127.0.0.2").unwrap(), port: servers.port, tls };
        assert_eq!(summary(&delivery.deliver(job(route, &["to@them.example"])).await), expected, "{tls:?}");
        drop(delivery);
        servers.finish().await;
    }
}

fn to_second(port: u16) -> Job {
    let route = Route::Host { host: Host::parse("127.0.0.2").unwrap(), port, tls: TlsPolicy::Never };
    job(route, &["to@them.example"])
}

#[tokio::test]
async fn several_mails_share_a_connection_and_it_ends_with_quit() {
    let twice = format!("{GREET}{MAIL}{MAIL}C: QUIT\nS: 221 bye\nend");
    let once = format!("{GREET}{MAIL}C: QUIT\nclose");
    let servers = Servers::start(&[("127.0.0.2", &[&twice, &once])]).await;
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, Settings { max_mails_per_connection: 2, ..settings(1) });
    for _ in 0..3 {
        assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "delivered 250 2.0.0 remote");
    }
    assert_eq!(servers.clients.lock().unwrap().len(), 2);
    delivery.close().await;
    servers.finish().await;
}

#[tokio::test]
async fn after_a_refused_mail_the_transaction_is_reset() {
    let refused = "C: MAIL*\nC: RCPT*\nC: DATA\nS: 250 ok\nS: 550 5.1.1 no\nS: 503 no recipients\nC: RSET\nS: 250 ok\n";
    let servers = Servers::start(&[("127.0.0.2", &[&format!("{GREET}{refused}{MAIL}hang")])]).await;
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, settings(1));
    assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "failed 550 5.1.1 remote");
    assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "delivered 250 2.0.0 remote");
    drop(delivery);
    servers.finish().await;
}

#[tokio::test]
async fn o10_a_connection_that_was_closed_while_idle_is_no_failure() {
    let taking = taking();
    for stale in ["close", "S: 421 idle\nclose", "C: MAIL*\nclose", "C: MAIL*\nC: RCPT*\nC: DATA\nS: 421 idle\nclose"] {
        let servers = Servers::start(&[("127.0.0.2", &[&format!("{GREET}{MAIL}{stale}"), &taking])]).await;
        let dns = Responder::start().await;
        let (delivery, _) = delivery(&dns, settings(1));
        for n in 0..2 {
            let report = delivery.deliver(to_second(servers.port)).await;
            assert_eq!(summary(&report), "delivered 250 2.0.0 remote", "{n} {stale}");
        }
        drop(delivery);
        servers.finish().await;
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let script = format!("{GREET}{MAIL}C: QUIT\nS: 221 bye\nend");
    let servers = Servers::start(&[("127.0.0.2", &[&script])]).await;
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, Settings { idle_time: Duration::ZERO, ..settings(1) });
    assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "delivered 250 2.0.0 remote");
    tokio::select! {
        () = delivery.tend() => {}
        () = servers.finish() => {}
    }
}

#[tokio::test]
async fn connections_come_from_where_they_should() {
    let taking = taking();
    let servers = Servers::start(&[("127.0.0.2", &[&taking])]).await;
    let dns = Responder::start().await;
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let (delivery, _) = delivery(&dns, Settings { source_addresses: vec![ip("::1")], ..settings(1) });
    assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "deferred 451 4.4.1 own down");
    delivery.replace(
        delivery.prepare(Settings { source_addresses: vec![ip("::1"), ip("127.0.0.9")], ..settings(1) }).unwrap(),
    );
    assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "delivered 250 2.0.0 remote");
    assert_eq!(servers.clients.lock().unwrap()[0].ip(), ip("127.0.0.9"));
}

#[tokio::test]
async fn a_host_of_the_configuration_that_dns_does_not_know_keeps_its_mail_waiting() {
    let dns = Responder::start().await;
    dns.set("broken.example", RecordType::A, Answer::Code(ResponseCode::ServFail));
    let (delivery, _) = delivery(&dns, settings(1));
    for (host, expected) in
        [("none.example", "deferred 451 4.3.5 own down"), ("broken.example", "deferred 451 4.4.3 own down")]
    {
        let route = Route::Host { host: Host::parse(host).unwrap(), port: 25, tls: TlsPolicy::Never };
        assert_eq!(summary(&delivery.deliver(job(route, &["to@them.example"])).await), expected, "{host}");
    }
}

#[tokio::test]
async fn maildir() {
    let directory = tempfile::tempdir().unwrap();
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, Settings { host_name: "../us/host".to_owned(), ..settings(1) });
    let root = directory.path().join("box");
    for _ in 0..2 {
        let report = delivery.deliver(job(Route::Maildir(root.clone()), &["a@x.example", "b@x.example"])).await;
        assert_eq!(summary(&report), "delivered 250 2.0.0 own, delivered 250 2.0.0 own");
    }
    let list =
        |part: &str| std::fs::read_dir(root.join(part)).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!((list("new").len(), list("tmp").len(), list("cur").len()), (2, 0, 0));
    let expected = format!(
        "Return-Path: <from@us.example>\r\nDelivered-To: a@x.example\r\nDelivered-To: b@x.example\r\n{MESSAGE}"
    );
    for path in list("new") {
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let report = delivery.deliver(job(Route::Maildir(blocked), &["a@x.example"])).await;
    assert_eq!(summary(&report), "deferred 451 4.3.0 own");
}

#[test]
fn tenants_with_other_tls_policies_do_not_share_a_destination() {
    let key = |tls| {
        let host = Host::Domain(Domain::parse("mail.example.com").unwrap());
        DestinationKey::new(&Route::Host { host, port: 25, tls }, None).0
    };
    assert_eq!(&*key(TlsPolicy::Opportunistic), "host:mail.example.com:25");
    assert_eq!(&*key(TlsPolicy::Verified), "host:mail.example.com:25:verified");
}
