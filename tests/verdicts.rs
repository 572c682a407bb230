//! design.md §5: what each verdict does at each stage, and W13: what each failure policy does; one dialogue per cell.

use crate::{GREETED, play};

pub(crate) const STAGES: [&str; 5] = ["connect", "helo", "mail-from", "rcpt", "data"];

/// What the client sees.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Outcome {
    Taken,
    /// 250, and nothing comes of it.
    Dropped,
    /// 250, and kept back for this reason.
    KeptBack(&'static str),
    Refused(&'static str),
    Closed(&'static str),
}

/// Where an outcome shows: a refusal before RCPT is held until there, a disconnect acts at once.
pub(crate) fn dialog(setup: &str, stage: &str, outcome: Outcome) -> String {
    let start = format!("# design.md §5: verdicts\n{setup}");
    let (mail, rcpt) = ("C: MAIL FROM:<smith@client.example>\n", "C: RCPT TO:<jones@example.com>\n");
    let (greeted, ok) = (GREETED, "S: 250 *\n");
    if let Outcome::Closed(reply) = outcome {
        let close = format!("S: {reply}\n@ close\n@ mails 0\n");
        let before = match stage {
            "connect" => String::new(),
            "helo" => "S: 220 *\nC: EHLO client.example\n".to_owned(),
            "mail-from" => format!("{greeted}{mail}"),
            "rcpt" => format!("{greeted}{mail}{ok}{rcpt}"),
            _ => format!("{greeted}{mail}{ok}{rcpt}{ok}C: DATA\nS: 354 *\nC: .\n"),
        };
        return format!("{start}{before}{close}");
    }
    let recipient = format!("{start}{greeted}{mail}{ok}{rcpt}");
    match outcome {
        Outcome::Refused(reply) if stage != "data" => {
            format!("{recipient}S: {reply}\nC: DATA\nS: 554 5.5.1 *\n@ mails 0\n")
        }
        Outcome::Refused(reply) => format!("{recipient}{ok}C: DATA\nS: 354 *\nC: .\nS: {reply}\n@ mails 0\n"),
        _ => {
            let result = match outcome {
                Outcome::Dropped => "@ mails 0\n@ logged discarded\n".to_owned(),
                Outcome::KeptBack(reason) => format!("@ mails 1\n@ mail 1 quarantined {reason}\n"),
                _ => "@ mails 1\n@ mail 1 free\n".to_owned(),
            };
            format!("{recipient}{ok}C: DATA\nS: 354 *\nC: .\nS: 250 2.0.0 Ok: queued as *\n{result}")
        }
    }
}

#[test]
fn each_verdict_at_each_stage() {
    let verdicts = [
        ("next", Outcome::Taken),
        ("accept", Outcome::Taken),
        ("reject 550 5.7.1 No", Outcome::Refused("550 5.7.1 No")),
        ("defer 450 4.7.1 Later", Outcome::Refused("450 4.7.1 Later")),
        ("discard", Outcome::Dropped),
        ("quarantine odd", Outcome::KeptBack("odd")),
        ("disconnect 421 4.7.0 Bye", Outcome::Closed("421 4.7.0 Bye")),
        ("disconnect 554 5.7.1 Bye", Outcome::Closed("554 5.7.1 Bye")),
    ];
    let mut dialogs = Vec::new();
    for stage in STAGES {
        for (verdict, outcome) in verdicts {
            for scope in ["platform", "reseller:acme", "tenant:example"] {
                // Only RCPT reveals the tenant: what its chain says of earlier stages comes there.
                let heard = if scope == "platform" || stage == "data" { stage } else { "rcpt" };
                let setup = format!("@ filter scope={scope} {stage} {verdict}\n");
                dialogs.push((format!("{scope} {stage} {verdict}"), dialog(&setup, heard, outcome)));
            }
        }
    }
    assert_eq!(play(dialogs), 120);
}

#[test]
fn each_failure_policy_at_each_stage() {
    let policies = [
        ("defer", Outcome::Refused("451 4.3.0 *")),
        ("continue", Outcome::Taken),
        ("reject", Outcome::Refused("554 5.3.0 *")),
        ("quarantine", Outcome::KeptBack("plugin failed: trap")),
        ("disconnect", Outcome::Closed("421 4.3.0 *")),
    ];
    let mut dialogs = Vec::new();
    for stage in STAGES {
        for (policy, outcome) in policies {
            let setup = format!("@ filter on_failure={policy} {stage} fail trap\n");
            dialogs.push((format!("failure {stage} {policy}"), dialog(&setup, stage, outcome)));
        }
        let default = format!("@ filter {stage} fail wall\n");
        dialogs.push((format!("failure {stage} default"), dialog(&default, stage, Outcome::Refused("451 4.3.0 *"))));
    }
    assert_eq!(play(dialogs), 30);
}
