//! Faults O1 to O8 and the outbound half of "End of data", over a pipe in memory and with a clock that runs ahead.

use super::*;
use crate::mail::{BodyType, BodyWriter, Notify, Ret, Route};

const STAGES: [(&str, &str); 6] = [
    ("greeting", "220 mx.example"),
    ("ehlo", "C: EHLO us.example\nS: 250 mx.example"),
    ("mail", "C: MAIL FROM:<from@us.example>\nS: 250 ok"),
    ("rcpt", "C: RCPT TO:<to@them.example>\nS: 250 ok"),
    ("data", "C: DATA\nS: 354 go"),
    ("dot", ".\nS: 250 2.0.0 taken"),
];

/// All goes well up to this stage; there the server does something else.
fn script_until(stage: &str, fault: &str) -> String {
    let at = STAGES.iter().position(|(name, _)| *name == stage).unwrap();
    let mut script = String::new();
    for (_, steps) in &STAGES[..at] {
        script.push_str(&steps.replace("220 mx", "S: 220 mx"));
        script.push('\n');
    }
    let asked = STAGES[at].1.lines().next().filter(|step| !step.starts_with("220")).unwrap_or("");
    format!("{script}{asked}\n{fault}\n")
}

fn one() -> Job {
    job(Route::Mx(None), &["to@them.example"])
}

#[tokio::test(start_paused = true)]
async fn a_mail_goes_out_step_by_step_without_pipelining() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 250 mx
        C: MAIL FROM:<from@us.example>\nquiet\nS: 250 ok
        C: RCPT TO:<a@them.example>\nquiet\nS: 250 ok
        C: RCPT TO:<b@them.example>\nquiet\nS: 251 forwards
        C: DATA\nquiet\nS: 354 go\n.\nquiet\nS: 250 2.0.0 taken\nend";
    let talk = talk(script, &job(Route::Mx(None), &["a@them.example", "b@them.example"])).await;
    assert_eq!(talk.brief(), "delivered 250 2.0.0 remote, delivered 250 2.0.0 remote");
    assert_eq!(talk.played.contents, [ON_THE_WIRE]);
    assert_eq!(talk.outcomes[0].diagnosis().host.as_deref(), Some("mx.example"));
}

#[tokio::test(start_paused = true)]
async fn with_pipelining_the_envelope_goes_out_at_once() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING
        C: MAIL FROM:<from@us.example>\nC: RCPT TO:<a@them.example>\nC: RCPT TO:<b@them.example>\nC: DATA\nquiet
        S: 250 ok\nS: 250 ok\nS: 550 5.1.1 unknown\nS: 354 go\n.\nS: 250 taken\nend";
    let talk = talk(script, &job(Route::Mx(None), &["a@them.example", "b@them.example"])).await;
    assert_eq!(talk.brief(), "delivered 250 2.0.0 remote, failed 550 5.1.1 remote");
}

