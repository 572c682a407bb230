//! Who may connect and send, how often and under which name, over TCP: R65 to R68 and R70 to R72. R69 and R73 are dialogues.

use std::path::Path;

use postern_tests::client::Client;
use postern_tests::dns::Dns;
use postern_tests::scene::{OFFICE, PATIENCE, Scene, head};
use tokio::net::TcpStream;

/// The plugin with these settings, and a destination without mailboxes named `refuse` and `later`.
async fn scene(directory: &Path, dns: &Dns, settings: &str, chain: &str) -> Scene {
    let plugin =
        format!("[[plugin]]\nname = \"connection-policy\"\nconfig = {{ {settings} }}\n[chain]\nplatform = [{chain}]\n");
    Scene::set(&[head(&dns.setting()).as_str(), OFFICE, &plugin].concat(), directory).await.unwrap()
}

/// What the banner says to a client at that address; an empty one: at ours.
async fn connect(scene: &Scene, address: &str) -> (Client, String) {
    let stream = TcpStream::connect(scene.address()).await.unwrap();
    let mut client = Client::new(Box::new(stream), false, PATIENCE);
    let mut banner = client.line().await.unwrap();
    if !address.is_empty() {
        client.send(format!("XCLIENT ADDR={address}\r\n").as_bytes()).await;
        banner = client.line().await.unwrap();
    }
    (client, banner)
}

/// The reply to RCPT of a client that says this name.
async fn recipient(client: &mut Client, name: &str, to: &str) -> String {
    client.send(format!("EHLO {name}\r\n").as_bytes()).await;
    client.reply().await.unwrap();
    client.send(format!("MAIL FROM:<a@client.example>\r\nRCPT TO:<{to}>\r\n").as_bytes()).await;
    client.line().await.unwrap();
    client.line().await.unwrap()
}

async fn said_to(scene: &Scene, address: &str, name: &str) -> String {
    recipient(&mut connect(scene, address).await.0, name, "b@example.com").await
}

const PLUGIN: &str = r#""connection-policy""#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r65_the_clients_address_has_a_name_that_leads_back() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    dns.ptr("192.0.2.1", "mail.client.example").address("mail.client.example", "192.0.2.1");
    dns.ptr("192.0.2.2", "mail.client.example").fails("192.0.2.3");
    let scene = scene(directory.path(), &dns, "require_client_name = true", PLUGIN).await;
    for (address, expected) in [
        ("192.0.2.1", "250 "),
        ("192.0.2.2", "550 5.7.25 "),
        ("192.0.2.3", "451 4.7.25 "),
        ("192.0.2.4", "550 5.7.25 "),
        ("198.51.100.1", "250 "),
    ] {
        let said = said_to(&scene, address, "mail.client.example").await;
        assert!(said.starts_with(expected), "{address}: {said}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r66_connections_of_one_client_at_once() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let scene = scene(directory.path(), &dns, "max_connections = 2, exempt_networks = []", PLUGIN).await;
    let mut open = Vec::new();
    for expected in ["220 ", "220 ", "421 4.7.0 "] {
        let (client, banner) = connect(&scene, "").await;
        assert!(banner.starts_with(expected), "{banner}");
        open.push(client);
    }
    open.last_mut().unwrap().closed().await.unwrap();
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r67_messages_of_one_client_a_minute() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let scene = scene(directory.path(), &dns, "messages_per_minute = 2", PLUGIN).await;
    // A minute may end meanwhile; then there are two of each, and no more.
    let mut said = Vec::new();
    for _ in 0..5 {
        said.push(said_to(&scene, "198.51.100.1", "mail.client.example").await);
    }
    let taken = said.iter().filter(|reply| reply.starts_with("250 ")).count();
    assert!((2..=4).contains(&taken), "{said:?}");
    assert!(said.iter().all(|reply| reply.starts_with("250 ") || reply.starts_with("450 4.7.1 ")), "{said:?}");
    let another = said_to(&scene, "198.51.100.2", "mail.client.example").await;
    assert!(another.starts_with("250 "), "{another}");
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r68_new_connections_of_one_client_a_minute() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let settings = "connections_per_minute = 2, exempt_networks = []";
    let scene = scene(directory.path(), &dns, settings, PLUGIN).await;
    let mut banners = Vec::new();
    for _ in 0..5 {
        banners.push(connect(&scene, "").await.1);
    }
    let taken = banners.iter().filter(|banner| banner.starts_with("220 ")).count();
    assert!((2..=4).contains(&taken), "{banners:?}");
    assert!(banners.iter().all(|banner| banner.starts_with("220 ") || banner.starts_with("421 4.7.0 ")), "{banners:?}");
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r70_r71_helo_names() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    dns.address("mail.client.example", "192.0.2.1").mx("mx.client.example", 10, "mail.client.example");
    dns.txt("txt.client.example", "x").fails("down.client.example");
    let scene = scene(directory.path(), &dns, "require_helo_in_dns = true", PLUGIN).await;
    for (name, expected) in [
        ("mail.client.example", "250 "),
        ("mx.client.example", "250 "),
        ("[192.0.2.1]", "250 "),
        ("txt.client.example", "550 5.7.0 Your HELO name is not in DNS"),
        ("gone.client.example", "550 5.7.0 Your HELO name is not in DNS"),
        ("down.client.example", "451 4.7.0 "),
        ("mail", "550 5.7.0 HELO needs a fully qualified"),
        ("192.0.2.1", "550 5.7.0 HELO needs a fully qualified"),
    ] {
        let said = said_to(&scene, "192.0.2.1", name).await;
        assert!(said.starts_with(expected), "{name}: {said}");
        let trusted = said_to(&scene, "198.51.100.1", name).await;
        assert!(trusted.starts_with("250 "), "{name}: {trusted}");
    }
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r72_who_writes_to_unknown_recipients_is_kept_out() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let settings = "max_unknown_recipients = 2, exempt_networks = []";
    let scene = scene(directory.path(), &dns, settings, r#""connection-policy", "recipients""#).await;
    // Of all sessions together; what is deferred is no mailbox that does not exist.
    let (mut first, _) = connect(&scene, "").await;
    let (mut second, _) = connect(&scene, "").await;
    let unknown = "550 5.1.1 No such mailbox here";
    assert_eq!(recipient(&mut first, "mail.client.example", "refuse@example.com").await, unknown);
    assert_eq!(recipient(&mut second, "mail.client.example", "refuse@example.com").await, unknown);
    assert!(recipient(&mut second, "mail.client.example", "later@example.com").await.starts_with("450 4.1.1 "));
    assert_eq!(recipient(&mut second, "mail.client.example", "refuse@example.com").await, unknown);
    let blocked = "421 4.7.0 Too many unknown recipients from your address today, try again tomorrow";
    assert_eq!(recipient(&mut first, "mail.client.example", "b@example.com").await, blocked);
    first.closed().await.unwrap();
    assert_eq!(connect(&scene, "").await.1, blocked);
    scene.server.stop().await;
}
