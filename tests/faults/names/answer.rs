//! N1 to N4 and N10: what comes from name servers.

use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::TXT;
use postern_tests::dns::{Dns, Manner};
use postern_tests::scene::PATIENCE;

use super::{CLIENT, MAIL, SENDERS, Stage, USER, VERIFIERS};

/// All that is no clear answer, each at a name of its own.
fn unclear() -> Vec<(&'static str, Manner)> {
    vec![
        ("servfail", Manner::Code(ResponseCode::ServFail)),
        ("refused", Manner::Code(ResponseCode::Refused)),
        ("formerr", Manner::Code(ResponseCode::FormErr)),
        ("lame", Manner::Lame),
        // Over UDP there is more, and over TCP nobody.
        ("truncated", Manner::OverTcp(Vec::new())),
        ("wrong-id", Manner::WrongId),
        ("wrong-question", Manner::WrongQuestion),
        ("rubbish", Manner::Rubbish),
        ("late", Manner::Late(Duration::from_secs(3600))),
        // N4.
        ("loop", Manner::AliasOf("loop2.example".to_owned())),
        ("loop2", Manner::AliasOf("loop.example".to_owned())),
        ("self", Manner::AliasOf("self.example".to_owned())),
        ("c0", Manner::AliasOf("c1.example".to_owned())),
        ("dname", Manner::Dname),
    ]
}

/// The rest of the chain that begins at `c0`; its end is there.
fn chain(dns: &Dns) {
    for n in 1..100 {
        dns.misbehaves(&format!("c{n}.example"), Manner::AliasOf(format!("c{}.example", n + 1)));
    }
    dns.address("c100.example", CLIENT).mx("c100.example", 10, "good.example").txt("c100.example", "v=spf1 +all");
}

