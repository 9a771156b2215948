//! The sweeper's pace: batch size and pauses.

use std::time::Duration;

/// The pace of one sweeper, which it keeps from tick to tick.
#[derive(Debug)]
pub(super) struct Pace {
    max: u32,
    limit: u32,
    busy_percent: u32,
    pause: Duration,
}

impl Pace {
    pub(super) fn new(batch: u32, busy_percent: u32) -> Self {
        Self { max: batch, limit: batch, busy_percent, pause: Duration::ZERO }
    }

    /// Returns how many letters the next batch may have.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns the pause before the next batch.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    pub(super) fn took(&mut self, busy: Duration) {
        // `busy_percent` is from 1 to 100, so neither a division by zero nor an underflow is possible.
        self.pause = busy.saturating_mul(100 - self.busy_percent) / self.busy_percent;
    }

    /// Grows the batch more slowly than it shrinks, because each batch that is too large costs a timeout.
    pub(super) fn grow(&mut self) {
        self.limit = self.limit.saturating_add((self.max / 16).max(1)).min(self.max);
    }

    /// Halves the batch, and returns whether it was larger than one letter.
    pub(super) fn shrink(&mut self) -> bool {
        let could = self.limit > 1;
        self.limit = (self.limit / 2).max(1);
        could
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_pause_leaves_the_share_that_is_configured() {
        for (busy_percent, pause) in [(25, ms(60)), (100, ms(0)), (50, ms(20)), (1, ms(1_980))] {
            let mut pace = Pace::new(1_000, busy_percent);
            assert_eq!(pace.pause(), Duration::ZERO);
            pace.took(ms(20));
            assert_eq!(pace.pause(), pause, "{busy_percent}");
            pace.took(Duration::MAX);
            assert!(pace.pause() >= pause);
        }
    }

    #[test]
    fn a_batch_shrinks_by_halves_to_one_row_and_grows_back_to_its_size() {
        let mut pace = Pace::new(1_000, 25);
        let mut limits = vec![pace.limit()];
        while pace.shrink() {
            limits.push(pace.limit());
        }
        assert_eq!(limits, [1_000, 500, 250, 125, 62, 31, 15, 7, 3, 1]);
        let growths = (0..100).take_while(|_| pace.limit() < 1_000 && (pace.grow(), true).1).count();
        assert_eq!((growths, pace.limit()), (17, 1_000));
        pace.grow();
        assert_eq!(pace.limit(), 1_000);
        let mut largest = Pace::new(u32::MAX, 25);
        largest.grow();
        assert_eq!(largest.limit(), u32::MAX);
        let mut one = Pace::new(1, 25);
        assert!(!one.shrink());
        assert_eq!(one.limit(), 1);
    }
}
