//! Mail through the gateway, over TCP, past scanners that say what a test has them say: R35, X8, R22, R23, and the antivirus
//! column of R61.

use postern_tests::scanner::{Says, Scanner};
use postern_tests::scene::{NO_DNS, Scene, head};

fn clamav(port: u16, more: &str) -> String {
    format!("[[scanner]]\nname = \"clamav\"\nkind = \"clamd\"\naddress = \"tcp:127.0.0.1:{port}\"\n{more}\n")
}

fn rspamd(port: u16, more: &str) -> String {
    format!("[[scanner]]\nname = \"rspamd\"\nkind = \"rspamd\"\naddress = \"http://127.0.0.1:{port}\"\n{more}\n")
}

fn plugin(name: &str, builtin: &str, scanner: &str, config: &str) -> String {
    format!(
        "[[plugin]]\nname = \"{name}\"\nsource = \"builtin:{builtin}\"\ngrants = [\"metrics\", \"scan\"]\n\
         scanners = [\"{scanner}\"]\nconfig = {{ {config} }}\n"
    )
}

fn chain(entries: &str) -> String {
    format!("[chain]\nplatform = [{entries}]\n")
}

struct Stage {
    directory: tempfile::TempDir,
    scene: Scene,
}

impl Stage {
    async fn set(parts: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scene = Scene::set(&(head(NO_DNS) + &parts.concat()), directory.path()).await.unwrap();
        Self { directory, scene }
    }

    /// The reply to the mail, which is dot-stuffed already.
    async fn send(&self, mail: &str) -> String {
        self.send_to(mail, &["b@example.com"]).await
    }

    async fn send_to(&self, mail: &str, recipients: &[&str]) -> String {
        self.scene.send("", "a@client.example", recipients, mail).await
    }

    /// What the next hop has taken.
    async fn delivered(&self, count: usize) -> Vec<String> {
        let taken = self.scene.taken("sink", count).await;
        taken.into_iter().map(|mail| String::from_utf8(mail.octets).unwrap()).collect()
    }

    /// Nothing was taken, neither here nor there.
    async fn end_without_mail(self) {
        self.scene.queue(0).await.unwrap();
        assert_eq!(self.scene.sink("sink").unwrap().taken().len(), 0);
        self.scene.server.stop().await;
    }
}

const VIRUS: &str = "Subject: x\r\nX-Virus-Status: Clean\r\n\r\n..a VIRUS\r\n";
const CLEAN: &str = "Subject: y\r\nX-Virus-Status: Infected (no)\r\n\r\n..nothing\r\n";

