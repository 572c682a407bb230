//! Found against expected, rule by rule.

use super::*;
use crate::cli::dns::expectation::Tenant;
use crate::cli::dns::observation::{Dmarc, Servers};
use crate::config::settings::MailExchange;
use crate::mail::TlsPolicy;
use crate::mail::evidence::SpfIdentity;
use crate::smtp::Host;

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn host(text: &str) -> Route {
    Route::Host { host: Host::Domain(name(text)), port: 25, tls: TlsPolicy::Opportunistic }
}

fn expectation() -> Expectation {
    let exchange = |preference, host| MailExchange { preference, host: name(host) };
    Expectation {
        domain: name("company.com"),
        tenant: Some(Tenant { name: "company".into(), destination: Some(host("mail.company.com")) }),
        mx: vec![exchange(10, "mx1.example.net"), exchange(20, "mx2.example.net")],
        spf: vec!["include:spf.example.net".to_owned()],
        dmarc_reports: Some("dmarc@example.net".parse().unwrap()),
        keys: vec![Key { selector: "s1".to_owned(), record: "v=DKIM1; k=ed25519; p=AAAA".to_owned() }],
    }
}

fn texts(list: &[&str]) -> Answer<Vec<Vec<u8>>> {
    Ok(list.iter().map(|text| text.as_bytes().to_vec()).collect())
}

fn mx(list: &[(u16, &str)]) -> Answer<Vec<Exchange>> {
    let exchange = |(preference, host): &(u16, &str)| Exchange {
        preference: *preference,
        host: (*host != ".").then(|| name(host)),
    };
    Ok(list.iter().map(exchange).collect())
}

/// Where all is as it should be.
fn observation() -> Observation {
    Observation {
        exchanges: mx(&[(10, "mx1.example.net"), (20, "mx2.example.net")]),
        hosts: Vec::new(),
        servers: Ok(Servers {
            zone: name("company.com"),
            names: vec![name("ns1.isp.example"), name("ns2.isp.example")],
        }),
        spf: texts(&["v=spf1 mx include:spf.example.net -all"]),
        verdicts: Vec::new(),
        keys: vec![texts(&["v=DKIM1; k=ed25519; p=AAAA"])],
        dmarc: Ok(Dmarc {
            owner: name("company.com"),
            records: texts(&["v=DMARC1; p=reject; rua=mailto:dmarc@example.net"]).unwrap(),
        }),
        authorization: Some(texts(&["v=DMARC1"])),
    }
}

fn silent<T>() -> Answer<T> {
    Err(DnsError::Temporary("timed out".to_owned()))
}

fn of<'f>(findings: &'f [Finding], record: &str) -> &'f Finding {
    findings.iter().find(|finding| finding.record == record).unwrap_or_else(|| panic!("no {record}: {findings:?}"))
}

#[test]
fn r31_all_is_well() {
    let findings = domain(&expectation(), &observation());
    assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
    let records: Vec<_> = findings.iter().map(|finding| finding.record).collect();
    assert_eq!(records, ["TENANT", "NS", "SPF", "DKIM", "DMARC", "DMARC", "MX"]);
}

#[test]
fn r31_silence_is_never_shown_as_missing() {
    let observation = Observation {
        exchanges: silent(),
        hosts: vec![(name("mail.company.com"), silent())],
        servers: silent(),
        spf: silent(),
        verdicts: Vec::new(),
        keys: vec![silent()],
        dmarc: silent(),
        authorization: Some(silent()),
    };
    let findings = domain(&expectation(), &observation);
    let from_dns = findings.iter().filter(|finding| finding.record != "TENANT");
    assert!(from_dns.clone().all(|finding| finding.status == Status::Unknown), "{findings:#?}");
    assert_eq!(from_dns.count(), 7);
}

