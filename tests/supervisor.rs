//! The program under a service manager: what it says, and when, over the socket that it was given.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A state that has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
[server]
host_name = "mx.example.com"
administrators = ["postmaster@example.com"]
drain_timeout = "1s"
[[listener]]
name = "mx"
address = "127.0.0.1:0"
role = "inbound"
tls = "none"
[spool]
directory = "spool"
[log]
file = "events.log"
[chain]
platform = []
[[tenant]]
name = "example"
domains = ["example.com"]
destination = "127.0.0.1:9"
"#;

/// The manager: its socket, and the service that it has started.
struct Manager {
    socket: UnixDatagram,
    service: Child,
}

impl Manager {
    fn start(directory: &Path) -> Self {
        let address = directory.join("notify");
        let socket = UnixDatagram::bind(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let service = Command::new(crate::postern_binary())
            .arg("--config")
            .arg(directory.join("postern.toml"))
            .arg("serve")
            .env("NOTIFY_SOCKET", &address)
            .env("WATCHDOG_USEC", "200000")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { socket, service }
    }

    fn hear(&self) -> String {
        let mut datagram = [0; 1024];
        let len = self.socket.recv(&mut datagram).expect("a state from the gateway");
        str::from_utf8(&datagram[..len]).unwrap().to_owned()
    }

    /// The next state that is not a sign of life.
    fn hear_news(&self) -> String {
        std::iter::repeat_with(|| self.hear()).find(|state| !state.starts_with("WATCHDOG=1")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.service), signal).unwrap();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[test]
fn a_service_manager_hears_start_life_reload_and_stop() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    let config = directory.path().join("postern.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let mut manager = Manager::start(directory.path());

    assert_eq!(manager.hear(), "READY=1", "and nothing before it");
    for _ in 0..3 {
        assert_eq!(manager.hear(), "WATCHDOG=1\nSTATUS=takes mail; 0 sessions, 0 messages in the queue");
    }

    // One that is put into force, and one that is refused: both end, and the gateway goes on.
    for config_text in [CONFIG.to_owned(), CONFIG.replace("host_name", "hostname")] {
        std::fs::write(&config, config_text).unwrap();
        manager.signal(Signal::HUP);
        let reloading = manager.hear_news();
        let since_boot = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        assert!(since_boot.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.hear_news(), "READY=1");
    }

    manager.signal(Signal::TERM);
    assert_eq!(manager.hear_news(), "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=61000000");
    let told = BufReader::new(manager.service.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<_> = told.collect();
    assert!(manager.service.wait().unwrap().success(), "{told:#?}");
    assert!(told.iter().any(|line| line.contains("the old config stays in force")), "{told:#?}");
}

/// What `systemctl reload` runs, so that its exit code is the operator's answer.
#[test]
fn the_reload_command_fails_when_the_reload_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    let config = directory.path().join("postern.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let manager = Manager::start(directory.path());
    assert_eq!(manager.hear(), "READY=1");
    let reload = || {
        let command = Command::new(crate::postern_binary()).arg("--config").arg(&config).arg("reload").output();
        command.unwrap().status.code()
    };
    assert_eq!(reload(), Some(0));
    assert!(manager.hear_news().starts_with("RELOADING=1"));
    assert_eq!(manager.hear_news(), "READY=1");
    std::fs::write(&config, CONFIG.replace("\"example.com\"", "\"not a domain\"")).unwrap();
    assert_eq!(reload(), Some(2));
}