/// clamd that finds the word.
fn finder(mail: &[u8]) -> Says {
    let found = mail.windows(5).any(|word| word == b"VIRUS");
    Says::This(if found { "#: stream: Word.Virus FOUND\0" } else { "#: stream: OK\0" }.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r35_x8_a_virus_is_refused() {
    let clamd = Scanner::clamd(finder).await.unwrap();
    // Two that ask the same scanner.
    let stage = Stage::set(&[
        clamav(clamd.port, ""),
        plugin("antivirus", "antivirus", "clamav", "found = \"tag\""),
        plugin("second", "antivirus", "clamav", "header = \"X-Second\""),
        chain("\"antivirus\", \"second\""),
    ])
    .await;
    assert_eq!(stage.send(VIRUS).await, "550 5.7.1 This mail carries a virus: Word.Virus");
    let shown = stage.scene.server.live().plugin("platform", "antivirus").unwrap().state;
    assert_eq!(
        (shown.scanners, shown.grants),
        (vec!["clamav".to_owned()], vec!["metrics".to_owned(), "scan".to_owned()])
    );
    assert!(stage.send(CLEAN).await.starts_with("250 2.0.0 "));
    let mails = stage.delivered(1).await;
    assert!(mails[0].contains("X-Virus-Status: Clean\r\n") && mails[0].contains("X-Second: Clean\r\n"), "{mails:?}");
    assert!(!mails[0].contains("Infected"), "{mails:?}");
    // As the client has sent them, without a field of ours, dots as they were; and each once.
    let asked: Vec<_> = clamd.asked().into_iter().map(|asked| String::from_utf8(asked.mail).unwrap()).collect();
    assert_eq!(asked, [VIRUS.replace("..", "."), CLEAN.replace("..", ".")]);
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r61_antivirus_column() {
    let clamd = Scanner::clamd(finder).await.unwrap();
    for (criterion, spared) in [("ip = [\"127.0.0.1\"]", true), ("sender = [\"a@client.example\"]", false)] {
        let access = format!(
            "[[plugin]]\nname = \"access\"\nsource = \"builtin:access\"\ngrants = [\"metrics\", \"tables\"]\n\
             [[plugin.config.rules]]\nname = \"friend\"\naction = \"allow\"\n{criterion}\n"
        );
        let antivirus = plugin("antivirus", "antivirus", "clamav", "");
        let chain = chain("\"access\", { plugin = \"antivirus\", exemptable = true }");
        let stage = Stage::set(&[clamav(clamd.port, ""), access, antivirus, chain]).await;
        let reply = stage.send(VIRUS).await;
        assert!(reply.starts_with(if spared { "250" } else { "550 5.7.1" }), "{criterion}: {reply}");
        stage.scene.server.stop().await;
    }
}

fn assessment(score: f64, action: &str) -> Says {
    Says::This(format!(
        "{{\"score\":{score},\"required_score\":15.0,\"action\":\"{action}\",\"symbols\":{{\"WORD\":{{\"score\":{score}}}}}}}"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r35_x8_spam_is_tagged_by_the_whole_envelope() {
    let daemon = Scanner::rspamd(|_| assessment(7.5, "add header")).await.unwrap();
    let stage = Stage::set(&[
        rspamd(daemon.port, ""),
        plugin("antispam", "antispam", "rspamd", "subject_prefix = \"[SPAM] \""),
        chain("\"antispam\""),
    ])
    .await;
    let mail = "X-Spam-Flag: NO\r\nSubject: hello\r\n\r\nx\r\n";
    let recipients = ["b@example.com", "c@example.com"];
    assert!(stage.send_to(mail, &recipients).await.starts_with("250"));
    let mails = stage.delivered(1).await;
    let fields = "X-Spam-Flag: YES\r\nX-Spam-Score: 7.50\r\n\
        X-Spam-Status: Yes, score=7.50 required=15.00 action=\"add header\"\r\n tests=WORD=7.50\r\n";
    assert!(mails[0].contains(fields) && mails[0].contains("Subject: [SPAM] hello\r\n"), "{}", mails[0]);
    assert!(!mails[0].contains("X-Spam-Flag: NO"));
    let asked = &daemon.asked()[0];
    assert_eq!(asked.mail, mail.as_bytes());
    for line in [
        "POST /checkv2 HTTP/1.1",
        "ip: 127.0.0.1",
        "helo: mail.client.example",
        "from: a@client.example",
        "rcpt: b@example.com",
        "rcpt: c@example.com",
        "mta-name: mx.example.net",
    ] {
        assert!(asked.head.lines().any(|said| said == line), "{line}\n{}", asked.head);
    }
    let queued = stage.scene.events();
    let id = queued.iter().find(|event| event["event"] == "queued").and_then(|event| event["id"].as_str()).unwrap();
    assert!(asked.head.contains(&format!("queue-id: {id}\r\n")), "{id}\n{}", asked.head);
    stage.scene.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_r23_spam_does_not_leave() {
    let daemon = Scanner::rspamd(|_| assessment(7.5, "add header")).await.unwrap();
    let trusted = "[[trusted_network]]\nname = \"own\"\nnetwork = \"127.0.0.1\"\ntenant = \"example\"\n".to_owned();
    let (antispam, chain) = (plugin("antispam", "antispam", "rspamd", ""), chain("\"antispam\""));
    let stage = Stage::set(&[rspamd(daemon.port, ""), antispam, chain, trusted]).await;
    assert_eq!(stage.send("Subject: x\r\n\r\nx\r\n").await, "550 5.7.1 This mail looks like spam");
    stage.end_without_mail().await;
}

/// Never taken, and never refused for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x8_scanners_that_hang_or_lie_only_ever_defer() {
    let this = |text: &str| Says::This(text.to_owned());
    let short = "timeout = \"200ms\"";
    for (says, more) in [
        (Says::Nothing, short),
        (Says::Endless, ""),
        (this("#: stream: FOUND\0"), ""),
        (this("0: stream: OK\0"), ""),
        (this("#: stream: OK"), short),
        (this("#: stream: OK\r\n\0"), ""),
        (this("#: stream: No room ERROR\0"), ""),
    ] {
        let shown = format!("{says:?}");
        let daemon = Scanner::clamd(move |_| says.clone()).await.unwrap();
        let (antivirus, chain) = (plugin("antivirus", "antivirus", "clamav", ""), chain("\"antivirus\""));
        let stage = Stage::set(&[clamav(daemon.port, more), antivirus, chain]).await;
        let reply = stage.send(CLEAN).await;
        assert_eq!(reply, "451 4.7.1 Mail can't be scanned for viruses now, try again later", "{shown}");
        stage.end_without_mail().await;
    }
    for (says, more) in [
        (Says::Nothing, short),
        (Says::Endless, ""),
        (this("{}"), ""),
        (this("{\"score\":99,\"required_score\":15,\"action\":\"\"}"), ""),
        (this("{\"score\":1e999,\"required_score\":15,\"action\":\"reject\"}"), ""),
        (this("<html>reject</html>"), ""),
    ] {
        let shown = format!("{says:?}");
        let daemon = Scanner::rspamd(move |_| says.clone()).await.unwrap();
        let (antispam, chain) = (plugin("antispam", "antispam", "rspamd", ""), chain("\"antispam\""));
        let stage = Stage::set(&[rspamd(daemon.port, more), antispam, chain]).await;
        let reply = stage.send(CLEAN).await;
        assert_eq!(reply, "451 4.7.1 Mail can't be scanned for spam now, try again later", "{shown}");
        stage.end_without_mail().await;
    }
}

/// A reload brings other scanners; nobody listens where the first one was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x8_scanners_change_while_it_runs() {
    let clamd = Scanner::clamd(finder).await.unwrap();
    let (antivirus, chain) = (plugin("antivirus", "antivirus", "clamav", ""), chain("\"antivirus\""));
    let gone = "127.0.0.1:1".to_owned();
    let address = |at: &str| format!("[[scanner]]\nname = \"clamav\"\nkind = \"clamd\"\naddress = \"tcp:{at}\"\n");
    let stage = Stage::set(&[address(&gone), antivirus, chain]).await;
    assert!(stage.send(VIRUS).await.starts_with("451 4.7.1"));
    let path = stage.directory.path().join("postern.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace(&gone, &format!("127.0.0.1:{}", clamd.port))).unwrap();
    let told = stage.scene.server.live().reload().await.unwrap();
    assert!(!told.contains("restart"), "{told}");
    assert!(stage.send(VIRUS).await.starts_with("550 5.7.1"));
    stage.end_without_mail().await;
}
