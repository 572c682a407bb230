//! The commands as a whole, against a name server of the test.

use std::io;
use std::path::PathBuf;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::proto::rr::rdata::NS;

use crate::cli::{Cli, Command, Context, FAILED, OK, Streams, UNKNOWN, WRONG, run};
use crate::dns::responder::{Answer, Responder, absolute, txt};
use crate::signing::{Algorithm, Selector, keyring};
use crate::smtp::Domain;

const IDENTITY: &str = "[identity]\nmx = [\"mx1.example.net\", { host = \"mx2.example.net\", preference = 30 }]\n\
    egress_addresses = [\"192.0.2.25\"]\ndmarc_reports = \"dmarc@example.net\"\n";
const BLOCKLISTS: &str = "[[blocklist]]\nname = \"addresses\"\nzone = \"bl.example\"\n[[blocklist]]\nname = \"domains\"\n\
    zone = \"dbl.example\"\nlists = \"domains\"\n";

struct Bench {
    dns: Responder,
    directory: tempfile::TempDir,
}

/// What a command gave.
#[derive(Debug)]
struct Given {
    code: u8,
    out: String,
    err: String,
}

impl Given {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Bench {
    /// A gateway with the tenant `company.com`, whose own records are right; `more` goes into its config.
    async fn new(more: &str) -> Self {
        let dns = Responder::start().await;
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nhost_name = \"mx1.example.net\"\nadministrators = [\"a@example.net\"]\n[spool]\ndirectory = \"spool\"\n\
             [dns]\nservers = [\"{}\"]\ntimeout = \"200ms\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\n\
             role = \"inbound\"\n[[tenant]]\nname = \"company\"\ndomains = [\"company.com\"]\ndestination = \"mail.company.com\"\n\
             {more}",
            dns.address
        );
        std::fs::write(directory.path().join("postern.toml"), text).unwrap();
        dns.a("mx1.example.net", &["192.0.2.25"]).a("mx2.example.net", &["192.0.2.26"]);
        dns.ptr("192.0.2.25", &["mx1.example.net"]);
        let servers = ["ns1.isp.example", "ns2.isp.example"].map(|name| RData::NS(NS(absolute(name))));
        dns.set("company.com", RecordType::NS, Answer::Records(servers.to_vec()));
        Self { dns, directory }
    }

    fn set_txt(&self, name: &str, records: &[&str]) {
        self.dns.set(name, RecordType::TXT, Answer::Records(records.iter().map(|text| txt(&[text])).collect()));
    }

    /// The domain as it should be.
    fn complete(&self) {
        self.dns.mx("company.com", &[(10, "mx1.example.net"), (30, "mx2.example.net")]);
        self.set_txt("company.com", &["v=spf1 ip4:192.0.2.25 -all", "google-site-verification=x"]);
        self.set_txt("_dmarc.company.com", &["v=DMARC1; p=none; rua=mailto:dmarc@example.net"]);
        self.set_txt("company.com._report._dmarc.example.net", &["v=DMARC1"]);
    }

