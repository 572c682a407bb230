//! DNS and sender authentication. N: name servers that are silent, wrong or hostile, and the limits of SPF, DKIM, DMARC and ARC.

mod answer;
mod message;

use postern_tests::dns::Dns;
use postern_tests::scene::{OFFICE, Scene, head};

const CLIENT: &str = "192.0.2.7";
const USER: &str = "198.51.100.7";
const MAIL: &str = "From: joe@author.example\r\nSubject: x\r\n\r\nhello\r\n";

/// Senders need a domain that exists: NXDOMAIN refuses, and whatever is no clear answer delays.
const SENDERS: &str = r#"
[[plugin]]
name = "sender-policy"
source = "builtin:sender-policy"
grants = ["dns", "metrics"]
config = { require_in_dns = "always" }
[chain]
platform = ["sender-policy"]
"#;

/// SPF, DKIM and DMARC as they are by default.
const VERIFIERS: &str = r#"
[[plugin]]
name = "spf"
source = "builtin:spf"
grants = ["authentication", "metrics"]
[[plugin]]
name = "dkim"
source = "builtin:dkim"
grants = ["authentication", "metrics"]
[[plugin]]
name = "dmarc"
source = "builtin:dmarc"
grants = ["authentication", "metrics"]
config = { trusted_sealers = ["lists.example"] }
[chain]
platform = ["spf", "dkim", "dmarc"]
"#;

struct Stage {
    scene: Scene,
    dns: Dns,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn set(more: &str) -> Self {
        Self::set_with(Dns::start().await.unwrap(), more).await
    }

    async fn set_with(dns: Dns, more: &str) -> Self {
        dns.address("good.example", CLIENT).txt("good.example", "v=spf1 ip4:192.0.2.0/24 -all");
        let directory = tempfile::tempdir().unwrap();
        let config = format!("{}{OFFICE}{more}", head(&dns.setting()));
        let scene = Scene::set(&config, directory.path()).await.unwrap();
        Self { scene, dns, _directory: directory }
    }

    async fn send(&self, sender: &str, mail: &str) -> String {
        self.scene.send(CLIENT, sender, &["jones@example.com"], mail).await
    }

    /// The gateway's own results in the last of so many mails that the next hop has taken, unfolded.
    async fn results(&self, count: usize) -> String {
        let taken = self.scene.taken("sink", count).await;
        let text = taken.last().unwrap().octets.escape_ascii().to_string();
        let text = text.replace("\\r\\n ", " ").replace("\\r\\n\\t", " ").replace("\\\"", "\"");
        let ours = "Authentication-Results: mx.example.net;";
        let lines: Vec<_> = text.split("\\r\\n").filter(|line| line.starts_with(ours)).collect();
        assert_eq!(lines.len(), 1, "one field, and one alone: {text}");
        lines[0].to_owned()
    }

    /// Whatever went before, a good mail passes.
    async fn goes_on(&self) {
        let reply = self.send("joe@good.example", MAIL).await;
        assert!(reply.starts_with("250 "), "{reply}\n{}", self.scene.story());
    }
}
