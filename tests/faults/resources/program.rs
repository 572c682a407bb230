//! The program itself, where it matters what the process uses.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// Ticks a second of the times in /proc/PID/stat: USER_HZ, the same on all machines that Linux runs on today.
const TICKS: u64 = 100;

/// Killed when dropped.
pub(crate) struct Program {
    child: Child,
    /// Its listener, and its metrics.
    pub(crate) address: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// Two folders up from the test, where `cargo build --package postern` puts it.
fn binary() -> PathBuf {
    let binary = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("postern");
    assert!(binary.is_file(), "{} is not there: build it first", binary.display());
    binary
}

/// One listener for the tenant `example` with the domain `example.com`, whose mail goes to this port.
fn config(directory: &Path, server: &str, next_hop: u16) -> String {
    format!(
        "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"admin@example.com\"]\n{server}\n\
         [server.http]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\ntls = \"none\"\n\
         [spool]\ndirectory = \"{directory}/spool\"\nreserve = \"1 MiB\"\n[log]\nfile = \"{directory}/events.jsonl\"\n\
         [dns]\nsystem = false\n[chain]\nplatform = []\n[queue]\nretry = [\"1s\"]\n\
         [[tenant]]\nname = \"example\"\ndomains = [\"example.com\"]\n\
         destination = {{ host = \"127.0.0.1\", port = {next_hop}, tls = \"never\" }}\n",
        directory = directory.display()
    )
}

impl Program {
    /// `server`: keys of that section. `open_files`: how many it may have.
    pub(crate) fn start(directory: &Path, server: &str, next_hop: u16, open_files: Option<u32>) -> Self {
        let path = directory.join("postern.toml");
        std::fs::write(&path, config(directory, server, next_hop)).unwrap();
        std::fs::create_dir(directory.join("spool")).unwrap();
        let mut command = match open_files {
            None => Command::new(binary()),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]).arg(binary());
                shell
            }
        };
        command.arg("--config").arg(&path).arg("serve").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut told = Vec::new();
        let mut address_in = |what: &str| {
            for line in lines.by_ref() {
                let address = line.contains(what).then(|| line.split_once("address=").unwrap().1.parse().unwrap());
                told.push(line);
                if address.is_some() {
                    return address;
                }
            }
            None
        };
        let found = address_in("takes mail").zip(address_in("health and metrics"));
        let Some((address, http)) = found else {
            let _ = child.kill();
            panic!("it does not start: {:?}\n{told:#?}", child.wait());
        };
        // A pipe that nobody reads would hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, http }
    }

    /// SIGTERM; it must end by itself, with success.
    pub(crate) fn stop(mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Octets of memory that it has now.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Octets that it had at most so far.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Of the processor, so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The name in parentheses may have anything in it; user and system time are the 12th and 13th after it.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The soft limit; what it was before.
    pub(crate) fn limit_open_files(&self, files: u64) -> u64 {
        let hard = self.read("limits");
        let hard = hard.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let maximum = hard.split_whitespace().nth(1).unwrap().parse().unwrap();
        let limit = Rlimit { current: Some(files), maximum: Some(maximum) };
        prlimit(Some(self.pid()), Resource::Nofile, limit).unwrap().current.unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn status(&self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