    /// `postern dns …`
    async fn dns(&self, arguments: &str) -> Given {
        let config: PathBuf = self.directory.path().join("postern.toml");
        let arguments = format!("postern dns {arguments}");
        tokio::task::spawn_blocking(move || {
            let cli: Cli = match clap::Parser::try_parse_from(arguments.split(' ')) {
                Ok(cli) => cli,
                Err(error) => {
                    let code = u8::try_from(error.exit_code()).unwrap();
                    return Given { code, out: String::new(), err: error.to_string() };
                }
            };
            let Command::Tool(tool) = &cli.command else { panic!("{arguments}") };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let context = Context { config: &config, json: cli.json, builtins: &[] };
            let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
            let code = run(tool, &context, &mut streams);
            Given { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
        })
        .await
        .unwrap()
    }
}

#[tokio::test]
async fn r31_check_says_found_and_expected_and_ends_with_a_code() {
    let bench = Bench::new(IDENTITY).await;
    let given = bench.dns("check company.com").await;
    assert_eq!(given.code, FAILED, "{given:?}");
    for line in [
        "  missing SPF",
        "          expected  v=spf1 ip4:192.0.2.25 ~all",
        "  missing MX",
        "30 mx2.example.net",
        "  ok      PTR",
    ] {
        assert!(given.out.contains(line), "{line}: {}", given.out);
    }
    bench.dns.set("company.com", RecordType::MX, Answer::Code(ResponseCode::ServFail));
    bench.complete();
    // What was answered before may be remembered by nobody: each command asks anew.
    let given = bench.dns("check").await;
    assert_eq!(given.code, OK, "{given:?}");
    assert!(given.out.contains("\ncompany.com\n") && !given.out.contains("missing"), "{}", given.out);
    let json = bench.dns("check company.com --json").await.json();
    let findings = json["domains"][0]["findings"].as_array().unwrap();
    let mx = findings.iter().find(|finding| finding["record"] == "MX").unwrap();
    assert_eq!((&mx["status"], &mx["found"][1]), (&"ok".into(), &"30 mx2.example.net".into()));
    assert_eq!(json["gateway"]["findings"][0]["status"], "ok");
}

#[tokio::test]
async fn r31_without_an_answer_nobody_says_missing() {
    let bench = Bench::new(IDENTITY).await;
    bench.complete();
    bench.dns.set("company.com", RecordType::MX, Answer::Silent);
    bench.dns.set("company.com", RecordType::TXT, Answer::Code(ResponseCode::ServFail));
    let given = bench.dns("check company.com").await;
    assert_eq!(given.code, UNKNOWN, "{given:?}");
    assert_eq!(given.out.matches("  unknown ").count(), 2, "{}", given.out);
    // Nor does anybody propose to replace what nobody has seen.
    let records = bench.dns("records company.com").await;
    assert_eq!(records.code, UNKNOWN, "{records:?}");
    assert!(!records.out.lines().any(|line| line.starts_with("company.com. 3600 IN TXT")), "{}", records.out);
    let letter = bench.dns("letter company.com").await;
    assert_eq!((letter.code, letter.out.as_str()), (UNKNOWN, ""), "{letter:?}");
}

/// Ours need not be there word for word: an include of theirs that names our addresses will do. And one that leads nowhere
/// spoils a record that looks right.
#[tokio::test]
async fn r26_spf_is_evaluated_as_others_do_it() {
    let bench = Bench::new(IDENTITY).await;
    bench.complete();
    bench.set_txt("company.com", &["v=spf1 include:all.company.com -all"]);
    bench.set_txt("all.company.com", &["v=spf1 ip4:192.0.2.0/24 -all"]);
    let given = bench.dns("check company.com").await;
    assert!(given.code == OK && given.out.contains("  ok      SPF"), "{given:?}");
    let json = bench.dns("records company.com --json").await.json();
    assert_eq!(json["records"][0]["state"], "in-place");
    bench.set_txt("company.com", &["v=spf1 include:gone.example ip4:192.0.2.25 -all"]);
    let given = bench.dns("check company.com").await;
    assert!(given.code == FAILED && given.out.contains("mail from 192.0.2.25: permerror"), "{given:?}");
    bench.set_txt("company.com", &["v=spf1 include:silent.example -all"]);
    bench.dns.set("silent.example", RecordType::TXT, Answer::Code(ResponseCode::ServFail));
    let given = bench.dns("check company.com").await;
    assert!(given.code == UNKNOWN && given.out.contains("  unknown SPF"), "{given:?}");
}

#[tokio::test]
async fn another_name_server_can_be_asked() {
    let (bench, other) = (Bench::new(IDENTITY).await, Responder::start().await);
    bench.complete();
    other.mx("company.com", &[(10, "mail.company.com")]);
    let given = bench.dns(&format!("check company.com --server {}", other.address)).await;
    assert!(given.code == FAILED && given.out.contains("10 mail.company.com"), "{given:?}");
    let given = bench.dns("check company.com --server example.com").await;
    assert_eq!(given.code, WRONG, "{given:?}");
}

#[tokio::test]
async fn r26_r28_records_are_lines_of_a_zone_in_the_order_of_r6() {
    let bench = Bench::new(IDENTITY).await;
    bench.dns.mx("company.com", &[(5, "mailgate.company.com"), (40, "smtp.isp.example")]);
    bench.set_txt("company.com", &["v=spf1 mx -all", "other"]);
    let given = bench.dns("records Company.com.").await;
    assert_eq!(given.code, OK, "{given:?}");
    let lines: Vec<&str> = given.out.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).collect();
    assert_eq!(
        lines,
        [
            "company.com. 3600 IN TXT \"v=spf1 mx ip4:192.0.2.25 -all\"",
            "_dmarc.company.com. 3600 IN TXT \"v=DMARC1; p=none; rua=mailto:dmarc@example.net\"",
            "company.com. 3600 IN MX 10 mx1.example.net.",
            "company.com. 3600 IN MX 30 mx2.example.net.",
            "company.com._report._dmarc.example.net. 3600 IN TXT \"v=DMARC1\"",
        ]
    );
    assert!(given.out.contains(";    company.com. 3600 IN MX 5 mailgate.company.com."), "{}", given.out);
    let json = bench.dns("records company.com --json").await.json();
    assert_eq!(json["records"][0]["state"], "replace");
    assert_eq!(json["records"][1]["state"], "new");
    bench.complete();
    let json = bench.dns("records company.com --json").await.json();
    let states: Vec<_> = json["records"].as_array().unwrap().iter().map(|record| &record["state"]).collect();
    assert!(states.iter().all(|state| *state == "in-place") && json["own_zone"].is_null(), "{json}");
}

