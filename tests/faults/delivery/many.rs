//! O9 and O11: destinations that are dead, many at once, and what comes when one is back.

use std::time::Duration;

use postern::queue::{Filter, Standing};
use postern_tests::dns::Dns;
use postern_tests::next_hop::{Fault, NextHop};
use postern_tests::scene::{OFFICE, PATIENCE, Scene, head};
use serde_json::Value;

use super::{MAIL, SENDER, SHORT, Stage, says};

const USER: &str = "198.51.100.7";
const DEAD: usize = 150;

fn attempts(events: &[Value], route: &str) -> usize {
    let is_it = |event: &&Value| event["event"] == "attempt" && event["route"].as_str().unwrap_or("").contains(route);
    events.iter().filter(is_it).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o9_dead_destinations_by_the_hundred_do_not_hold_up_those_that_live() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let dead = NextHop::start_at("127.0.0.9:0").await.unwrap();
    dead.fails("connect", usize::MAX, Fault::Hangs);
    let port = dead.address.port();
    let live = NextHop::start_at(&format!("127.0.0.1:{port}")).await.unwrap();
    dns.address("live.example", "127.0.0.1");
    for n in 0..DEAD {
        dns.address(&format!("dead{n}.example"), "127.0.0.9");
    }
    let config = head(&dns.setting()).replace("127.0.0.1:0", "127.0.0.3:0");
    let limits = format!("mx_port = {port}\ngreeting_timeout = \"2s\"\n[queue]\nconcurrency = 16\n");
    let scene = Scene::set(&format!("{config}{OFFICE}[delivery]\n{limits}"), directory.path()).await.unwrap();
    let send = async |to: String| {
        let reply = scene.send(USER, SENDER, &[&to], MAIL).await;
        assert!(reply.starts_with("250 "), "{to}: {reply}");
    };
    let delivered = |count: usize| {
        scene.until(move |events| events.iter().filter(|event| event["event"] == "delivered").count() == count)
    };
    send("ann@live.example".to_owned()).await;
    delivered(1).await;
    for n in 0..DEAD {
        send(format!("bob@dead{n}.example")).await;
    }
    for count in 2..7 {
        send("ann@live.example".to_owned()).await;
        delivered(count).await;
    }
    // In turn, each of the five would have waited until all that are dead had been tried: some 20 s.
    let tried = attempts(&scene.events(), "dead");
    assert!(tried < DEAD, "{tried} tried before");
    assert_eq!(live.taken().len(), 6);
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o9_much_mail_for_one_dead_destination_is_one_matter() {
    let stage = Stage::set(2, SHORT).await;
    let (dead, live) = (&stage.hops[0], &stage.hops[1]);
    dead.fails("connect", usize::MAX, says("421 4.3.2 down"));
    for _ in 0..200 {
        stage.send(&["jones@c0.example"], MAIL).await;
    }
    let id = stage.send(&["jones@c1.example"], MAIL).await;
    assert_eq!(stage.outcome(&id, "jones@c1.example").await, "delivered 250 2.0.0 taken");
    // At first four at a time, then one for all, after a minute.
    assert!((1..=4).contains(&dead.connections()), "{}", dead.connections());
    dead.recover();
    stage.drain().await;
    assert_eq!((dead.taken().len(), live.taken().len()), (200, 1));
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o11_what_failed_together_is_not_tried_together() {
    let stage = Stage::set(1, SHORT).await;
    stage.hops[0].fails("MAIL", usize::MAX, says("451 4.3.0 later"));
    let mut waits = Vec::new();
    for _ in 0..40 {
        let id = stage.send(&["jones@c0.example"], MAIL).await;
        stage.outcome(&id, "jones@c0.example").await;
        let events = stage.scene.events();
        let event = events.iter().find(|event| event["event"] == "deferred" && event["id"] == *id).unwrap();
        let time = |key: &str| event[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        waits.push(time("next").duration_since(time("time")).as_secs() / 60);
    }
    assert!(waits.iter().all(|minutes| (53..=66).contains(minutes)), "{waits:?}");
    let (first, last) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(last - first >= 4, "within six minutes to both sides of an hour: {waits:?}");
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o11_a_destination_that_is_back_gets_more_and_more() {
    let stage = Stage::set(1, SHORT).await;
    let hop = &stage.hops[0];
    hop.fails("connect", usize::MAX, Fault::Leaves(Vec::new()));
    for _ in 0..60 {
        stage.send(&["jones@c0.example"], MAIL).await;
    }
    stage.scene.happened("attempt", |event| event["destination_down"] == true).await;
    let is_quiet = async {
        let filter = Filter { state: Some(Standing::Delivering), ..Filter::default() };
        while !stage.scene.server.queue().list(&filter).await.unwrap().messages.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, is_quiet).await.unwrap();
    hop.recover();
    // Each takes a moment, so that those who come together are seen together.
    hop.fails(".", usize::MAX, Fault::Waits(Duration::from_millis(20)));
    stage.drain().await;
    let starts = hop.starts();
    assert_eq!(hop.taken().len(), 60);
    for (under_way, taken) in &starts {
        let most = 20.min(1 << (*taken).min(5));
        assert!(*under_way <= most, "{under_way} at a time after {taken}: {starts:?}");
    }
    assert!(starts.iter().any(|(under_way, _)| *under_way >= 8), "{starts:?}");
    stage.scene.server.stop().await;
}
