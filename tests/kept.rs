//! What the gateway remembers and reads by itself: counts and stored values over a restart, tables that change.

use std::path::Path;
use std::time::Duration;

use postern_tests::scene::{NO_DNS, Scene, head};

use crate::live::{connected, try_recipient};

async fn scene(more: &str, directory: &Path) -> Scene {
    Scene::set(&format!("{}{more}", head(NO_DNS)), directory).await.unwrap()
}

const LIMITS: &str = r#"
[[trusted_network]]
name = "here"
network = "127.0.0.0/8"
tenant = "example"
[[plugin]]
name = "limits"
source = "builtin:limits"
config = { address = { messages_per_day = 3 } }
[chain]
platform = ["limits"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r23_a_count_of_the_day_outlasts_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(LIMITS, directory.path()).await;
    let mut client = connected(&scene).await;
    for _ in 0..2 {
        assert!(try_recipient(&mut client, "a@example.com", "b@example.com").await.starts_with("250"));
    }
    drop(client);
    let scene = scene.restart(directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    assert!(try_recipient(&mut client, "a@example.com", "b@example.com").await.starts_with("250"));
    let refused = try_recipient(&mut client, "a@example.com", "b@example.com").await;
    assert!(refused.starts_with("450 4.7.1 Your address has sent its 3 messages a day"), "{refused}");
    scene.server.stop().await;
}

const GREYLIST: &str = r#"
[[plugin]]
name = "greylist"
source = "builtin:greylist"
config = { delay = 0, exempt_networks = [] }
[chain]
platform = ["greylist"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_greylisted_is_known_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let scene = scene(GREYLIST, directory.path()).await;
    let mut client = connected(&scene).await;
    let first = try_recipient(&mut client, "a@client.example", "b@example.com").await;
    assert!(first.starts_with("451 4.7.1 Greylisted"), "{first}");
    drop(client);
    let scene = scene.restart(directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    let again = try_recipient(&mut client, "a@client.example", "b@example.com").await;
    assert!(again.starts_with("250"), "{again}");
    // A file that is damaged keeps nobody from starting.
    drop(client);
    let kept = directory.path().join("spool/state/kept");
    std::fs::write(&kept, "noise").unwrap();
    let scene = scene.restart(directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    let anew = try_recipient(&mut client, "a@client.example", "b@example.com").await;
    assert!(anew.starts_with("451 4.7.1 Greylisted"), "{anew}");
    assert!(std::fs::read(kept.with_extension("damaged")).unwrap().starts_with(b"noise"));
    scene.server.stop().await;
}

const LISTS: &str = r#"
[[table]]
name = "pests"
file = "pests"
format = "csv"
key_column = "mail"
value_column = "rule"
[[plugin]]
name = "access"
source = "builtin:access"
tables = { pests = "table:pests" }
config = { tables = { sender = "pests" } }
[chain]
platform = ["access"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_acts_without_a_reload_and_a_broken_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let write = |content: &str| {
        let aside = directory.path().join("pests.new");
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(aside, directory.path().join("pests")).unwrap();
    };
    write("rule,mail\nreject r,smith@client.example\n");
    let scene = scene(LISTS, directory.path()).await;
    let mut client = connected(&scene).await;
    let [smith, jones, brown] = ["smith", "jones", "brown"].map(|name| format!("{name}@client.example"));
    assert!(try_recipient(&mut client, &smith, "b@example.com").await.starts_with("550"));
    assert!(try_recipient(&mut client, &jones, "b@example.com").await.starts_with("250"));
    // Half of a row, and then the whole of it.
    write("rule,mail\nreject r,jones@client.example\n\"reject r,bro");
    write("rule,mail\nreject r,jones@client.example\nreject r,brown@client.example\n");
    let acts = async {
        while try_recipient(&mut client, &brown, "b@example.com").await.starts_with("250") {}
        assert!(try_recipient(&mut client, &jones, "b@example.com").await.starts_with("550"));
        assert!(try_recipient(&mut client, &smith, "b@example.com").await.starts_with("250"));
        // A broken one is refused by a reload, and the old one stays.
        write("rule,address\nreject r,smith@client.example\n");
        let refused = scene.server.live().reload().await.unwrap_err();
        assert_eq!(refused, "plugin access: table pests: there is no column `mail` in the first line");
        assert!(try_recipient(&mut client, &brown, "b@example.com").await.starts_with("550"));
    };
    tokio::time::timeout(Duration::from_secs(60), acts).await.unwrap();
    // After a restart there is no old one: nobody can say who is listed, so mail waits.
    let scene = scene.restart(directory.path()).await.unwrap();
    let mut client = connected(&scene).await;
    assert!(try_recipient(&mut client, &smith, "b@example.com").await.starts_with("451 4.3.0"));
    scene.server.stop().await;
}
