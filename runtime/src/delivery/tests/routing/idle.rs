//! Connections that wait in the pool: how long, for whom, and how they end.

use super::*;

#[tokio::test]
async fn after_a_reload_no_old_connection_is_used() {
    let taking = taking();
    let servers = Servers::start(&[("127.0.0.2", &[&taking, &taking])]).await;
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, settings(1));
    for _ in 0..2 {
        assert_eq!(summary(&delivery.deliver(to_second(servers.port)).await), "delivered 250 2.0.0 remote");
        delivery.replace(delivery.prepare(settings(1)).unwrap());
    }
    assert_eq!(servers.clients.lock().unwrap().len(), 2);
    drop(delivery);
    servers.finish().await;
}

/// A delivery with an idle connection to each of these servers, oldest first.
async fn with_idle(servers: &[&Servers], addresses: &[&str], settings: Settings) -> Delivery {
    let dns = Responder::start().await;
    let (delivery, _) = delivery(&dns, settings);
    for (servers, address) in servers.iter().zip(addresses) {
        let route = Route::Host { host: Host::parse(address).unwrap(), port: servers.port, tls: TlsPolicy::Never };
        let report = delivery.deliver(job(route, &["to@them.example"])).await;
        assert_eq!(summary(&report), "delivered 250 2.0.0 remote", "{address}");
    }
    delivery
}

/// Patient with a server that does not reply to QUIT.
fn patient() -> Settings {
    let timeouts = Timeouts { quit: Duration::from_secs(3600), ..Timeouts::default() };
    Settings { idle_time: Duration::from_secs(3600), timeouts, ..settings(1) }
}

#[tokio::test]
async fn servers_that_are_slow_to_quit_are_closed_together() {
    let slow = format!("{GREET}{MAIL}C: QUIT\nhang");
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let script = [slow.as_str()];
    let servers = Servers::start(&addresses.map(|address| (address, &script[..]))).await;
    let delivery = with_idle(&[&servers; 3], &addresses, patient()).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    delivery.close().await;
    let took = start.elapsed();
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
    tokio::time::resume();
    // Each has heard QUIT, and then the end.
    servers.finish().await;
}

#[tokio::test]
async fn a_server_that_is_slow_to_quit_does_not_hold_up_the_others() {
    let slow = format!("{GREET}{MAIL}C: QUIT\nhang");
    let quick = format!("{GREET}{MAIL}C: QUIT\nS: 221 bye\nend");
    let first = Servers::start(&[("127.0.0.2", &[&slow])]).await;
    let second = Servers::start(&[("127.0.0.3", &[&quick])]).await;
    let delivery = with_idle(&[&first, &second], &["127.0.0.2", "127.0.0.3"], patient()).await;
    delivery.replace(delivery.prepare(Settings { idle_time: Duration::ZERO, ..patient() }).unwrap());
    tokio::select! {
        () = delivery.tend() => {}
        done = tokio::time::timeout(Duration::from_secs(60), second.finish()) => done.unwrap(),
    }
    // The task that waits for its reply has gone with `tend`.
    first.finish().await;
}