#[test]
fn r31_mx_with_preferences() {
    let (a, b) = ("mx1.example.net", "mx2.example.net");
    for (found, status, says) in [
        (mx(&[(10, a), (20, b)]), Status::Ok, ""),
        (mx(&[(3, a), (4, b)]), Status::Ok, ""),
        (mx(&[(10, a), (10, b)]), Status::Ok, ""),
        (mx(&[(10, b), (20, a)]), Status::Warn, "another order"),
        (mx(&[(10, a)]), Status::Wrong, "mx2.example.net is not there"),
        (mx(&[(10, "mail.company.com"), (20, "mx.isp.example")]), Status::Wrong, "none of them"),
        (mx(&[(5, "mail.company.com"), (10, a), (20, b)]), Status::Wrong, "goes past the filter"),
        (mx(&[(10, a), (10, "mx.isp.example"), (20, b)]), Status::Wrong, "goes past the filter"),
        (mx(&[(10, a), (20, b), (30, "mail.company.com")]), Status::Warn, "writes to mail.company.com"),
        (mx(&[(10, a), (20, b), (30, "aspmx.l.google.com")]), Status::Warn, "writes to aspmx"),
        // R11.
        (mx(&[(10, a), (20, b), (30, "mx.isp.example")]), Status::Warn, "unless it hands all mail over"),
        (mx(&[(0, ".")]), Status::Wrong, "takes no mail"),
        (mx(&[]), Status::Wrong, "takes no mail"),
        (Err(DnsError::NotFound), Status::Missing, "publish"),
        (silent(), Status::Unknown, "timed out"),
    ] {
        let shown = format!("{found:?}");
        let findings = domain(&expectation(), &Observation { exchanges: found, ..observation() });
        let finding = of(&findings, "MX");
        assert_eq!(finding.status, status, "{shown}");
        assert!(finding.advice.as_deref().unwrap_or_default().contains(says), "{shown}: {finding:?}");
        assert_eq!(finding.expected.is_empty(), status == Status::Ok, "{shown}");
    }
}

#[test]
fn r26_spf() {
    let many = format!("v=spf1 {} include:spf.example.net -all", ["a:x.example"; 10].join(" "));
    let long = format!("v=spf1 {}", "x".repeat(65_000));
    for (found, status, says) in [
        (texts(&["v=spf1 include:spf.example.net ~all"]), Status::Ok, ""),
        (texts(&[]), Status::Missing, "publish"),
        (texts(&["v=spf1 mx -all"]), Status::Wrong, "replace the record"),
        (texts(&["v=spf1 -include:spf.example.net -all"]), Status::Wrong, "replace the record"),
        (texts(&["v=spf1 mx -all", "v=spf1 include:spf.example.net -all"]), Status::Wrong, "make one of them"),
        (texts(&["v=spf1 include:spf.example.net +all"]), Status::Wrong, "everybody"),
        (texts(&["v=spf1 include:spf.example.net"]), Status::Warn, "does not protect"),
        (texts(&["v=spf1 ipv4:192.0.2.1 -all"]), Status::Wrong, "no mechanism"),
        (texts(&[&many]), Status::Wrong, "11 of its terms"),
        (texts(&[&long]), Status::Wrong, "65007 octets"),
        (texts(&["v=spf1 \u{1b}[2J -all"]), Status::Wrong, "not printable"),
        (silent(), Status::Unknown, "timed out"),
    ] {
        let shown: String = format!("{found:?}").chars().take(100).collect();
        let findings = domain(&expectation(), &Observation { spf: found, ..observation() });
        let finding = of(&findings, "SPF");
        assert_eq!(finding.status, status, "{shown}");
        assert!(finding.advice.as_deref().unwrap_or_default().contains(says), "{shown}: {finding:?}");
        assert!(finding.found.iter().all(|text| text.len() < 1100 && !text.contains('\u{1b}')), "{shown}");
    }
    let findings = domain(&expectation(), &Observation { spf: texts(&["v=spf1 mx -all"]), ..observation() });
    assert_eq!(of(&findings, "SPF").expected, ["v=spf1 mx include:spf.example.net -all"]);
}

