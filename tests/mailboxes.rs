//! Mail for mailboxes that exist (X9), and for a server that only the internal DNS names (R57), over TCP.

use std::path::Path;

use postern_tests::dns::Dns;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use postern_tests::sink::Sink;
use serde_json::Value;

/// `more`: of the config. The destination `{sink}` has no mailboxes named `refuse` and `later`.
async fn scene(directory: &Path, dns: &str, more: &str) -> Scene {
    Scene::set(&format!("{}{more}", head(dns)), directory).await.unwrap()
}

/// One reply for each recipient, then the mail for those that were taken.
async fn send(scene: &Scene, recipients: &[&str]) -> Vec<String> {
    let mut client = scene.client("").await;
    client.send(b"MAIL FROM:<a@client.example>\r\n").await;
    client.line().await.unwrap();
    let mut said = Vec::new();
    for recipient in recipients {
        client.send(format!("RCPT TO:<{recipient}>\r\n").as_bytes()).await;
        said.push(client.line().await.unwrap());
    }
    if said.iter().any(|reply| reply.starts_with("250 ")) {
        client.send(b"DATA\r\n").await;
        client.line().await.unwrap();
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n").await;
        let taken = client.line().await.unwrap();
        assert!(taken.starts_with("250 "), "{taken}");
    }
    said
}

const RECIPIENTS: &str = "[chain]\nplatform = [\"recipients\"]\n";
const UNKNOWN: &str = "550 5.1.1 No such mailbox here";
const LATER: &str = "450 4.1.1 It can't be found out now whether this mailbox exists, try again later";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_the_destination_is_asked_before_mail_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(directory.path(), NO_DNS, RECIPIENTS).await;
    let said = send(&scene, &["refuse@example.com", "anna@example.com", "later@example.com", "Postmaster@example.com"]);
    let said = said.await;
    assert_eq!((said[0].as_str(), said[2].as_str()), (UNKNOWN, LATER), "{said:?}");
    assert!(said[1].starts_with("250 ") && said[3].starts_with("250 "), "{said:?}");
    let taken = scene.taken("sink", 1).await;
    assert_eq!(taken[0].recipients, ["anna@example.com", "Postmaster@example.com"]);
    scene.queue(0).await.unwrap();
    scene.server.stop().await;
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_a_destination_that_is_down_refuses_nobody() {
    for (config, expected) in [("", LATER), ("config = { on_unavailable = \"accept\" }", "250 2.1.5 Recipient ok")] {
        let directory = tempfile::tempdir().unwrap();
        let more = format!(
            "[[tenant]]\nname = \"down\"\ndomains = [\"down.example\"]\n\
             destination = {{ host = \"127.0.0.1\", port = {}, tls = \"never\" }}\n\
             [[plugin]]\nname = \"recipients\"\n{config}\n{RECIPIENTS}",
            closed_port()
        );
        let scene = scene(directory.path(), NO_DNS, &more).await;
        let said = send(&scene, &["anna@down.example"]).await;
        assert_eq!(said, [expected], "{config}");
        scene.server.stop().await;
    }
}

/// Asked for, or delivered to: it is known, also after a restart, while the destination is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_who_was_there_is_known_after_a_restart_and_while_the_destination_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let there = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let sink = there.spawn(Sink::start()).await.unwrap().unwrap();
    let more = format!(
        "[[tenant]]\nname = \"there\"\ndomains = [\"there.example\"]\n\
         destination = {{ host = \"127.0.0.1\", port = {}, tls = \"never\" }}\n\
         [[plugin]]\nname = \"recipients\"\nconfig = {{ table = \"some\", call_ahead = true }}\n\
         tables = {{ some = \"some.txt\" }}\n[call_ahead]\nkeep_existing = \"1s\"\n{RECIPIENTS}",
        sink.address.port()
    );
    std::fs::write(directory.path().join("some.txt"), "listed@there.example\n").unwrap();
    let scene = scene(directory.path(), NO_DNS, &more).await;
    assert!(
        send(&scene, &["anna@there.example", "listed@there.example"]).await.iter().all(|said| said.starts_with("250 "))
    );
    assert_eq!(tokio::time::timeout(PATIENCE, sink.wait_for(1)).await.unwrap()[0].recipients.len(), 2);
    scene.queue(0).await.unwrap();
    // What is in a list is not asked for: that it exists only the delivery has said.
    std::fs::write(directory.path().join("some.txt"), "another@there.example\n").unwrap();
    there.shutdown_background();
    let scene = scene.restart(directory.path()).await.unwrap();
    let said = send(&scene, &["anna@there.example", "listed@there.example", "bob@there.example"]).await;
    assert!(said[0].starts_with("250 ") && said[1].starts_with("250 "), "{said:?}");
    assert_eq!(said[2], LATER);
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x9_a_list_of_mailboxes() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mailboxes.txt"), "# ours\nanna@example.com\nrefuse@example.com\n").unwrap();
    let more = format!(
        "[[plugin]]\nname = \"recipients\"\nconfig = {{ table = \"mailboxes\", separator = \"+\" }}\n\
         tables = {{ mailboxes = \"mailboxes.txt\" }}\n{RECIPIENTS}"
    );
    let scene = scene(directory.path(), NO_DNS, &more).await;
    let said = send(&scene, &["ANNA+news@example.com", "bob@example.com", "later@example.com"]).await;
    assert!(said[0].starts_with("250 ") && said[1..] == [UNKNOWN, UNKNOWN], "{said:?}");
    scene.server.stop().await;
}

