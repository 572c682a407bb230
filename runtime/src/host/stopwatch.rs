//! How long work keeps a processor busy: two readings of the clock around each stretch of it.
//!
//! On a machine that has more to do than processors, a stretch in which the kernel let others go first is longer.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Real time also where tests pause tokio's: what is computed takes none of that one.
#[expect(clippy::disallowed_methods, reason = "computing takes real time; nothing waits for this clock")]
fn now() -> Instant {
    Instant::now()
}

/// Adds to `spent` what the work takes.
pub(super) fn run<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = now();
    let result = work();
    *spent += start.elapsed();
    result
}

/// Adds to `spent` what the future runs, each time that it is polled, and not what it waits in between. What it has run
/// before it is dropped is counted.
pub(super) async fn poll<T>(spent: &mut Duration, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|context| -> Poll<T> { run(spent, || future.as_mut().poll(context)) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(time: Duration) {
        let start = now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn waiting_is_not_counted_and_running_is() {
        let busy = Duration::from_millis(3);
        let mut spent = Duration::ZERO;
        let work = async {
            compute(busy);
            std::future::pending::<()>().await;
        };
        // Dropped while it waits.
        let waited = Duration::from_millis(200);
        assert!(tokio::time::timeout(waited, poll(&mut spent, work)).await.is_err());
        assert!(spent >= busy && spent < waited / 2, "{spent:?}");
    }
}