/// A key of the gateway's comes into check, records and letter; one of somebody else's is never overwritten.
#[tokio::test]
async fn r27_r30_the_keys_that_sign_are_checked_and_told() {
    let bench = Bench::new(IDENTITY).await;
    bench.complete();
    let (domain, selector) = (Domain::parse("company.com").unwrap(), Selector::parse("s1").unwrap());
    let keys = bench.directory.path().join("spool/keys");
    std::fs::create_dir(bench.directory.path().join("spool")).unwrap();
    let (key, _) = keyring::create(&keys, &domain, &selector, Algorithm::Ed25519).unwrap();
    let (name, record) = ("s1._domainkey.company.com", key.record().unwrap());
    let line = format!("{name}. 3600 IN TXT \"{record}\"\n");

    let given = bench.dns("check company.com").await;
    assert!(given.code == FAILED && given.out.contains(&format!("  missing DKIM        {name}")), "{given:?}");
    assert!(bench.dns("records company.com").await.out.contains(&line));
    assert!(bench.dns("letter company.com --lang fr").await.out.contains(&format!("    {line}")));

    bench.set_txt(name, &[&record]);
    assert_eq!(bench.dns("check company.com").await.code, OK);
    assert!(bench.dns("letter company.com").await.out.is_empty());

    bench.set_txt(name, &["v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"]);
    let given = bench.dns("check company.com").await;
    assert!(given.code == FAILED && given.out.contains("not to be overwritten"), "{given:?}");
    let given = bench.dns("records company.com").await;
    assert!(given.code == FAILED && !given.out.contains(&line), "{given:?}");
    assert_eq!(bench.dns("letter company.com").await.code, FAILED);

    // Two keys side by side, while one takes the other's place.
    keyring::create(&keys, &domain, &Selector::parse("s2").unwrap(), Algorithm::Rsa).unwrap();
    let out = bench.dns("records company.com").await.out;
    let rsa = out.lines().find(|line| line.starts_with("s2._domainkey.company.com.")).unwrap();
    assert_eq!(rsa.matches('"').count(), 4, "in two strings: {rsa}");
}

#[tokio::test]
async fn r15_egress_addresses_for_firewalls() {
    let bench = Bench::new("[identity]\negress_addresses = [\"2001:db8::25\", \"192.0.2.25\"]\n").await;
    assert_eq!(bench.dns("records --egress").await.out, "192.0.2.25\n2001:db8::25\n");
    let json = bench.dns("records --egress --json").await.json();
    assert_eq!(json["egress_addresses"][1], "2001:db8::25");
    // Without them: those of the host name.
    let bench = Bench::new("").await;
    assert_eq!(bench.dns("records --egress").await.out, "192.0.2.25\n");
    for kind in [RecordType::A, RecordType::AAAA] {
        bench.dns.set("mx1.example.net", kind, Answer::Silent);
    }
    assert_eq!(bench.dns("records --egress").await.code, UNKNOWN);
    assert_eq!(bench.dns("records").await.code, WRONG);
    assert_eq!(bench.dns("records --egress company.com").await.code, WRONG);
}