/// What the record says in the end, evaluated, outweighs its words.
#[test]
fn r26_spf_as_others_evaluate_it() {
    let verdict = |outcome| {
        let (domain, reason) = ("company.com".to_owned(), "because".to_owned());
        ([192, 0, 2, 25].into(), Spf { outcome, identity: SpfIdentity::MailFrom, domain, reason, explanation: None })
    };
    let (ours, theirs) = ("v=spf1 include:spf.example.net -all", "v=spf1 include:all-of-ours.company.com -all");
    for (record, outcomes, status, says) in [
        (ours, &[AuthOutcome::Pass][..], Status::Ok, ""),
        (theirs, &[AuthOutcome::Pass, AuthOutcome::Pass], Status::Ok, ""),
        (theirs, &[AuthOutcome::Pass, AuthOutcome::Fail], Status::Wrong, "replace the record"),
        (ours, &[AuthOutcome::Pass, AuthOutcome::Permerror], Status::Wrong, "mail from 192.0.2.25: permerror, because"),
        (ours, &[AuthOutcome::Fail], Status::Wrong, "mail from 192.0.2.25: fail, because"),
        (ours, &[AuthOutcome::Temperror], Status::Ok, ""),
        (theirs, &[AuthOutcome::Temperror], Status::Unknown, "could not be looked up"),
        ("v=spf1 include:all-of-ours.company.com ?all", &[AuthOutcome::Pass], Status::Warn, "does not protect"),
        ("v=spf1 include:spf.example.net +all", &[AuthOutcome::Pass], Status::Wrong, "everybody"),
    ] {
        let verdicts = outcomes.iter().map(|outcome| verdict(*outcome)).collect();
        let findings = domain(&expectation(), &Observation { spf: texts(&[record]), verdicts, ..observation() });
        let finding = of(&findings, "SPF");
        assert_eq!(finding.status, status, "{record} {outcomes:?}");
        assert!(finding.advice.as_deref().unwrap_or_default().contains(says), "{outcomes:?}: {finding:?}");
    }
}

#[test]
fn r27_dkim_each_key() {
    for (found, status, says) in [
        (texts(&["v=DKIM1; k=ed25519; p=AAAA"]), Status::Ok, ""),
        (texts(&["p= AA AA ;k=ed25519;n=note"]), Status::Ok, ""),
        (texts(&["v=DKIM1; k=ed25519; t=s:y; p=AAAA"]), Status::Warn, "t=y"),
        (texts(&["v=DKIM1; k=ed25519; p="]), Status::Wrong, "revoked"),
        // R30.
        (texts(&["v=DKIM1; k=ed25519; p=BBBB"]), Status::Wrong, "not to be overwritten"),
        (texts(&["v=DKIM1; p=AAAA"]), Status::Wrong, "not to be overwritten"),
        (texts(&["x", "v=DKIM1; k=ed25519; p=AAAA"]), Status::Wrong, "several"),
        (texts(&[]), Status::Missing, "publish"),
        (silent(), Status::Unknown, "timed out"),
    ] {
        let shown = format!("{found:?}");
        let findings = domain(&expectation(), &Observation { keys: vec![found], ..observation() });
        let finding = of(&findings, "DKIM");
        assert_eq!((finding.name.as_str(), finding.status), ("s1._domainkey.company.com", status), "{shown}");
        assert!(finding.advice.as_deref().unwrap_or_default().contains(says), "{shown}: {finding:?}");
    }
    let without = Expectation { keys: Vec::new(), ..expectation() };
    assert_eq!(of(&domain(&without, &observation()), "DKIM").status, Status::Warn);
}

#[test]
fn r28_r29_dmarc_and_who_gets_reports() {
    let at = |owner: &str, records: &[&str]| Ok(Dmarc { owner: name(owner), records: texts(records).unwrap() });
    let ours = "rua=mailto:dmarc@example.net";
    for (found, status, says) in [
        (at("company.com", &[&format!("v=DMARC1; p=quarantine; {ours}")]), Status::Ok, ""),
        (at("company.com", &[&format!("v=DMARC1; p=none; {ours}")]), Status::Ok, "only watches"),
        (at("com", &[&format!("v=DMARC1; p=none; {ours}")]), Status::Ok, "only watches"),
        (at("company.com", &["v=DMARC1; p=none"]), Status::Warn, "no reports come to the service"),
        (at("company.com", &["v=DMARC1; p=none; rua=mailto:x@y.example"]), Status::Warn, "no reports come"),
        (at("company.com", &["v=DMARC1"]), Status::Wrong, "no `p=none`"),
        (at("company.com", &["v=dmarc1; p=none"]), Status::Wrong, "capitals"),
        (at("company.com", &["v=DMARC1; p=none", "v=DMARC1; p=reject"]), Status::Wrong, "several"),
        (at("company.com", &["v=DMARC1; p=\u{1b}]0;x"]), Status::Wrong, "not printable"),
        (at("company.com", &[]), Status::Missing, "publish"),
        (silent(), Status::Unknown, "timed out"),
    ] {
        let shown = format!("{found:?}");
        let findings = domain(&expectation(), &Observation { dmarc: found, ..observation() });
        let finding = of(&findings, "DMARC");
        assert_eq!((finding.name.as_str(), finding.status), ("_dmarc.company.com", status), "{shown}");
        assert!(finding.advice.as_deref().unwrap_or_default().contains(says), "{shown}: {finding:?}");
    }
    let findings = domain(&expectation(), &Observation { authorization: Some(texts(&[])), ..observation() });
    let permission = findings.iter().find(|finding| finding.name == "company.com._report._dmarc.example.net").unwrap();
    assert_eq!(permission.status, Status::Missing);
}

