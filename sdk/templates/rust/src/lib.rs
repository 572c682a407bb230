//! A plugin for Postern: refuses senders whose domain takes no mail, because nobody could ever answer them.

use postern_sdk::dns::{self, Answer, DnsError, Question, RecordType};
use postern_sdk::prelude::*;

struct HouseRules {
    config: Config,
}

/// The table `config` of the plugin's entry.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Senders that are not looked up: `bob@example.com`, `example.com`, `.example.com` (each domain below it).
    trusted: Vec<Pattern>,
}

#[plugin]
impl Plugin for HouseRules {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn mail_from(&self, _: &Session, message: &Message) -> Verdict {
        // `MAIL FROM:<>`: a bounce has no sender.
        let Some(sender) = message.reverse_path() else { return Verdict::Next };
        if self.config.trusted.iter().any(|pattern| pattern.matches(&sender)) {
            return Verdict::Next;
        }
        match takes_mail(&sender.domain) {
            Ok(true) => Verdict::Next,
            Ok(false) => {
                info!("{} takes no mail", sender.domain);
                reject!("550 5.1.8", "The domain {} takes no mail, so nobody could answer you", sender.domain)
            }
            Err(_) => defer!("451 4.1.8", "The domain {} can't be looked up now", sender.domain),
        }
    }
}

/// It has a mail exchanger or an address (RFC 5321 §5.1).
fn takes_mail(domain: &str) -> Result<bool, DnsError> {
    if domain.starts_with('[') {
        // An address literal is its own host.
        return Ok(true);
    }
    let questions = [RecordType::Mx, RecordType::A, RecordType::Aaaa].map(|kind| Question::new(domain, kind));
    let answers = dns::resolve_many(questions.into());
    if let [Ok(Answer::Exchanges(exchanges)), ..] = answers.as_slice() {
        // RFC 7505: the one exchanger `.` says that it takes none, whatever addresses it has.
        return Ok(exchanges.iter().any(|exchange| exchange.host != "."));
    }
    if answers.iter().any(Result::is_ok) {
        return Ok(true);
    }
    if answers.contains(&Err(DnsError::Temporary)) { Err(DnsError::Temporary) } else { Ok(false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_sdk::testing::{Client, Gateway, Mail};

    fn verdict(config: &str, sender: &str) -> String {
        let gateway = Gateway::new()
            .grant("dns")
            .config(config)
            .dns_mx("example.org", 10, "mail.example.org")
            .dns_address("host.example.net", "192.0.2.25")
            .dns_mx("null.example", 0, ".")
            .dns_address("null.example", "192.0.2.26")
            .dns_fails("slow.example");
        let client = Client::at("192.0.2.1").ehlo("mail.example.org");
        gateway.mail_from::<HouseRules>(&client, &mut Mail::from(sender)).verdict.to_string()
    }

    #[test]
    fn who_can_be_answered_may_send() {
        for sender in ["ann@example.org", "root@host.example.net", "x@[192.0.2.1]"] {
            assert_eq!(verdict("{}", sender), "next", "{sender}");
        }
    }

    #[test]
    fn who_can_not_is_refused() {
        for sender in ["ann@nowhere.example", "ann@null.example"] {
            assert!(verdict("{}", sender).starts_with("reject 550 5.1.8 "), "{sender}");
        }
        assert!(verdict("{}", "ann@slow.example").starts_with("defer 451 4.1.8 "));
    }

    #[test]
    fn who_is_trusted_is_not_looked_up() {
        assert_eq!(verdict(r#"{"trusted": ["nowhere.example"]}"#, "ann@nowhere.example"), "next");
    }
}