#[tokio::test]
async fn r32_the_letter_in_both_languages() {
    let bench = Bench::new(IDENTITY).await;
    bench.dns.mx("company.com", &[(5, "mailgate.company.com"), (40, "smtp.isp.example")]);
    bench.set_txt("company.com", &["v=spf1 mx -all"]);
    let changes = [
        "company.com. 3600 IN TXT \"v=spf1 mx -all\"",
        "company.com. 3600 IN TXT \"v=spf1 mx ip4:192.0.2.25 -all\"",
        "_dmarc.company.com. 3600 IN TXT \"v=DMARC1; p=none; rua=mailto:dmarc@example.net\"",
        "company.com. 3600 IN MX 5 mailgate.company.com.",
        "company.com. 3600 IN MX 40 smtp.isp.example.",
        "company.com. 3600 IN MX 10 mx1.example.net.",
        "company.com. 3600 IN MX 30 mx2.example.net.",
    ];
    for (language, says) in [("en", "Dear Sir or Madam"), ("fr", "Madame, Monsieur,")] {
        let given = bench.dns(&format!("letter company.com --lang {language}")).await;
        assert!(given.code == OK && given.out.contains(says), "{given:?}");
        let places: Vec<_> = changes.iter().map(|line| given.out.find(&format!("    {line}\n"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {}", given.out);
        assert!(given.out.lines().all(|line| line.chars().count() <= 76 || line.starts_with("    ")), "{}", given.out);
        assert!(!given.out.contains('{') && given.err.is_empty(), "{given:?}");
        let json = bench.dns(&format!("letter company.com --lang {language} --json")).await.json();
        assert_eq!((&json["language"], &json["text"]), (&language.into(), &given.out.into()));
    }
    let wrong = bench.dns("letter company.com --lang de").await;
    assert!(wrong.code == WRONG && wrong.err.contains("en, fr"), "{wrong:?}");
    bench.complete();
    let given = bench.dns("letter company.com").await;
    assert!(given.code == OK && given.out.is_empty() && given.err.contains("nothing to ask for"), "{given:?}");
}

#[tokio::test]
async fn r32_no_letter_where_somebody_must_decide() {
    let bench = Bench::new(IDENTITY).await;
    bench.set_txt("company.com", &["v=spf1 redirect=a.example", "v=spf1 mx -all"]);
    let given = bench.dns("letter company.com --lang fr").await;
    assert!(given.code == FAILED && given.out.is_empty() && given.err.contains("several SPF records"), "{given:?}");
    let records = bench.dns("records company.com").await;
    assert!(records.code == FAILED && records.out.contains("NOT BEFORE SOMEBODY HAS DECIDED"), "{records:?}");
    // Several without `redirect` can be joined.
    bench.set_txt("company.com", &["v=spf1 a -all", "v=spf1 mx -all"]);
    let records = bench.dns("records company.com").await;
    assert!(records.out.contains("\ncompany.com. 3600 IN TXT \"v=spf1 a mx ip4:192.0.2.25 -all\"\n"), "{records:?}");
}

#[tokio::test]
async fn r33_block_lists() {
    let bench = Bench::new(&format!("{IDENTITY}{BLOCKLISTS}")).await;
    bench.dns.a("2.0.0.127.bl.example", &["127.0.0.2"]);
    let given = bench.dns("blocklists").await;
    assert_eq!((given.code, given.out.as_str()), (OK, "listed 0, not listed 2, 0 errors, timed out 0\n"), "{given:?}");
    bench.dns.set("company.com.dbl.example", RecordType::A, Answer::Silent);
    let given = bench.dns("blocklists").await;
    assert_eq!(given.code, UNKNOWN, "{given:?}");
    assert_eq!(given.out, "timed out company.com on domains\nlisted 0, not listed 1, 0 errors, timed out 1\n");
    bench.dns.a("25.2.0.192.bl.example", &["127.0.0.4"]);
    bench.set_txt("25.2.0.192.bl.example", &["listed \u{1b}[31m, see https://bl.example/"]);
    let given = bench.dns("blocklists").await;
    assert_eq!(given.code, FAILED, "{given:?}");
    let line = "listed    192.0.2.25 on addresses  127.0.0.4  listed \\027[31m, see https://bl.example/\n";
    assert!(given.out.contains(line), "{}", given.out);
    let json = bench.dns("blocklists --json").await.json();
    assert_eq!((&json["listed"], &json["timed_out"], &json["errors"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!(json["results"][0]["codes"][0], "127.0.0.4");
    let none = Bench::new("").await.dns("blocklists").await;
    assert!(none.code == WRONG && none.err.contains("[[blocklist]]"), "{none:?}");
}

/// 64 KiB of text, escapes for the terminal, aliases without end: a clear answer, and nothing that a terminal obeys.
#[tokio::test]
async fn n3_n4_hostile_dns() {
    let bench = Bench::new(IDENTITY).await;
    bench.dns.mx("company.com", &[(1, "evil.example"), (2, "loop.example"), (10, "mx1.example.net")]);
    bench.dns.cname("loop.example", "loop2.example").cname("loop2.example", "loop.example");
    bench.dns.cname("_dmarc.company.com", "_dmarc.company.com");
    let pieces = vec!["\u{1b}[2J\u{7}\r\n\u{202e}".repeat(20); 200];
    let big: Vec<&str> = std::iter::once("v=spf1 ").chain(pieces.iter().map(String::as_str)).collect();
    bench.dns.set("company.com", RecordType::TXT, Answer::OverTcp(vec![txt(&big)]));
    let ours = |out: &str| out.chars().all(|c| c == '\n' || !c.is_control()) && !out.contains('\u{202e}');
    for arguments in
        ["check company.com", "check company.com --json", "records company.com", "records company.com --json"]
    {
        let given = bench.dns(arguments).await;
        assert!(given.code == FAILED || given.code == UNKNOWN, "{given:?}");
        assert!(ours(&given.out) && given.out.len() < 10_000, "{arguments}: {given:?}");
    }
    let out = bench.dns("check company.com").await.out;
    assert!(out.contains("  unknown DMARC") && out.contains("  unknown A/AAAA      loop.example"), "{out}");
    assert!(out.contains("\\027[2J") && out.contains("octets"), "{out}");
}