#[test]
fn r31_name_servers() {
    let servers =
        |zone: &str, names: &[&str]| Ok(Servers { zone: name(zone), names: names.iter().map(|n| name(n)).collect() });
    for (found, status) in [
        (servers("company.com", &["ns1.isp.example", "ns2.isp.example"]), Status::Ok),
        (servers("com", &["ns1.isp.example", "ns2.isp.example"]), Status::Ok),
        (servers("company.com", &["ns1.isp.example"]), Status::Warn),
        (servers("company.com", &[]), Status::Wrong),
        (Err(DnsError::NotFound), Status::Missing),
        (silent(), Status::Unknown),
    ] {
        let shown = format!("{found:?}");
        let findings = domain(&expectation(), &Observation { servers: found, ..observation() });
        assert_eq!(of(&findings, "NS").status, status, "{shown}");
    }
}

#[test]
fn r31_addresses_of_the_hosts_that_are_not_ours() {
    for (found, status) in [
        (Ok(vec![[192, 0, 2, 1].into()]), Status::Ok),
        (Err(DnsError::NotFound), Status::Warn),
        (silent(), Status::Unknown),
    ] {
        let hosts = vec![(name("mx.isp.example"), found)];
        let findings = domain(&expectation(), &Observation { hosts, ..observation() });
        assert_eq!(of(&findings, "A/AAAA").status, status);
    }
}

#[test]
fn r6_a_domain_without_destination_is_named() {
    let tenant = |destination| Some(Tenant { name: "company".into(), destination });
    for (tenant, status) in
        [(tenant(Some(host("mail.company.com"))), Status::Ok), (tenant(None), Status::Missing), (None, Status::Missing)]
    {
        let findings = domain(&Expectation { tenant, ..expectation() }, &observation());
        assert_eq!(of(&findings, "TENANT").status, status);
    }
}

#[test]
fn r18_the_change_of_mx_is_visible_to_the_provider() {
    let (ms, google) = ("company-com.mail.protection.outlook.com", "aspmx.l.google.com");
    let with_include = "v=spf1 include:spf.protection.outlook.com include:spf.example.net -all";
    let ours = [(10, "mx1.example.net"), (20, "mx2.example.net")];
    for (destination, found, spf, status, says) in [
        (ms, mx(&ours), with_include, Status::Ok, "Enhanced Filtering"),
        (
            google,
            mx(&ours),
            "v=spf1 include:_spf.google.com include:spf.example.net ~all",
            Status::Ok,
            "Inbound gateway",
        ),
        (ms, mx(&ours), "v=spf1 include:spf.example.net -all", Status::Warn, "include:spf.protection.outlook.com"),
        (ms, mx(&[ours[0], ours[1], (30, ms)]), with_include, Status::Warn, "not complete"),
        (ms, mx(&[(0, ms)]), with_include, Status::Warn, "not complete"),
        (google, mx(&[(10, "mail.company.com")]), with_include, Status::Warn, "not visible"),
    ] {
        let tenant = Some(Tenant { name: "company".into(), destination: Some(host(destination)) });
        let shown = format!("{destination} {found:?}");
        let observation = Observation { exchanges: found, spf: texts(&[spf]), ..observation() };
        let findings = domain(&Expectation { tenant, ..expectation() }, &observation);
        let finding = of(&findings, "PROVIDER");
        assert_eq!(finding.status, status, "{shown}");
        assert!(finding.advice.as_deref().unwrap_or_default().contains(says), "{shown}: {finding:?}");
    }
    assert!(domain(&expectation(), &observation()).iter().all(|finding| finding.record != "PROVIDER"));
}
