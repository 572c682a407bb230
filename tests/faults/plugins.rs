//! Wasm plugins. W: plugins that loop, hoard, trap, flood, inject or are swapped.

mod edits;
mod hostile;
mod matrix;
mod scopes;

use postern::cli::control::plugin::Install;
use postern_tests::guest::Guest;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};

/// What a mail is here.
const MAIL: &str = "From: smith@client.example\r\nSubject: x\r\n\r\nx\r\n";
const LOOP: &str = "(loop $forever (br $forever))";

/// Tenant `example`, whose plugin misbehaves, and tenant `other` with `example.org`, whose mail must not notice.
fn config(more: &str) -> String {
    let other = r#"
[[tenant]]
name = "other"
domains = ["example.org"]
destination = { host = "127.0.0.1", port = {other}, tls = "never" }
"#;
    format!("{}{other}{more}", head(NO_DNS))
}

/// Installs it as the tenant's plugin `guest`.
async fn install(scene: &Scene, tenant: &str, guest: &Guest, settings: &str) -> Result<String, String> {
    install_octets(scene, tenant, guest.build().to_vec(), settings).await
}

async fn install_octets(scene: &Scene, tenant: &str, octets: Vec<u8>, settings: &str) -> Result<String, String> {
    let request = Install {
        name: "guest".to_owned(),
        scope: format!("tenant:{tenant}"),
        octets: octets.len() as u64,
        file: "guest.wasm".to_owned(),
        settings: (!settings.is_empty()).then(|| settings.to_owned()),
        settings_path: "/nowhere/guest.toml".into(),
        enabled: true,
    };
    scene.server.live().install(request, octets).await.map_err(|refusal| refusal.to_string())
}

/// So many calls of the plugin have failed of that cause.
fn failures(scene: &Scene, scope: &str, plugin: &str, cause: &str) -> u64 {
    // The host's accounts become series when they are read.
    drop(scene.metrics.render());
    scene.metrics.plugin_call_failures.with_label_values(&[plugin, scope, cause]).get()
}

/// The mail of both tenants is taken and arrives: neither the fault nor what it left behind is in its way.
async fn all_is_well(scene: &Scene, expected: &mut [usize; 2]) {
    for (to, sink, count) in [("jones@example.com", "sink", 0), ("jones@example.org", "other", 1)] {
        let reply = scene.send("198.51.100.9", "smith@client.example", &[to], MAIL).await;
        assert!(reply.starts_with("250 2.0.0"), "{to}: {reply}\n{}", scene.story());
        expected[count] += 1;
        let taken = scene.taken(sink, expected[count]).await;
        assert_eq!(taken.len(), expected[count], "{sink} has taken more than was sent");
    }
}

/// Waits for what comes by itself.
async fn until(what: &str, scene: &Scene, so: impl AsyncFn() -> bool) {
    let come = async {
        while !so().await {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, come).await.is_err() {
        panic!("{what} never came\n{}", scene.story());
    }
}