#[tokio::test(start_paused = true)]
async fn o1_o2_refusals_at_each_stage() {
    for (stage, _) in STAGES {
        for (reply, expected) in [
            ("451 4.3.0 later", "deferred 451 4.3.0 remote"),
            ("421 4.3.2 closing", "deferred 421 4.3.2 remote"),
            ("450", "deferred 450 4.0.0 remote"),
            ("550 5.7.1 no", "failed 550 5.7.1 remote"),
        ] {
            let fault = match (stage, reply) {
                ("ehlo", "550 5.7.1 no") => format!("S: 502 what\nC: HELO us.example\nS: {reply}\nend"),
                _ => format!("S: {reply}\nend"),
            };
            let talk = talk(&script_until(stage, &fault), &one()).await;
            assert_eq!(talk.brief(), expected, "{stage}: {reply}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn o3_o4_o5_silence_and_closing_at_each_stage() {
    for (stage, _) in STAGES {
        for fault in ["hang", "close", "stall", "S\"250-\"\ndrip", "S\"25\"\nclose"] {
            let talk = talk(&script_until(stage, fault), &one()).await;
            assert_eq!(talk.brief(), "deferred 451 4.4.2 own", "{stage}: {fault}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn o5_a_server_that_stops_reading() {
    let mut job = one();
    job.message = message(format!("A: b\r\n\r\n{}", "0123456789\r\n".repeat(50_000)).as_bytes());
    let talk = talk(&script_until("dot", "").replace("\n.\n", "\nstall\n"), &job).await;
    assert_eq!(talk.failure, Some(Failure::TimedOut(failure::Stage::Content)));
    assert_eq!(talk.brief(), "deferred 451 4.4.2 own");
}

#[tokio::test(start_paused = true)]
async fn o3_a_server_that_always_answers_at_the_last_moment_does_not_keep_a_delivery() {
    let names: Vec<String> = (0..100).map(|n| format!("r{n}@them.example")).collect();
    let job = job(Route::Mx(None), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let slow = "or end\nC: RCPT TO:*\nlate\nS: 250 ok\n".repeat(100);
    let begun = tokio::time::Instant::now();
    let talk = talk(&script_until("rcpt", "").replace("C: RCPT TO:<to@them.example>\n", &slow), &job).await;
    assert_eq!(talk.failure, Some(Failure::TimedOut(failure::Stage::Rcpt)));
    // The script goes on for the rest of its last wait.
    assert!((1800..1800 + 290).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn o6_abuse_is_never_taken_for_success() {
    let long = format!("S: 250 {}", "a".repeat(5000));
    for (stage, _) in STAGES {
        for fault in [
            "S*1001: 250-endless",
            &long,
            "S\"250-a\\r\\n251 b\\r\\n\"",
            "S\"250 a\\0\\r\\n\"",
            "S\"250 a\\n\"",
            "S: 999 what",
            "S: ok",
            "S: 334 what",
        ] {
            let talk = talk(&script_until(stage, &format!("{fault}\nend")), &one()).await;
            assert_eq!(talk.brief(), "deferred 451 4.5.0 own", "{stage}: {fault}");
        }
    }
    for (stage, fault) in
        [("greeting", "S: 250 hi"), ("mail", "S: 354 go"), ("data", "S: 250 ok"), ("dot", "S: 354 go")]
    {
        let talk = talk(&script_until(stage, &format!("{fault}\nend")), &one()).await;
        assert_eq!(talk.brief(), "deferred 451 4.5.0 own", "{stage}: {fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn o6_replies_that_nobody_asked_for() {
    for (stage, fault) in [
        ("greeting", "S\"220 a\\r\\n250 b\\r\\n\""),
        ("ehlo", "S\"250 a\\r\\n250 b\\r\\n\""),
        ("mail", "S\"250 a\\r\\n250 b\\r\\n\""),
        ("rcpt", "S\"250 a\\r\\n250 b\\r\\n\""),
        // Before the dot is sent, success is said already.
        ("data", "S\"354 a\\r\\n250 taken\\r\\n\""),
        ("dot", "S\"250 taken\\r\\n554 no\\r\\n\""),
    ] {
        let talk = talk(&script_until(stage, &format!("{fault}\nend")), &one()).await;
        assert_eq!(talk.brief(), "deferred 451 4.5.0 own", "{stage}");
    }
    let closing = script_until("dot", "S\"250 taken\\r\\n421 bye\\r\\n\"\nclose");
    assert_eq!(talk(&closing, &one()).await.brief(), "delivered 250 2.0.0 remote");
}

#[tokio::test(start_paused = true)]
async fn o6_success_said_within_the_message_does_not_count_and_refusal_does() {
    let mut job = one();
    job.message = message(format!("A: b\r\n\r\n{}", "0123456789\r\n".repeat(50_000)).as_bytes());
    for (reply, expected) in [
        ("250 2.0.0 taken", "deferred 451 4.5.0 own"),
        ("552 5.3.4 too big", "failed 552 5.3.4 remote"),
        ("451 4.3.0 full", "deferred 451 4.3.0 remote"),
    ] {
        let talk = talk(&script_until("data", &format!("S: 354 go\nC: A: b\nC: \nS: {reply}\nhang")), &job).await;
        assert_eq!(talk.brief(), expected, "{reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn o6_data_without_recipients_sends_nothing() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING
        C: MAIL FROM:<from@us.example>\nC: RCPT TO:<to@them.example>\nC: DATA
        S: 250 ok\nS: 550 5.1.1 unknown\nS: 354 go\nend";
    assert_eq!(talk(script, &one()).await.brief(), "failed 550 5.1.1 remote");
}

#[tokio::test(start_paused = true)]
async fn o7_each_recipient_has_an_outcome_of_its_own() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 250 mx
        C: MAIL FROM:<from@us.example>\nS: 250 ok
        C: RCPT TO:<a@them.example>\nS: 550 5.1.1 unknown
        C: RCPT TO:<b@them.example>\nS: 250 ok
        C: RCPT TO:<c@them.example>\nS: 450 4.2.0 greylisted
        C: RCPT TO:<d@them.example>\nS: 552 5.2.2 full
        C: DATA\nS: 354 go\n.\nS: 250 taken\nend";
    let four = job(Route::Mx(None), &["a@them.example", "b@them.example", "c@them.example", "d@them.example"]);
    let done = talk(script, &four).await;
    assert_eq!(
        briefs(&done.outcomes),
        [
            "failed 550 5.1.1 remote",
            "delivered 250 2.0.0 remote",
            "deferred 450 4.2.0 remote",
            "deferred 452 4.2.2 remote"
        ]
    );
    // When the connection is lost, those refused before stay refused.
    let lost = talk(&script.replace("C: DATA\nS: 354 go\n.\nS: 250 taken\nend", "C: DATA\nclose"), &four).await;
    assert_eq!(briefs(&lost.outcomes)[..2], ["failed 550 5.1.1 remote", "deferred 451 4.4.2 own"]);
}

#[tokio::test(start_paused = true)]
async fn too_many_recipients_go_in_a_further_transaction() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 250 mx
        C: MAIL FROM:<from@us.example>\nS: 250 ok
        C: RCPT TO:<a@them.example>\nS: 250 ok
        C: RCPT TO:<b@them.example>\nS: 452 4.5.3 too many
        C: RCPT TO:<c@them.example>\nS: 452 4.3.1 no space
        C: DATA\nS: 354 go\n.\nS: 250 first
        C: MAIL FROM:<from@us.example>\nS: 250 ok
        C: RCPT TO:<b@them.example>\nS: 452 too many still\nend";
    let three = job(Route::Mx(None), &["a@them.example", "b@them.example", "c@them.example"]);
    let done = talk(script, &three).await;
    assert_eq!(
        briefs(&done.outcomes),
        ["delivered 250 2.0.0 remote", "deferred 452 4.0.0 remote", "deferred 452 4.3.1 remote"]
    );
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_server_are_kept() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 LIMITS RCPTMAX=1
        C: MAIL FROM:<from@us.example>\nS: 250 ok\nC: RCPT TO:<a@them.example>\nS: 550 5.1.1 no
        C: RSET\nS: 250 ok
        C: MAIL FROM:<from@us.example>\nS: 250 ok\nC: RCPT TO:<b@them.example>\nS: 250 ok
        C: DATA\nS: 354 go\n.\nS: 250 taken\nend";
    let done = talk(script, &job(Route::Mx(None), &["a@them.example", "b@them.example"])).await;
    assert_eq!(briefs(&done.outcomes), ["failed 550 5.1.1 remote", "delivered 250 2.0.0 remote"]);
}

#[tokio::test(start_paused = true)]
async fn more_recipients_than_a_window() {
    let names: Vec<String> = (0..250).map(|n| format!("r{n}@them.example")).collect();
    let job = job(Route::Mx(None), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut script = "S: 220 mx\nC: EHLO us.example\nS: 250-mx\nS: 250 PIPELINING\nC: MAIL*\n".to_owned();
    for (window, replies) in [(100, 101), (100, 100), (50, 50)] {
        script.push_str(&"C: RCPT TO:*\n".repeat(window));
        script.push_str(if window == 50 { "C: DATA\n" } else { "" });
        script.push_str(&format!("quiet\nS*{replies}: 250 ok\n"));
    }
    script.push_str("S: 354 go\n.\nS: 250 taken\nend");
    let terms = Terms { settings: Settings { max_recipients: 1000, ..Settings::default() }, ..Terms::default() };
    let done = talk_with(&script, &job, terms).await;
    assert!(done.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_))), "{}", done.brief());
}

#[tokio::test(start_paused = true)]
async fn helo_where_ehlo_is_unknown() {
    let script = "S: 220 mx\nC: EHLO us.example\nS: 502 what\nC: HELO us.example\nS: 250 hello
        C: MAIL FROM:<from@us.example>\nS: 250 ok\nC: RCPT TO:<to@them.example>\nS: 250 ok
        C: DATA\nS: 354 go\n.\nS: 250\nend";
    assert_eq!(talk(script, &one()).await.brief(), "delivered 250 2.0.0 remote");
}

/// From EHLO's keywords and a mail to the MAIL command, or to an outcome without one.
async fn mail_command(keywords: &[&str], job: &Job) -> Result<(String, String), String> {
    let mut script = "S: 220 mx\nC: EHLO us.example\nS: 250-mx\n".to_owned();
    for keyword in keywords {
        script.push_str(&format!("S: 250-{keyword}\n"));
    }
    script
        .push_str("S: 250 X\nor end\nC: MAIL*\nS: 250 ok\nC: RCPT*\nS: 250 ok\nC: DATA\nS: 354 go\n.\nS: 250 ok\nend");
    let talk = talk(&script, job).await;
    match &talk.played.commands[..] {
        [_, mail, rcpt, _] => Ok((mail.clone(), rcpt.clone())),
        _ => Err(talk.brief()),
    }
}

#[tokio::test(start_paused = true)]
async fn o8_what_a_server_lacks() {
    let latin = message("A: b\r\n\r\ncaf\u{e9}\r\n".as_bytes());
    let mut eight_bit = one();
    eight_bit.message = latin.clone();
    let mut declared = eight_bit.clone();
    declared.envelope.body_type = BodyType::EightBitMime;
    let mut only_declared = one();
    only_declared.envelope.body_type = BodyType::EightBitMime;
    let mut utf8 = job(Route::Mx(None), &["caf\u{e9}@them.example"]);
    utf8.envelope.smtputf8 = true;
    let mut utf8_header = one();
    utf8_header.envelope.smtputf8 = true;
    utf8_header.message = message("Subject: caf\u{e9}\r\n\r\nx\r\n".as_bytes());
    let mut only_asked = one();
    only_asked.envelope.smtputf8 = true;

    let sent = |parameters: &str| Ok(format!("MAIL FROM:<from@us.example>{parameters}"));
    let lacks = |what: &str| Err(what.to_owned());
    for (name, keywords, job, expected) in [
        ("size", &["SIZE 1000"][..], &one(), sent(" SIZE=28")),
        ("too big", &["SIZE 10"], &one(), lacks("failed 552 5.3.4 own")),
        ("no limit", &["SIZE 0"], &one(), sent(" SIZE=28")),
        ("8-bit", &["8BITMIME"], &eight_bit, sent(" BODY=8BITMIME")),
        ("8-bit declared", &["8BITMIME"], &declared, sent(" BODY=8BITMIME")),
        ("8-bit lacking", &[], &eight_bit, lacks("failed 554 5.6.3 own")),
        ("8-bit declared, lacking", &[], &declared, lacks("failed 554 5.6.3 own")),
        ("only declared", &[], &only_declared, sent("")),
        ("utf8 lacking", &["8BITMIME"], &utf8, lacks("failed 553 5.6.7 own")),
        ("utf8", &["8BITMIME", "SMTPUTF8"], &utf8, sent(" SMTPUTF8")),
        ("utf8 header lacking", &["8BITMIME"], &utf8_header, lacks("failed 553 5.6.7 own")),
        ("utf8 header", &["8BITMIME", "SMTPUTF8"], &utf8_header, sent(" BODY=8BITMIME SMTPUTF8")),
        ("utf8 not needed", &[], &only_asked, sent("")),
    ] {
        let command = mail_command(keywords, job).await.map(|(mail, _)| mail);
        assert_eq!(command, expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn dsn_parameters_are_passed_on() {
    let mut mail = one();
    mail.envelope.ret = Some(Ret::Headers);
    mail.envelope.envid = Some("QQ+2B1".to_owned());
    mail.envelope.recipients[0].notify = Some(Notify { success: true, failure: true, delay: false });
    mail.envelope.recipients[0].orcpt = Some("rfc822;to@them.example".to_owned());
    let expected = (
        "MAIL FROM:<from@us.example> RET=HDRS ENVID=QQ+2B1".to_owned(),
        "RCPT TO:<to@them.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;to@them.example".to_owned(),
    );
    assert_eq!(mail_command(&["DSN"], &mail).await, Ok(expected));
    let plain = ("MAIL FROM:<from@us.example>".to_owned(), "RCPT TO:<to@them.example>".to_owned());
    assert_eq!(mail_command(&[], &mail).await, Ok(plain.clone()));
    // What could end the command, or be another parameter, is not passed on.
    mail.envelope.ret = None;
    mail.envelope.envid = Some("a SIZE=1\r\nRSET".to_owned());
    mail.envelope.recipients[0].orcpt = Some("a\r\nDATA".to_owned());
    mail.envelope.recipients[0].notify = Some(Notify { success: false, failure: false, delay: false });
    let never = (plain.0, format!("{} NOTIFY=NEVER", plain.1));
    assert_eq!(mail_command(&["DSN"], &mail).await, Ok(never));
}

#[tokio::test(start_paused = true)]
async fn a_server_with_dsn_reports_from_there_on() {
    for (keyword, relayed) in [("DSN", true), ("X", false)] {
        let script =
            script_until("dot", "S: 250 taken\nend").replace("250 mx.example", &format!("250-mx\nS: 250 {keyword}"));
        assert_eq!(talk(&script, &one()).await.outcomes[0].diagnosis().dsn_relayed, relayed, "{keyword}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_null_sender() {
    let mut bounce = one();
    bounce.envelope.reverse_path = ReversePath::NULL;
    assert_eq!(mail_command(&[], &bounce).await.unwrap().0, "MAIL FROM:<>");
}

#[tokio::test(start_paused = true)]
async fn octets_that_must_not_be_sent_are_not_sent() {
    for body in ["a\n.\r\nb\r\n", "a\r.\r\n", "a\0b\r\n", "a\r"] {
        let mut job = one();
        job.message.body = Body::from_bytes(Bytes::copy_from_slice(body.as_bytes()));
        let talk = talk(&script_until("dot", "").replace("\n.\n", "\nend\n"), &job).await;
        assert_eq!(talk.brief(), "failed 554 5.6.0 own", "{body:?}");
    }
}

#[tokio::test]
async fn a_big_body_is_streamed_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = BodyWriter::new(directory.path().to_owned(), 0);
    let text = ".0123456789\r\n".repeat(30_000);
    writer.push(text.as_bytes());
    writer.flush().unwrap();
    let mut job = one();
    job.message.body = writer.finish().unwrap();
    let talk = talk(&script_until("dot", "S: 250 ok\nend"), &job).await;
    assert_eq!(talk.brief(), "delivered 250 2.0.0 remote");
    let expected = format!("Subject: x\r\n\r\n{}.\r\n", ".".to_owned() + &text.replace("\n.", "\n.."));
    assert!(talk.played.contents == [expected.as_bytes()]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_with_its_header() {
    let mut job = one();
    job.message.body = Body::absent();
    let talk = talk(&script_until("dot", "S: 250 ok\nend"), &job).await;
    assert_eq!(talk.played.contents, [b"Subject: x\r\n.\r\n"]);
}
