//! Delivery side, where it takes root, time or Debian packages: a network of its own, in which packets get lost (`nftables`,
//! `iproute2`, `util-linux`).

use std::process::Command;
use std::time::{Duration, Instant};

use postern::queue::Filter;
use postern_tests::next_hop::NextHop;
use postern_tests::scene::{NO_DNS, PATIENCE, Scene, head};
use serde_json::Value;

/// Runs a test of this binary that is ignored else in a network namespace of its own.
fn in_own_network(test: &str) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("--net").arg(this).args(["--ignored", "--exact", "--nocapture", test]);
    let output = command.output().expect("unshare, of util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn run(line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What goes to that port vanishes, without a word.
fn swallow(port: u16) {
    run("nft add table inet hole");
    run("nft add chain inet hole out { type filter hook output priority 0 ; }");
    run(&format!("nft add rule inet hole out tcp dport {port} drop"));
}

#[test]
fn o5_a_black_hole_is_left_in_time_and_holds_up_nobody_else() {
    in_own_network("delivery::in_a_network_with_a_hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "in a network of its own"]
async fn in_a_network_with_a_hole() {
    run("ip link set lo up");
    let (hop, other) = (NextHop::start().await.unwrap(), NextHop::start().await.unwrap());
    let config = format!(
        "{}[queue]\nretry = [\"1h\"]\n\
         [delivery]\nconnect_timeout = \"2s\"\ncommand_timeout = \"2s\"\nidle_timeout = \"60s\"\n\
         [[tenant]]\nname = \"other\"\ndomains = [\"other.example\"]\n\
         destination = {{ host = \"127.0.0.1\", port = {}, tls = \"never\" }}\n",
        head(NO_DNS).replace("{sink}", &hop.address.port().to_string()),
        other.address.port()
    );
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene::set(&config, directory.path()).await.unwrap();
    let send = async |to: &str| {
        let reply = scene.send("192.0.2.7", "", &[to], "Subject: x\r\n\r\nhello\r\n").await;
        assert!(reply.starts_with("250 "), "{reply}");
        reply.rsplit(' ').next().unwrap().to_owned()
    };
    let became = async |what: &str, id: &str| {
        scene.happened(what, |event| event["id"] == id).await;
        let is_it = |event: &&Value| event["event"] == what && event["id"] == id;
        scene.events().iter().find(is_it).unwrap()["reply"].as_str().unwrap().to_owned()
    };
    let tried_again = async || {
        let gone = async {
            while !scene.server.queue().list(&Filter::default()).await.unwrap().messages.is_empty() {
                scene.server.queue().flush(&Filter::default()).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    };

    // Nobody answers the first packet.
    swallow(hop.address.port());
    let begun = Instant::now();
    let lost = send("jones@example.com").await;
    let good = send("jones@other.example").await;
    became("delivered", &good).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(became("deferred", &lost).await, "451 4.4.1 No connection to 127.0.0.1: timed out");
    assert!((2..6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    run("nft delete table inet hole");
    tried_again().await;
    assert_eq!(hop.taken().len(), 1);

    // A connection that is there, and half open from here on.
    swallow(hop.address.port());
    let begun = Instant::now();
    let lost = send("jones@example.com").await;
    let good = send("jones@other.example").await;
    became("delivered", &good).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(became("deferred", &lost).await, "451 4.4.1 No connection to 127.0.0.1: timed out");
    assert!((4..9).contains(&begun.elapsed().as_secs()), "MAIL, then a new connection: {:?}", begun.elapsed());
    run("nft delete table inet hole");
    tried_again().await;
    assert_eq!((hop.taken().len(), other.taken().len()), (2, 2));
    scene.server.stop().await;
}
