//! For what a disk of a network may keep waiting for ever.

use std::sync::mpsc;
use std::time::Duration;

/// What comes of it in that time, on a thread of its own; that goes on where it takes longer, and nobody hears of it. `None`
/// also where there is no thread to be had.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("disk".to_owned());
    thread.spawn(move || drop(done.send(work()))).ok()?;
    result.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        let (let_go, hangs) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || hangs.recv().is_ok()), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        drop(let_go);
    }
}
