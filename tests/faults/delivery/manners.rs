//! O2, O6 to O8 and O10: what a next hop says, offers, takes in part, and when it closes.

use postern_tests::dns::Dns;
use postern_tests::next_hop::{Fault, NextHop};
use postern_tests::scene::{OFFICE, Scene, head};

use super::{CLIENT, MAIL, SENDER, SHORT, STEPS, Stage, play, says};

/// A client of the tenant's, who may send anywhere.
const USER: &str = "198.51.100.7";

/// Two exchanges at one port, the better one first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_an_exchange_that_refuses_to_serve_is_passed_over() {
    let (directory, dns) = (tempfile::tempdir().unwrap(), Dns::start().await.unwrap());
    let first = NextHop::start_at("127.0.0.9:0").await.unwrap();
    let port = first.address.port();
    let second = NextHop::start_at(&format!("127.0.0.1:{port}")).await.unwrap();
    dns.mx("far.example", 10, "first.far.example").mx("far.example", 20, "second.far.example");
    dns.address("first.far.example", "127.0.0.9").address("second.far.example", "127.0.0.1");
    let config = head(&dns.setting()).replace("127.0.0.1:0", "127.0.0.3:0");
    let delivery = format!("[queue]\nretry = [\"1h\"]\n[delivery]\nmx_port = {port}\n");
    let scene = Scene::set(&format!("{config}{OFFICE}{delivery}"), directory.path()).await.unwrap();
    for (n, step) in ["connect", "EHLO", "MAIL"].into_iter().enumerate() {
        for (m, reply) in ["554 5.3.2 not for you", "421 4.3.2 not now"].into_iter().enumerate() {
            if step == "MAIL" && reply.starts_with('5') {
                // That is an answer about this mail, and ends it.
                continue;
            }
            first.fails(step, 1, Fault::Leaves(format!("{reply}\r\n").into_bytes())).fails("HELO", 1, says(reply));
            let reply = scene.send(USER, SENDER, &["bob@far.example"], MAIL).await;
            assert!(reply.starts_with("250 "), "{reply}");
            let count = if step == "MAIL" { 5 } else { 2 * n + m + 1 };
            scene.until(|events| events.iter().filter(|event| event["event"] == "delivered").count() == count).await;
            assert_eq!((first.taken().len(), second.taken().len()), (0, count), "{step} {reply}");
        }
    }
    assert!(scene.events().iter().all(|event| event["event"] != "deferred" && event["event"] != "failed"));
    scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o6_abuse_of_replies_is_never_taken_for_success() {
    let long_line = format!("250 {}\r\n", "a".repeat(1 << 20));
    let mut cases = Vec::new();
    for octets in [
        "250-endless\r\n".repeat(1001).as_bytes(),
        long_line.as_bytes(),
        b"250-a\r\n251 b\r\n",
        b"250 a\0\r\n",
        b"250 a\n",
        b"999 what\r\n",
        b"099 what\r\n",
        b"ok\r\n",
        b"\r\n",
        b"334 what\r\n",
    ] {
        for step in STEPS {
            cases.push((step, Fault::Says(octets.to_vec()), "deferred 451 4.5.0 127.0.0.1 broke the protocol at *"));
        }
    }
    for (step, octets) in [
        ("connect", "250 hi\r\n"),
        ("MAIL", "354 go\r\n"),
        ("DATA", "250 taken\r\n"),
        (".", "354 go\r\n"),
        // Replies that nobody has asked for: which answers what is not known any more.
        ("connect", "220 a\r\n250 b\r\n"),
        ("EHLO", "250 a\r\n250 b\r\n"),
        ("DATA", "354 a\r\n250 taken\r\n"),
        (".", "250 taken\r\n554 no\r\n"),
    ] {
        cases.push((
            step,
            Fault::Says(octets.as_bytes().to_vec()),
            "deferred 451 4.5.0 127.0.0.1 broke the protocol at *",
        ));
    }
    // Without text it is one all the same (RFC 5321 §4.2).
    cases.push((".", Fault::Says(b"250\r\n".to_vec()), "delivered 250*"));
    cases.push((".", Fault::Says(b"250 taken\r\n421 bye\r\n".to_vec()), "delivered 250 taken"));
    let cases = cases.into_iter().map(|(step, fault, expected)| (step, fault, expected.to_owned())).collect();
    play(cases, MAIL).await.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o7_each_recipient_has_a_fate_of_its_own() {
    let stage = Stage::set(1, SHORT).await;
    let [one, refused, later, other] = ["one", "refuse", "later", "other"].map(|name| format!("{name}@c0.example"));
    let id = stage.send(&[&one, &refused, &later, &other], MAIL).await;
    for (to, expected) in [
        (&one, "delivered 250 2.0.0 taken"),
        (&refused, "failed 550 5.1.1 nobody of that name"),
        (&later, "deferred 451 4.2.0 come back"),
        (&other, "delivered 250 2.0.0 taken"),
    ] {
        assert_eq!(stage.outcome(&id, to).await, expected);
    }
    let report = stage.reports(1).await.remove(0);
    assert!(report.contains(&refused) && !report.contains(&later) && !report.contains("other@"), "{report}");
    stage.hops[0].recover();
    stage.drain().await;
    let taken: Vec<_> = stage.hops[0].taken().into_iter().map(|mail| mail.recipients).collect();
    assert_eq!(taken, [vec![one, other], vec![later]]);
    assert_eq!(stage.reports(1).await.len(), 1);
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o8_what_a_next_hop_lacks_is_said_and_nothing_is_damaged() {
    let stage = Stage::set(5, SHORT).await;
    for (hop, offers) in
        stage.hops.iter().zip([&["8BITMIME"][..], &["SMTPUTF8"], &["8BITMIME", "SIZE 90"], &[], &["8BITMIME"]])
    {
        hop.offer(offers);
    }
    let (plain, eight_bit) = (MAIL, "Subject: x\r\n\r\ncaf\u{e9}\r\n");
    let long = format!("{MAIL}{}", "0123456789\r\n".repeat(20));
    let utf8 = "Subject: caf\u{e9}\r\n\r\nhello\r\n";
    let mut failed = 0;
    for (domain, parameters, local, mail, expected) in [
        (0, " BODY=8BITMIME", "jones", eight_bit, "delivered"),
        (1, " BODY=8BITMIME", "jones", eight_bit, "failed 554 5.6.3 "),
        (3, " BODY=8BITMIME", "jones", eight_bit, "failed 554 5.6.3 "),
        // Declared, and not so: there is nothing that could be damaged.
        (3, " BODY=8BITMIME", "jones", plain, "delivered"),
        (2, "", "jones", long.as_str(), "failed 552 5.3.4 "),
        (4, " SMTPUTF8", "caf\u{e9}", plain, "failed 553 5.6.7 "),
        (4, " SMTPUTF8 BODY=8BITMIME", "jones", utf8, "failed 553 5.6.7 "),
        (4, " SMTPUTF8", "jones", plain, "delivered"),
    ] {
        let to = format!("{local}@c{domain}.example");
        let mut client = stage.scene.client(CLIENT).await;
        let mut last = String::new();
        let steps =
            [format!("MAIL FROM:<{SENDER}>{parameters}\r\n"), format!("RCPT TO:<{to}>\r\n"), "DATA\r\n".to_owned()];
        for step in steps.into_iter().chain([format!("{mail}.\r\n")]) {
            client.send(step.as_bytes()).await;
            last = client.line().await.unwrap();
        }
        assert!(last.starts_with("250 "), "{parameters} {mail}: {last}");
        let outcome = stage.outcome(last.rsplit(' ').next().unwrap(), &to).await;
        assert!(outcome.starts_with(expected), "{domain} {parameters} {mail:?}: {outcome}");
        failed += usize::from(outcome.starts_with("failed"));
        if outcome.starts_with("delivered") {
            let taken = stage.hops[domain].taken().pop().unwrap();
            assert!(taken.octets.ends_with(mail.as_bytes()), "{}", taken.octets.escape_ascii());
        }
    }
    assert_eq!(stage.reports(failed).await.len(), failed);
    assert_eq!(stage.hops.iter().map(|hop| hop.taken().len()).sum::<usize>(), 3, "nothing but what was delivered");
    // REQUIRETLS (RFC 8689) is not offered, so nobody can ask for it and then not get it.
    let mut client = stage.scene.client(CLIENT).await;
    client.send(format!("MAIL FROM:<{SENDER}> REQUIRETLS\r\n").as_bytes()).await;
    assert!(client.line().await.unwrap().starts_with("555 5.5.4 "));
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o10_a_connection_closed_while_idle_is_no_failure() {
    let stage = Stage::set(1, SHORT).await;
    let hop = &stage.hops[0];
    let mut sent = 0;
    let gone = || Fault::Leaves(Vec::new());
    for (step, fault) in [
        // Closed at once; when the next mail is begun; with a farewell; with RST.
        (".", Fault::Closes),
        ("MAIL", gone()),
        ("MAIL", Fault::Leaves(b"421 4.4.2 idle for too long\r\n".to_vec())),
        ("MAIL", Fault::Resets),
        (".", Fault::Leaves(b"250 2.0.0 taken\r\n421 4.4.2 bye\r\n".to_vec())),
    ] {
        // One over a connection that is new or good, one over the stale one.
        if step == "." {
            hop.fails(step, 1, fault.clone());
        }
        for turn in 0..2 {
            if turn == 1 && step == "MAIL" {
                hop.fails(step, 1, fault.clone());
            }
            let id = stage.send(&["jones@c0.example"], MAIL).await;
            let outcome = stage.outcome(&id, "jones@c0.example").await;
            assert!(outcome.starts_with("delivered 250 "), "{step} {fault:?}: {outcome}");
            sent += 1;
        }
    }
    assert_eq!(hop.taken().len(), sent, "each once");
    assert!(stage.scene.events().iter().all(|event| event["event"] != "deferred"), "{}", stage.scene.story());
    assert_eq!(hop.connections(), 6);
    stage.scene.server.stop().await;
}
