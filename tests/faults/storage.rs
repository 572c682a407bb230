//! Process death and storage. K, P, D: the process dies, the power is cut, the disk is full, slow, broken or gone.
//!
//! What needs the Nth system call to die or to fail, a power cut or a disk of its own is in `machine/storage.rs`; what no outside
//! can provoke stands beside the spool, over a simulated disk.

mod death;
mod disk;
mod latch;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use postern_tests::ledger::{self, Account, Act, Arrivals, Conversation, Ledger, Moment, body};
use postern_tests::program::{Gateway, MANY_OF_A_CLIENT, Place};

/// Fires once, at the first such moment with this in its last line.
struct Trap {
    moment: Moment,
    within: &'static str,
    act: Box<dyn Fn() + Send + Sync>,
}

/// A place for gateways between a client with a ledger and a next hop that writes down what it takes.
///
/// At the next hop `refuse@…` hears 550, and `later@…` 451 as long as it is `putting_off`; `deaf`, it takes nobody's mail.
struct Bench {
    place: Place,
    ledger: Arc<Ledger>,
    arrivals: Arc<Arrivals>,
    trap: Arc<Mutex<Option<Trap>>>,
    deaf: Arc<AtomicBool>,
    putting_off: Arc<AtomicBool>,
    next_hop: u16,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(&directory.path().join("ledger")).unwrap();
        let arrivals = Arrivals::create(&directory.path().join("arrivals")).unwrap();
        let trap = Arc::new(Mutex::new(None::<Trap>));
        let (deaf, putting_off) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let (set, is_deaf, puts_off) = (trap.clone(), deaf.clone(), putting_off.clone());
        let script = move |moment: Moment, line: &str| {
            let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sprung) = set.take_if(|trap| trap.moment == moment && line.contains(trap.within)) {
                (sprung.act)();
            }
            match moment {
                // Connections are used again.
                Moment::Connected | Moment::Sender if is_deaf.load(Ordering::Relaxed) => {
                    Act::Say("421 4.3.2 not now\r\n")
                }
                Moment::Recipient if line.contains("<refuse@") => Act::Say("550 5.1.1 nobody\r\n"),
                Moment::Recipient if line.contains("<later@") && puts_off.load(Ordering::Relaxed) => {
                    Act::Say("451 4.2.0 come back\r\n")
                }
                _ => Act::Go,
            }
        };
        let next_hop = ledger::next_hop(arrivals.clone(), Arc::new(script)).unwrap().port();
        let place = Place::new(directory.path(), next_hop, MANY_OF_A_CLIENT, more);
        Self { place, ledger, arrivals, trap, deaf, putting_off, next_hop, directory }
    }

    fn client(&self) -> Conversation {
        Conversation::greeted(self.place.listen).unwrap()
    }

    /// Sends a mail of so many octets; the reply.
    fn send(&self, id: &str, recipients: &[&str], octets: usize) -> String {
        self.client().send(&self.ledger, id, recipients, &body(octets)).unwrap()
    }

    /// As `send`, where the gateway may die before it has answered.
    fn offer(&self, id: &str, recipients: &[&str], octets: usize) {
        let _ = self.client().send(&self.ledger, id, recipients, &body(octets));
    }

    /// Kills this gateway when the next hop comes to that moment.
    fn kill_at(&self, gateway: &Gateway, moment: Moment, within: &'static str) {
        let trap = Trap { moment, within, act: Box::new(gateway.killer()) };
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(trap);
    }

    fn wait_for(&self, id: &str) {
        self.arrivals.wait_until(id, |arrivals| arrivals.iter().any(|arrival| arrival.id == id && !arrival.is_report));
    }

    fn copies(&self, id: &str) -> usize {
        self.arrivals.lines().iter().filter(|arrival| arrival.id == id && !arrival.is_report).count()
    }

    /// Waits for such an event in the log.
    fn happened(&self, event: &str) {
        while !self.place.events().iter().any(|record| record["event"] == event) {
            thread::yield_now();
        }
    }

    /// Nothing is in the queue any more.
    fn wait_until_empty(&self) {
        while !self.queue().is_empty() {
            thread::yield_now();
        }
    }

    /// What `postern queue list` tells of the messages.
    fn queue(&self) -> Vec<serde_json::Value> {
        let (code, text) = self.place.command(&["--json", "queue", "list"]);
        assert_eq!(code, Some(0), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until all that was acknowledged has come, stops the gateway in order, finds nothing in the spool, and settles.
    fn finish(&self, gateway: Gateway, deaths: usize) -> Account {
        let acknowledged: HashSet<_> = self.ledger.lines().into_iter().filter(|a| a.code < 300).map(|a| a.id).collect();
        self.place.command(&["queue", "flush", "--all"]);
        self.arrivals.wait_until("all that was acknowledged", |arrivals| {
            let come: HashSet<_> = arrivals.iter().map(|arrival| arrival.id.as_str()).collect();
            acknowledged.iter().all(|id| come.contains(id.as_str()))
        });
        self.wait_until_empty();
        gateway.stop();
        assert_eq!(ledger::in_spool(&self.place.spool), HashSet::new());
        self.settle(&HashSet::new(), deaths)
    }

    fn settle(&self, spool: &HashSet<String>, deaths: usize) -> Account {
        let settled = ledger::settle(&self.ledger.lines(), &self.arrivals.lines(), spool, deaths);
        settled.unwrap_or_else(|wrong| panic!("{}\n{}", wrong.join("\n"), self.place.said()))
    }
}