fn publish(dns: &Dns, manners: &[(&'static str, Manner)]) {
    chain(dns);
    for (name, manner) in manners.iter() {
        dns.misbehaves(&format!("{name}.example"), manner.clone());
    }
}

/// As sender's domain where it must exist, as that of SPF, and as recipient's: it may delay, never refuse, never pass for
/// what somebody else said.
async fn only_delays(manners: &[(&'static str, Manner)]) {
    let [strict, judging] = [SENDERS, VERIFIERS];
    let strict = Stage::set(strict).await;
    publish(&strict.dns, manners);
    // All at the same time: the silent ones take two tries of half a second.
    let replies = manners.iter().map(|(name, _)| {
        let sender = format!("joe@{name}.example");
        let strict = &strict;
        async move { (*name, strict.send(&sender, MAIL).await) }
    });
    for (name, reply) in all(replies).await {
        assert!(reply.starts_with("451 4.4.3 "), "{name}: {reply}");
    }
    assert!(strict.send("joe@nowhere.example", MAIL).await.starts_with("550 5.1.8 "), "and what is clear is clear");
    strict.goes_on().await;
    strict.scene.server.stop().await;

    let judging = Stage::set(judging).await;
    publish(&judging.dns, manners);
    let sent = manners.iter().map(|(name, _)| {
        let (sender, judging) = (format!("joe@{name}.example"), &judging);
        async move { (*name, judging.send(&sender, MAIL).await) }
    });
    for (name, reply) in all(sent).await {
        assert!(reply.starts_with("250 "), "SPF by default goes on, {name}: {reply}");
    }
    for mail in judging.scene.taken("sink", manners.len()).await {
        let text = mail.octets.escape_ascii().to_string();
        assert!(text.contains("spf=temperror") && !text.contains("spf=pass"), "{}: {text}", mail.sender);
    }
    // To there: it waits.
    for (name, _) in manners {
        let to = format!("bob@{name}.example");
        let reply = judging.scene.send(USER, "ann@example.com", &[&to], MAIL).await;
        assert!(reply.starts_with("250 "), "{reply}");
        let is_so = |event: &serde_json::Value| event["reply"].as_str().unwrap_or("").starts_with("451 4.4.3 ");
        judging.scene.happened("deferred", |event| event["to"] == *to && is_so(event)).await;
    }
    judging.goes_on().await;
    judging.scene.server.stop().await;
}

/// At the same time, in order.
async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, done) in &mut futures {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_n4_what_is_no_clear_answer_only_delays() {
    only_delays(&unclear()).await;
}

/// T-DNS-SHORT: rdata cut short, for every kind of record that is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n10_t_dns_short_records_only_delay() {
    let octets: [(&'static str, &[u8]); 4] =
        [("one", b"\xff"), ("three", b"\xff\xff\xff"), ("open", b"\0\x0a\x03ab"), ("pointer", b"\0\x0a\xc0")];
    only_delays(&octets.map(|(name, octets)| (name, Manner::Octets(octets.to_vec())))).await;
}

/// N1: hundreds of answers under wrong ids, before the right one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_a_flood_of_forged_answers_is_not_believed() {
    let stage = Stage::set(SENDERS).await;
    stage.dns.misbehaves("nowhere.example", Manner::Flooded);
    let reply = stage.send("joe@nowhere.example", MAIL).await;
    // The forger says that the name is there. Nobody could say, or the truth: nothing else.
    assert!(reply.starts_with("451 4.4.3 ") || reply.starts_with("550 5.1.8 "), "{reply}");
    stage.goes_on().await;
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_all_look_ups_of_one_check_end_together_in_time() {
    let stage = Stage::set(&format!("{VERIFIERS}[authentication]\ntimeout = \"1s\"\n")).await;
    let terms: Vec<_> = (0..9).map(|n| format!("include:s{n}.slow.example")).collect();
    stage.dns.txt("slow.example", &format!("v=spf1 {} -all", terms.join(" ")));
    for n in 0..9 {
        let name = format!("s{n}.slow.example");
        stage.dns.txt(&name, "v=spf1 ip4:203.0.113.1 -all").misbehaves(&name, Manner::Late(Duration::from_millis(300)));
    }
    let reply = stage.send("joe@slow.example", MAIL).await;
    assert!(reply.starts_with("250 "), "{reply}");
    let results = stage.results(1).await;
    assert!(results.contains("spf=temperror reason=\"DNS has not answered within 1 s\""), "{results}");
    assert_eq!(postern::authentication::Settings::default().dns_time.as_secs(), 20, "RFC 7208 §4.6.4");
    stage.goes_on().await;
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_many_who_wait_for_a_silent_server_do_not_hold_up_others() {
    let stage = Stage::set(SENDERS).await;
    stage.dns.silent("silent.example");
    for n in 0..40 {
        stage.dns.silent(&format!("s{n}.example"));
    }
    // Those from one address are as many as may be connected at once.
    let waiting = (0..40).map(|n| {
        let (address, sender) = (format!("203.0.113.{n}"), format!("joe@s{n}.example"));
        let stage = &stage;
        async move { stage.scene.send(&address, &sender, &["jones@example.com"], MAIL).await }
    });
    let refused = || stage.scene.events().iter().filter(|event| event["code"] == 451).count();
    let others = async {
        for _ in 0..5 {
            stage.goes_on().await;
        }
        refused()
    };
    let (replies, before) = tokio::join!(all(waiting), others);
    for reply in replies {
        assert!(reply.starts_with("451 4.4.3 "), "{reply}");
    }
    assert!(before < 40, "the others were answered only when all of those had been");
    stage.scene.server.stop().await;
}

/// A storm of names that are not there. That the memory of them is bounded by octets: `dns/cache.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n2_a_storm_of_names_leaves_others_answered() {
    let stage = Stage::set(VERIFIERS).await;
    let storm = async {
        for n in 0..400 {
            let mut client = stage.scene.client("203.0.113.9").await;
            client.send(format!("MAIL FROM:<joe@n{n}.storm.example>\r\n").as_bytes()).await;
            let reply = client.line().await.unwrap();
            assert!(reply.starts_with("250 "), "{n}: {reply}");
        }
    };
    let others = async {
        for _ in 0..5 {
            stage.goes_on().await;
        }
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(storm, others) }).await.unwrap();
    assert_eq!(stage.dns.asked(".storm.example"), 400, "each is asked for once");
    assert!(stage.results(5).await.contains("spf=pass"));
    stage.scene.server.stop().await;
}

fn strings(text: &str) -> RData {
    let pieces = text.as_bytes().chunks(255).map(|piece| String::from_utf8(piece.to_vec()).unwrap());
    RData::TXT(TXT::new(pieces.collect()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_texts_of_any_length_are_read_up_to_a_cap() {
    let stage = Stage::set_with(Dns::start_with_tcp().await.unwrap(), VERIFIERS).await;
    let record = |terms: usize| format!("v=spf1 {}ip4:192.0.2.7 -all", "ip4:198.51.100.1 ".repeat(terms));
    let thousand = RData::TXT(TXT::new(
        record(800).as_bytes().chunks(14).map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect(),
    ));
    for (n, (name, records, expected)) in [
        ("long.example", vec![strings(&record(3700))], "spf=permerror"),
        ("strings.example", vec![thousand], "spf=pass"),
        ("pieces.example", vec![strings(&record(900))], "spf=pass"),
        ("empty.example", vec![RData::TXT(TXT::new(vec![String::new()]))], "spf=none"),
        ("two.example", vec![strings("v=spf1 +all"), strings("v=spf1 -all")], "spf=permerror"),
        ("many.example", (0..200).map(|n| strings(&format!("{n}{}", "x".repeat(250)))).collect(), "spf=none"),
    ]
    .into_iter()
    .enumerate()
    {
        stage.dns.misbehaves(name, Manner::OverTcp(records));
        let reply = stage.send(&format!("joe@{name}"), MAIL).await;
        assert!(reply.starts_with("250 "), "{name}: {reply}");
        let results = stage.results(n + 1).await;
        assert!(results.contains(expected), "{name}: {results}");
    }
    stage.goes_on().await;
    stage.scene.server.stop().await;
}
