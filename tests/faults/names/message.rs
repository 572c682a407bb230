//! N5 to N9: what records and messages hold.

use postern_tests::dns::{Dns, Manner};

use super::{MAIL, Stage, VERIFIERS};

fn records(dns: &Dns) {
    let includes = |count: usize| (0..count).map(|n| format!("include:i{n}.example ")).collect::<String>();
    for n in 0..11 {
        dns.txt(&format!("i{n}.example"), "v=spf1 ip4:203.0.113.9 -all");
    }
    dns.txt("ten.example", &format!("v=spf1 {}ip4:192.0.2.7 -all", includes(10)));
    dns.txt("eleven.example", &format!("v=spf1 {}ip4:192.0.2.7 -all", includes(11)));
    dns.txt("voids.example", "v=spf1 a:v1.example a:v2.example ip4:192.0.2.7 -all");
    dns.txt("over.example", "v=spf1 a:v1.example a:v2.example a:v3.example ip4:192.0.2.7 -all");
    dns.txt("loop.example", "v=spf1 redirect=loop.example");
    dns.txt("ring.example", "v=spf1 include:ring2.example -all")
        .txt("ring2.example", "v=spf1 include:ring.example -all");
    dns.txt("mx.example", "v=spf1 mx:hosts.example ip4:192.0.2.7 -all");
    for n in 0..11 {
        dns.mx("hosts.example", 10, &format!("m{n}.example"));
    }
    dns.txt("bomb.example", &format!("v=spf1 exists:{}.example ip4:192.0.2.7 -all", "%{s}".repeat(20)));
    dns.txt("label.example", &format!("v=spf1 a:{}.example ip4:192.0.2.7 -all", "a".repeat(100)));
    dns.txt("space.example", "v=spf1 a:\u{200b}b.example -all");
    dns.txt("why.example", "v=spf1 -all exp=text.example").txt("text.example", "%{s}%{s}%{s} 250 fine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_the_limits_of_spf() {
    let stage = Stage::set(VERIFIERS).await;
    records(&stage.dns);
    let mut taken = 0;
    for (domain, expected) in [
        ("ten", "spf=pass"),
        ("eleven", "spf=permerror"),
        ("voids", "spf=pass"),
        ("over", "spf=permerror"),
        ("loop", "spf=permerror"),
        ("ring", "spf=permerror"),
        ("mx", "spf=permerror"),
        ("bomb", "spf=pass"),
        ("label", "spf="),
        ("space", "spf=permerror"),
    ] {
        let reply = stage.send(&format!("joe@{domain}.example"), MAIL).await;
        assert!(reply.starts_with("250 "), "{domain}: {reply}");
        taken += 1;
        let results = stage.results(taken).await;
        assert!(results.contains(expected), "{domain}: {results}");
    }
    let reply = stage.send("joe@why.example", MAIL).await;
    assert!(reply.starts_with("550 5.7.23 ") && reply.len() <= 512, "{reply}");
    stage.goes_on().await;
    stage.scene.server.stop().await;
}

/// A signature that must be looked at: the hash of the body is that of this mail's.
fn signature(selector: &str) -> String {
    // SHA-256 of "hello\r\n", relaxed and simple alike.
    let hash = "zS7KNTV0HyeorkDDGwxB1AV6enuRKzO5rthkhdHIRnY=";
    format!(
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sign.example; s={selector};\r\n\t\
         h=From:Subject; bh={hash};\r\n\tb={}\r\n",
        "YWJj".repeat(80)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n6_of_hundreds_of_signatures_ten_are_looked_at() {
    let stage = Stage::set(VERIFIERS).await;
    let fields: String = (0..400).map(|n| signature(&format!("s{n}"))).collect();
    let reply = stage.send("joe@good.example", &format!("{fields}{MAIL}")).await;
    assert!(reply.starts_with("250 "), "{reply}");
    let results = stage.results(1).await;
    assert_eq!(results.matches("dkim=").count(), 10, "{results}");
    assert!(!results.contains("dkim=pass"), "{results}");
    let asked = stage.dns.asked("._domainkey.sign.example");
    assert!(asked <= 10, "{asked} keys were asked for");
    // One that is monstrous, one that is weak, and none at all.
    stage.dns.txt("big._domainkey.sign.example", &format!("v=DKIM1; p={}", "A".repeat(220)));
    stage.dns.misbehaves("gone._domainkey.sign.example", Manner::Octets(b"\xff".to_vec()));
    for (n, (selector, outcomes)) in
        [("big", &["dkim=fail", "dkim=permerror", "dkim=neutral"][..]), ("gone", &["dkim=temperror"])]
            .into_iter()
            .enumerate()
    {
        let reply = stage.send("joe@good.example", &format!("{}{MAIL}", signature(selector))).await;
        assert!(reply.starts_with("250 "), "{reply}");
        let results = stage.results(n + 2).await;
        assert!(outcomes.iter().any(|outcome| results.contains(outcome)), "{selector}: {results}");
    }
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n7_authors_that_nobody_can_tell_and_several() {
    let stage = Stage::set(VERIFIERS).await;
    stage.dns.txt("_dmarc.strict.example", "v=DMARC1; p=reject").txt("_dmarc.good.example", "v=DMARC1; p=reject");
    stage.dns.txt("_dmarc.two.example", "v=DMARC1; p=reject").txt("_dmarc.two.example", "v=DMARC1; p=none");
    stage.dns.txt("_dmarc.odd.example", "v=DMARC1; p=whatever");
    let deep = format!("joe@{}strict.example", "a.".repeat(30));
    for (from, expected) in [
        ("From: joe@good.example\r\n", "250 "),
        ("", "550 5.7.1 "),
        ("From: joe@good.example\r\nFrom: joe@good.example\r\n", "550 5.7.1 "),
        ("From: joe@good.example, boss@strict.example\r\n", "550 5.7.1 "),
        ("From: boss@strict.example, joe@good.example\r\n", "550 5.7.1 "),
        ("From: undisclosed:;\r\n", "550 5.7.1 "),
        ("From: friends: joe@good.example, boss@strict.example;\r\n", "550 5.7.1 "),
        ("From: joe\r\n", "550 5.7.1 "),
        ("From: =?utf-8?q?joe=40good.example?=\r\n", "550 5.7.1 "),
        ("From: \"joe@good.example\" <boss@strict.example>\r\n", "550 5.7.1 "),
        (&format!("From: {deep}\r\n"), "550 5.7.1 "),
        // Two records are none (RFC 9989), and so is one without a policy that can be read.
        ("From: joe@two.example\r\n", "250 "),
        ("From: joe@odd.example\r\n", "250 "),
    ] {
        let reply = stage.send("joe@good.example", &format!("{from}Subject: x\r\n\r\nhello\r\n")).await;
        assert!(reply.starts_with(expected), "{from:?}: {reply}");
    }
    // RFC 9989 §4.10: eight queries for a policy, however deep the name.
    let walked = stage.dns.asked("a.strict.example");
    assert!(walked <= 12, "{walked} queries");
    stage.goes_on().await;
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n8_results_in_our_name_are_removed_however_they_are_spelled() {
    let stage = Stage::set(VERIFIERS).await;
    let own = [
        "Authentication-Results: mx.example.net; forged=1",
        "AUTHENTICATION-RESULTS: MX.Example.NET; forged=1",
        "authentication-results : mx.example.net ; forged=1",
        "Authentication-Results:\r\n\tmx.example.net\r\n ; forged=1",
        "Authentication-Results: (a (nested) \\) one) mx.example.net 1; forged=1",
        "Authentication-Results: \"mx.example.net\"; forged=1",
        "Authentication-Results: \"mx.ex\\ample.net\"; forged=1",
        "Authentication-Results: mx.example.net.; forged=1",
        "Authentication-Results: mx.example.net(x); forged=1",
        "Authentication-Results: mx.example.net/1; forged=1",
        "Authentication-Results: mx.example.net,; forged=1",
        "Authentication-Results: (mx.example.net; forged=1",
        "Authentication-Results: \"mx.example.net; forged=1",
        "Authentication-Results: mx.example.net",
        "Resent-From: x@y.example\r\nAuthentication-Results: mx.example.net; forged=1\r\nResent-To: z@y.example",
    ];
    let others = "Authentication-Results: other.example; smtp.mailfrom=mx.example.net";
    let fields: String = own.iter().map(|field| format!("{field}\r\n")).collect();
    let reply = stage.send("joe@good.example", &format!("{fields}{others}\r\n{MAIL}")).await;
    assert!(reply.starts_with("250 "), "{reply}");
    let results = stage.results(1).await;
    assert!(results.contains("spf=pass"), "{results}");
    let text = stage.scene.taken("sink", 1).await.remove(0).octets.escape_ascii().to_string();
    assert!(!text.contains("forged"), "{text}");
    assert!(text.contains(others) && text.contains("Resent-To: z@y.example"), "{text}");
    // Each alone, too: none hides behind another.
    for (n, field) in own.iter().enumerate() {
        assert!(stage.send("joe@good.example", &format!("{field}\r\n{MAIL}")).await.starts_with("250 "));
        stage.results(n + 2).await;
        let text = stage.scene.taken("sink", n + 2).await.remove(n + 1).octets.escape_ascii().to_string();
        assert!(!text.contains("forged"), "{field}: {text}");
    }
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n9_a_chain_of_more_than_fifty_sets_is_no_chain() {
    let stage = Stage::set(VERIFIERS).await;
    stage.dns.txt("_dmarc.strict.example", "v=DMARC1; p=reject");
    let set = |n: usize| {
        let validation = if n == 1 { "none" } else { "pass" };
        format!(
            "ARC-Seal: i={n}; a=rsa-sha256; cv={validation}; d=lists.example; s=s; t=1; b=YWJj\r\n\
             ARC-Message-Signature: i={n}; a=rsa-sha256; c=relaxed/relaxed; d=lists.example; s=s; h=From; bh=YWJj; b=YWJj\r\n\
             ARC-Authentication-Results: i={n}; lists.example; dmarc=pass header.from=strict.example\r\n"
        )
    };
    for sets in [1, 50, 51, 60] {
        let fields: String = (1..=sets).rev().map(set).collect();
        let mail = format!("{fields}From: boss@strict.example\r\nSubject: x\r\n\r\nhello\r\n");
        let reply = stage.send("list@good.example", &mail).await;
        assert!(reply.starts_with("550 5.7.1 "), "{sets}: {reply}");
    }
    let asked = stage.dns.asked("_domainkey.lists.example");
    assert!(asked <= 3, "{asked} questions for one key");
    stage.goes_on().await;
    stage.scene.server.stop().await;
}
