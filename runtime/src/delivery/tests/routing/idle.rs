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
        delivery.reload(settings(1)).unwrap();
    }
    assert_eq!(servers.clients.lock().unwrap().len(), 2);
    drop(delivery);
    servers.finish().await;
}
