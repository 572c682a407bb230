//! Mail never goes to ourselves, under whatever name; to others on the same machine it may.

use super::*;

fn own(hosts: &[&str]) -> Vec<Host> {
    hosts.iter().map(|host| Host::parse(host).unwrap()).collect()
}

fn by_host(host: &str, port: u16) -> Job {
    let route = Route::Host { host: Host::parse(host).unwrap(), port, tls: TlsPolicy::Never };
    job(route, &["to@them.example"])
}

#[tokio::test]
async fn a_host_that_is_ourselves() {
    let dns = Responder::start().await;
    dns.a("alias.example", &["192.0.2.25"]);
    let own_hosts = own(&["us.example", "[192.0.2.25]"]);
    let own_listeners = vec!["192.0.2.25:10025".parse().unwrap()];
    let (delivery, _) = delivery(&dns, Settings { own_hosts, own_listeners, ..settings(25) });
    for host in ["us.example", "192.0.2.25", "alias.example"] {
        for port in [25, 10025] {
            let report = delivery.deliver(by_host(host, port)).await;
            assert_eq!(summary(&report), "failed 554 5.4.6 own", "{host} {port}");
        }
    }
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_recognised_once_connected() {
    let dns = Responder::start().await;
    dns.a("alias.example", &["127.0.0.1"]).a("second.example", &["127.0.0.2"]);
    dns.mx("them.example", &[(10, "second.example"), (20, "backup.example")]).a("backup.example", &["127.0.0.3"]);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let smart_host =
        SmartHost { host: Host::parse("alias.example").unwrap(), port: own.port(), tls: TlsPolicy::Never, login: None };
    let smart_hosts = [("out".into(), smart_host)].into();
    let (delivery, metrics) =
        delivery(&dns, Settings { own_listeners: vec![own], smart_hosts, ..settings(own.port()) });
    let smart = job(Route::SmartHost("out".into()), &["to@them.example"]);
    let jobs = [by_host("alias.example", own.port()), by_host("127.0.0.1", own.port()), smart, mx("them.example")];
    for job in jobs {
        let route = job.route.to_string();
        assert_eq!(summary(&delivery.deliver(job).await), "failed 554 5.4.6 own", "{route}");
    }
    // One each: the backup, which is worse than we are, was not asked.
    assert_eq!(metrics.next_hop_connections.with_label_values(&["failed"]).get(), 4);
}

#[tokio::test]
async fn another_server_on_this_machine_is_no_loop() {
    let taking = taking();
    let dns = Responder::start().await;
    // At another port than ours, even that of exchanges; at the same port of another address.
    for (own_ip, same_port, mx_port_is_its) in
        [("0.0.0.0", false, false), ("127.0.0.1", false, true), ("192.0.2.25", true, false), ("127.0.0.2", true, true)]
    {
        let servers = Servers::start(&[("127.0.0.1", &[&taking])]).await;
        let port = servers.port;
        let own_port = if same_port { port } else { port ^ 1 };
        let own_listeners = vec![SocketAddr::new(own_ip.parse().unwrap(), own_port)];
        let own_hosts = own(&["us.example", "[127.0.0.1]"]);
        let mx_port = if mx_port_is_its { port } else { 25 };
        let (delivery, _) = delivery(&dns, Settings { own_hosts, own_listeners, ..settings(mx_port) });
        let report = delivery.deliver(by_host("127.0.0.1", port)).await;
        assert_eq!(summary(&report), "delivered 250 2.0.0 remote", "{own_ip}");
        drop(delivery);
        servers.finish().await;
    }
}

#[test]
fn ends_of_connections() {
    for (listener, local, peer, expected) in [
        ("0.0.0.0:25", "192.0.2.1", "192.0.2.1:25", true),
        ("[::]:25", "192.0.2.1", "192.0.2.1:25", true),
        ("[::]:25", "2001:db8::1", "[2001:db8::1]:25", true),
        ("0.0.0.0:25", "127.0.0.1", "127.0.0.9:25", true),
        ("192.0.2.1:25", "192.0.2.2", "192.0.2.1:25", true),
        ("0.0.0.0:25", "192.0.2.1", "192.0.2.1:26", false),
        ("0.0.0.0:25", "192.0.2.1", "192.0.2.2:25", false),
        ("0.0.0.0:25", "2001:db8::1", "[2001:db8::1]:25", false),
        ("192.0.2.1:25", "127.0.0.1", "127.0.0.1:25", false),
    ] {
        let settings = Settings { own_listeners: vec![listener.parse().unwrap()], ..Settings::default() };
        let own = settings.is_own_end(local.parse().unwrap(), peer.parse().unwrap());
        assert_eq!(own, expected, "{listener} {local} {peer}");
    }
}
