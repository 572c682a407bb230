//! How long a session still waits for its client (RS3, RS4).
//!
//! For a whole command, not for a read; for a message at a least rate; for the next mail of the session. One octet a minute
//! keeps nobody here, nor do commands that lead to nothing.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::Context;
use super::machine::{Machine, Waiting};
use super::settings::{Strain, Timeouts};

pub(super) struct Clock {
    timeouts: Timeouts,
    strain: Strain,
    overload: watch::Receiver<bool>,
    /// When what was said last had been said: since then a command is waited for.
    answered: Instant,
    /// While a message comes: how far it may still fall behind. Waiting takes from it, octets give; the gateway's own time
    /// does not count. So no octets of the past excuse a client that has become slow.
    credit: Option<Duration>,
    /// When a mail must have been taken.
    mail: Instant,
    taken: u32,
}

impl Clock {
    pub(super) fn new(context: &Context) -> Self {
        let settings = context.gateway.current.load().settings.clone();
        let overload = context.gateway.overload.subscribe();
        Self::of(settings.timeouts, settings.strain, overload)
    }

    fn of(timeouts: Timeouts, strain: Strain, overload: watch::Receiver<bool>) -> Self {
        let now = Instant::now();
        Self { answered: now, mail: now + timeouts.session, timeouts, strain, overload, credit: None, taken: 0 }
    }

    pub(super) fn now_in_force(&self) -> Timeouts {
        if *self.overload.borrow() { self.timeouts.shortened(self.strain.timeout) } else { self.timeouts }
    }

    /// Resolves when overload has begun or ended: the [`deadline`](Self::deadline) is another one now.
    pub(super) async fn overload_changed(&mut self) {
        if self.overload.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The client's turn begins.
    pub(super) fn answered(&mut self) {
        self.answered = Instant::now();
    }

    /// Octets are waited for; `answered`: after a reply.
    pub(super) fn start(&mut self, waiting: Waiting, answered: bool, machine: &Machine) {
        if answered {
            self.answered();
        }
        // A message may have begun and not ended between two chunks, too. The octets of a refused chunk are none, and yet
        // somebody waits for them.
        let comes = waiting == Waiting::Data || machine.is_receiving();
        self.message(comes);
        if self.taken != machine.taken() {
            self.taken = machine.taken();
            self.mail = Instant::now() + self.timeouts.session;
        }
    }

    fn message(&mut self, comes: bool) {
        self.credit = comes.then(|| self.credit.unwrap_or(self.timeouts.data));
    }

    /// Until when to wait, in a wait that `began` then.
    pub(super) fn deadline(&self, waiting: Waiting, began: Instant) -> Instant {
        let timeouts = self.now_in_force();
        let command = (waiting == Waiting::Command).then(|| self.answered + timeouts.command);
        let message = self.credit.map(|credit| began + credit.min(timeouts.data));
        [command, message].into_iter().flatten().fold(self.mail, Instant::min)
    }

    /// So many octets have come, in a wait that `began` then.
    pub(super) fn came(&mut self, octets: usize, began: Instant) {
        let longest = self.now_in_force().data;
        let Some(credit) = &mut self.credit else { return };
        let earned = (octets as u64).saturating_mul(1_000_000) / u64::from(self.timeouts.min_rate.max(1));
        let left = (*credit).min(longest).saturating_sub(began.elapsed());
        *credit = left.saturating_add(Duration::from_micros(earned)).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock() -> (Clock, watch::Sender<bool>) {
        let (overload, receiver) = watch::channel(false);
        let timeouts = Timeouts { command: 300 * SECOND, data: 100 * SECOND, min_rate: 500, ..Timeouts::default() };
        (Clock::of(timeouts, Strain { timeout: 10 * SECOND, max_errors: 1 }, receiver), overload)
    }

    /// So many seconds pass, then so many octets come: how long may the next ones take?
    async fn wait(clock: &mut Clock, seconds: u32, octets: usize) -> u64 {
        let began = Instant::now();
        tokio::time::advance(seconds * SECOND).await;
        clock.came(octets, began);
        let now = Instant::now();
        clock.deadline(Waiting::Data, now).duration_since(now).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_must_keep_up_with_the_least_rate() {
        let (mut clock, _overload) = clock();
        clock.message(true);
        for (seconds, octets, left) in [
            (40, 5_000, 70),
            (0, 1_000_000, 100), // What came fast is no credit for later.
            (60, 1, 40),
            (30, 1, 10),
            (0, 500, 11),
            (11, 1, 0),
        ] {
            assert_eq!(wait(&mut clock, seconds, octets).await, left, "after {octets} octets in {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn overload_shortens_waits_that_have_begun() {
        let (mut clock, overload) = clock();
        let began = Instant::now();
        assert_eq!(clock.deadline(Waiting::Command, began), began + 300 * SECOND);
        tokio::time::advance(50 * SECOND).await;
        overload.send_replace(true);
        clock.overload_changed().await;
        assert_eq!(clock.deadline(Waiting::Command, began), began + 10 * SECOND, "over already");
        clock.message(true);
        assert_eq!(clock.deadline(Waiting::Data, Instant::now()), Instant::now() + 10 * SECOND);
        overload.send_replace(false);
        assert_eq!(clock.deadline(Waiting::Command, began), began + 100 * SECOND, "as a message is under way");
        clock.message(false);
        assert_eq!(clock.deadline(Waiting::Command, began), began + 300 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_mail_ends() {
        let (mut clock, _overload) = clock();
        let began = Instant::now();
        for _ in 0..14 {
            tokio::time::advance(299 * SECOND).await;
            clock.answered();
        }
        assert_eq!(clock.deadline(Waiting::Command, Instant::now()), began + 3600 * SECOND);
    }
}