/// One public and one internal name server; the destination goes by MX.
async fn split(directory: &Path, public: &Dns, internal: &Dns) -> Scene {
    let dns = format!("{}\ninternal_servers = [\"{}\"]", public.setting(), internal.address);
    let tenant =
        "[[tenant]]\nname = \"split\"\ndomains = [\"split.example\"]\ndestination = { mx = \"split.example\" }\n";
    scene(directory, &dns, tenant).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_the_gateway_never_delivers_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (public, internal) = (Dns::start().await.unwrap(), Dns::start().await.unwrap());
    public.mx("split.example", 10, "mx.example.net");
    internal.mx("split.example", 20, "inside.split.example").address("inside.split.example", "127.0.0.2");
    let scene = split(directory.path(), &public, &internal).await;
    assert!(send(&scene, &["anna@split.example"]).await[0].starts_with("250 "));
    scene.until(|events| events.iter().any(|event| event.to_string().contains("554 5.4.6"))).await;
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_while_the_internal_dns_is_down_mail_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (public, internal) = (Dns::start().await.unwrap(), Dns::start().await.unwrap());
    public.mx("split.example", 10, "mx.example.net");
    internal.fails("split.example");
    let scene = split(directory.path(), &public, &internal).await;
    assert!(send(&scene, &["anna@split.example"]).await[0].starts_with("250 "));
    scene.until(|events| events.iter().any(|event| event.to_string().contains("by the internal servers"))).await;
    scene.queue(1).await.unwrap();
    scene.server.stop().await;
}

/// What it is for: the world finds the gateway, and the gateway the server behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_mail_is_delivered_to_the_server_that_only_the_internal_dns_names() {
    let directory = tempfile::tempdir().unwrap();
    let (public, internal) = (Dns::start().await.unwrap(), Dns::start().await.unwrap());
    public.address("mx.example.net", "127.0.0.3").address("inside.split.example", "127.0.0.9");
    internal.address("inside.split.example", "127.0.0.1");
    let tenants = [("equal", 10), ("better", 5)];
    let mut config = String::new();
    for (name, preference) in tenants {
        let domain = format!("{name}.example");
        public.mx(&domain, 10, "mx.example.net").mx(&domain, 20, "backup.example");
        internal.mx(&domain, preference, "inside.split.example");
        config += &format!(
            "[[tenant]]\nname = \"{name}\"\ndomains = [\"{domain}\"]\ndestination = {{ mx = \"{domain}\" }}\n"
        );
    }
    let dns = format!("{}\ninternal_servers = [\"{}\"]", public.setting(), internal.address);
    // Ours is another address than that of the server inside.
    let config = head(&dns).replace("127.0.0.1:0", "127.0.0.3:0") + &config + "[delivery]\nmx_port = {sink}\n";
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    for (n, (name, _)) in tenants.into_iter().enumerate() {
        let to = format!("anna@{name}.example");
        assert!(send(&scene, &[&to]).await[0].starts_with("250 "));
        assert_eq!(scene.taken("sink", n + 1).await[n].recipients, [to.as_str()]);
        let inside = |event: &Value| event["to"] == to.as_str() && event.to_string().contains("inside.split.example");
        scene.happened("delivered", inside).await;
    }
    scene.queue(0).await.unwrap();
    scene.server.stop().await;
}
