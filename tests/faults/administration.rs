//! Admin, config, observability. G: HTTP, control socket, config, log and metrics.

mod control;
mod http;
mod reload;
mod told;

use postern_tests::scene::{NO_DNS, Scene, head};

const MAIL: &str = "From: smith@client.example\r\nSubject: x\r\n\r\nx\r\n";
const HTTP: &str = "[server.http]\naddress = \"127.0.0.1:0\"\n";

fn config(more: &str) -> String {
    format!("{}{more}", head(NO_DNS))
}

/// Mail is taken and arrives; so many have arrived before.
async fn mail_goes_on(scene: &Scene, before: usize) {
    let reply = scene.send("198.51.100.9", "smith@client.example", &["jones@example.com"], MAIL).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}\n{}", scene.story());
    assert_eq!(scene.taken("sink", before + 1).await.len(), before + 1);
}
