//! The shutdown and the pause after failures, which the loops beside a service share.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::timeout;

/// The shutdown signal, and every wait of a loop.
pub(crate) struct Stop<F> {
    shutdown: Pin<Box<F>>,
    told: bool,
}

impl<F: Future> Stop<F> {
    pub(crate) fn new(shutdown: F) -> Self {
        Self { shutdown: Box::pin(shutdown), told: false }
    }

    /// Waits for `pause`, or until the shutdown, and returns whether the loop was told to stop.
    pub(crate) async fn within(&mut self, pause: Duration) -> bool {
        // A future that was ready must not be polled again.
        self.told = self.told || timeout(pause, self.shutdown.as_mut()).await.is_ok();
        self.told
    }
}

/// The pause after the first failure.
const BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(5 * 60);

/// Returns the pause after so many failures in a row, or `None` after 0.
pub(crate) fn back_off(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?.min(16);
    Some((BACK_OFF * (1 << doublings)).min(MAX_BACK_OFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_from_a_second_to_five_minutes() {
        let seconds = |failures| back_off(failures).map(|pause| pause.as_secs());
        assert_eq!(seconds(0), None);
        assert_eq!([1, 2, 3, 9, 10, u32::MAX].map(seconds), [1, 2, 4, 256, 300, 300].map(Some));
    }
}
