//! Split DNS (R57): the public DNS names the gateway, the internal one the server behind it.

use super::*;

struct Split {
    public: Responder,
    internal: Responder,
    servers: Servers,
}

impl Split {
    /// `address`: where a server takes one mail.
    async fn new(address: &str) -> Self {
        let taking = taking();
        let (public, internal) = (Responder::start().await, Responder::start().await);
        public.a("us.example", &["192.0.2.25"]);
        Self { public, internal, servers: Servers::start(&[(address, &[&taking])]).await }
    }

    fn delivery(&self) -> Delivery {
        let own_hosts = vec![Host::parse("us.example").unwrap(), Host::parse("[192.0.2.25]").unwrap()];
        let internal_domains = [Domain::parse("them.example").unwrap()].into();
        let settings = Settings { own_hosts, internal_domains, ..settings(self.servers.port) };
        delivery(&self.public, settings).0.with_internal(Some(self.internal.resolver()))
    }

    async fn outcome(&self, domain: &str) -> String {
        summary(&self.delivery().deliver(mx(domain)).await)
    }
}

const TAKEN: &str = "delivered 250 2.0.0 remote";
const LOOP: &str = "failed 554 5.4.6 own";

#[tokio::test]
async fn r57_the_best_preference_wins_and_the_gateway_never_delivers_to_itself() {
    for (public, internal, expected) in [
        // The server behind is as good as we are, or better.
        (&[(10, "us.example")][..], &[(10, "mail.example")][..], TAKEN),
        (&[(10, "us.example")], &[(5, "mail.example")], TAKEN),
        (&[(10, "us.example"), (20, "backup.example")], &[(10, "mail.example")], TAKEN),
        // We are better than it: from us on, nobody is asked.
        (&[(10, "us.example")], &[(20, "mail.example")], LOOP),
        (&[(20, "us.example")], &[(10, "us.example"), (20, "mail.example")], LOOP),
        (&[(10, "us.example"), (10, "mail.example")], &[(10, "us.example")], LOOP),
        // By another name, known by its address.
        (&[(10, "alias.example")], &[(20, "mail.example")], LOOP),
        (&[(10, "alias.example")], &[(10, "mail.example")], TAKEN),
        (&[], &[(10, "mail.example")], TAKEN),
        (&[(0, ".")], &[(10, "mail.example")], TAKEN),
        (&[(10, "us.example")], &[(0, ".")], LOOP),
        (&[(10, "us.example")], &[], LOOP),
        (&[(10, "mail.example")], &[], "deferred 451 4.4.1 own down"),
    ] {
        let split = Split::new("127.0.0.2").await;
        split.public.a("alias.example", &["192.0.2.25"]).a("mail.example", &["127.0.0.4"]);
        split.internal.a("mail.example", &["127.0.0.2"]);
        if !public.is_empty() {
            split.public.mx("them.example", public);
        }
        if !internal.is_empty() {
            split.internal.mx("them.example", internal);
        }
        assert_eq!(split.outcome("them.example").await, expected, "{public:?} {internal:?}");
    }
}

#[tokio::test]
async fn r57_equally_good_ones_are_asked_inside_first() {
    let split = Split::new("127.0.0.2").await;
    split.public.mx("them.example", &[(10, "dead.example")]).a("dead.example", &["127.0.0.4"]);
    split.internal.mx("them.example", &[(10, "mail.example")]).a("mail.example", &["127.0.0.2"]);
    let delivery = split.delivery();
    let report = delivery.deliver(mx("them.example")).await;
    assert_eq!((summary(&report).as_str(), host_of(&report)), (TAKEN, Some("mail.example")));
    assert_eq!(split.public.queries("dead.example", RecordType::A), 0);
    drop(delivery);
    split.servers.finish().await;
}

#[tokio::test]
async fn r57_nobody_could_say_is_not_there_is_none() {
    for (which, answer) in [
        ("internal", Answer::Code(ResponseCode::ServFail)),
        ("internal", Answer::Silent),
        ("public", Answer::Code(ResponseCode::Refused)),
    ] {
        let split = Split::new("127.0.0.2").await;
        split.public.mx("them.example", &[(10, "us.example")]);
        split.internal.mx("them.example", &[(10, "mail.example")]).a("mail.example", &["127.0.0.2"]);
        let of = if which == "public" { &split.public } else { &split.internal };
        of.set("them.example", RecordType::MX, answer.clone());
        assert_eq!(split.outcome("them.example").await, "deferred 451 4.4.3 own down", "{which} {answer:?}");
    }
}

#[tokio::test]
async fn r57_other_domains_are_not_asked_inside() {
    let split = Split::new("127.0.0.2").await;
    split.public.mx("others.example", &[(10, "mail.example")]).a("mail.example", &["127.0.0.2"]);
    split.internal.mx("others.example", &[(5, "dead.example")]);
    assert_eq!(split.outcome("others.example").await, TAKEN);
    assert_eq!(split.internal.queries("others.example", RecordType::MX), 0);
}
