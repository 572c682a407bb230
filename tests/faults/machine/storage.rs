//! Process death and storage, where it takes root, time or Debian packages.
//!
//! What was seen is printed: `--nocapture`. `POSTERN_MESSAGES` (1000000) is how many mails D8 begins with.

mod disk;
mod power;
mod sweep;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::from_environment;
use postern_tests::ledger::{self, Account, Act, Arrivals, Conversation, Ledger, Moment, body};
use postern_tests::program::{Gateway, MANY_OF_A_CLIENT, Place};

const BOB: &[&str] = &["bob@example.com"];

/// How long a look at what a process does waits for the next one.
const PAUSE: Duration = Duration::from_millis(10);

/// Where `machine/install` unpacks what is not installed.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/faults/root")
}

/// A program of the system or of `machine/install`.
fn tool(name: &str) -> Command {
    let there = ["usr/sbin", "sbin", "usr/bin"].map(|folder| unpacked().join(folder).join(name));
    let mut command = Command::new(there.iter().find(|path| path.is_file()).map_or(Path::new(name), PathBuf::as_path));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu"];
    let libraries = libraries.map(|folder| unpacked().join(folder).display().to_string());
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = output.stderr.escape_ascii();
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// A file system of its own in a file or in memory, unmounted when dropped.
struct Volume {
    image: PathBuf,
    mount: PathBuf,
}

impl Volume {
    /// `how`: the program that makes it, with its options.
    fn make(directory: &Path, octets: u64, how: &[&str]) -> Self {
        let volume = Self { image: directory.join("image"), mount: directory.join("mount") };
        File::create(&volume.image).unwrap().set_len(octets).unwrap();
        run(tool(how[0]).args(&how[1..]).arg(&volume.image));
        fs::create_dir(&volume.mount).unwrap();
        volume.mount_with("loop");
        fs::create_dir(volume.spool()).unwrap();
        volume
    }

    fn in_memory(directory: &Path, size: &str) -> Self {
        let volume = Self { image: PathBuf::from("tmpfs"), mount: directory.join("mount") };
        fs::create_dir(&volume.mount).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&volume.mount));
        fs::create_dir(volume.spool()).unwrap();
        volume
    }

    fn spool(&self) -> PathBuf {
        self.mount.join("spool")
    }

    fn mount_with(&self, options: &str) {
        run(Command::new("mount").args(["-o", options]).arg(&self.image).arg(&self.mount));
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(&self.mount));
    }

    /// As if the power were cut: nothing that was not synced gets to the disk any more.
    fn cut_power(&self) {
        run(tool("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount));
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).stderr(Stdio::null()).status();
    }
}

/// A gateway's place between a client with a ledger and a next hop that writes down what it takes: `refuse@…` hears 550 there,
/// and deaf it takes nobody's mail.
struct Bench {
    place: Place,
    ledger: Arc<Ledger>,
    arrivals: Arc<Arrivals>,
    deaf: Arc<AtomicBool>,
    /// Answers that were there when the power went. A machine without power refuses nothing: what the process, which is still
    /// there in the test, has refused since then counts as not answered.
    before_the_cut: AtomicUsize,
}

impl Bench {
    fn new(directory: &Path, spool: &Path) -> Self {
        Self::with_observer(directory, spool, |_| ())
    }

    /// `observer` hears of each moment at the next hop.
    fn with_observer(directory: &Path, spool: &Path, observer: impl Fn(Moment) + Send + Sync + 'static) -> Self {
        let ledger = Ledger::create(&directory.join("ledger")).unwrap();
        let arrivals = Arrivals::create(&directory.join("arrivals")).unwrap();
        let deaf = Arc::new(AtomicBool::new(false));
        let is_deaf = deaf.clone();
        let script = move |moment: Moment, line: &str| {
            observer(moment);
            match moment {
                // Connections are used again.
                Moment::Connected | Moment::Sender if is_deaf.load(Ordering::Relaxed) => {
                    Act::Say("421 4.3.2 not now\r\n")
                }
                Moment::Recipient if line.contains("<refuse@") => Act::Say("550 5.1.1 nobody\r\n"),
                _ => Act::Go,
            }
        };
        let next_hop = ledger::next_hop(arrivals.clone(), Arc::new(script)).unwrap().port();
        let place = Place::with_spool(directory, spool, next_hop, MANY_OF_A_CLIENT, "");
        Self { place, ledger, arrivals, deaf, before_the_cut: AtomicUsize::new(usize::MAX) }
    }

    /// The reply, or why there was none.
    fn send(&self, id: &str, to: &[&str], octets: usize) -> Result<String, String> {
        let client = Conversation::greeted(self.place.listen);
        let reply = client.and_then(|mut client| client.send(&self.ledger, id, to, &body(octets)));
        reply.map_err(|error| error.to_string())
    }

    fn acknowledged(&self) -> HashSet<String> {
        self.ledger.lines().into_iter().filter(|answer| answer.code < 300).map(|answer| answer.id).collect()
    }

    fn has_all_come(&self) -> bool {
        let come: HashSet<_> = self.arrivals.lines().into_iter().map(|arrival| arrival.id).collect();
        self.acknowledged().is_subset(&come)
    }

    fn is_ready(&self) -> bool {
        self.place.get("/healthz/ready").is_ok_and(|(code, _)| code == 200)
    }

    fn is_empty(&self) -> bool {
        let (code, text) = self.place.command(&["--json", "queue", "list"]);
        code == Some(0) && text.trim().is_empty()
    }

    /// Starts a gateway that nothing happens to, waits until all has come, finds the spool empty afterwards, and settles.
    fn finish(&self, deaths: usize, context: &str) -> Account {
        self.deaf.store(false, Ordering::Relaxed);
        let gateway = self.place.start();
        self.place.command(&["queue", "flush", "--all"]);
        let acknowledged = self.acknowledged();
        self.arrivals.wait_until(context, |arrivals| {
            let come: HashSet<_> = arrivals.iter().map(|arrival| arrival.id.as_str()).collect();
            acknowledged.iter().all(|id| come.contains(id.as_str()))
        });
        while !self.is_empty() {
            thread::sleep(PAUSE);
        }
        gateway.stop();
        assert_eq!(ledger::in_spool(&self.place.spool), HashSet::new(), "{context}");
        let mut answers = self.ledger.lines().into_iter().enumerate().collect::<Vec<_>>();
        answers.retain(|(n, answer)| answer.code < 300 || *n < self.before_the_cut.load(Ordering::Relaxed));
        let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
        let settled = ledger::settle(&answers, &self.arrivals.lines(), &HashSet::new(), deaths);
        settled.unwrap_or_else(|wrong| panic!("{context}\n{}\n{}", wrong.join("\n"), self.place.said()))
    }
}

/// `strace` on a gateway that runs; ended, with the injections, when dropped.
struct Tracer(Child);

impl Tracer {
    /// `what`: e.g. `fdatasync:error=EIO`, for all threads, from now on.
    fn inject(gateway: &Gateway, what: &str) -> Self {
        let calls = what.split(':').next().unwrap();
        let mut command = tool("strace");
        command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &format!("inject={what}")]);
        let pid = gateway.pid().as_raw_nonzero().to_string();
        let mut child = command.args(["-p", &pid]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let attached = lines.find(|line| line.contains("attached"));
        assert!(attached.is_some(), "strace can't attach");
        thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of the gateway in order.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}
