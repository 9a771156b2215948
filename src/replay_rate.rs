//! The rate of a bulk replay.

use std::time::Duration;

use crate::DeadLetterRepoError;

/// The most letters of one batch. A batch is in memory with its payloads.
const MAX_BATCH: u32 = 100;

/// How many letters a bulk replay puts back in a second, at most, so that it does not flood the systems that the events
/// go to.
///
/// A caller of [`replay_matching`](crate::DeadLetterReplay::replay_matching) replays a [batch](Self::batch), waits for
/// the [pause](Self::pause), and repeats. The store has no job in the background: a replay ends when its caller stops
/// calling.
///
/// # Examples
///
/// ```
/// use dead_letters::{Attribution, DeadLetterFilter, DeadLetterReplay, ReplayRate, ReplayRequest};
/// use tokio::time::{Instant, sleep};
///
/// # struct Outbox;
/// # #[async_trait::async_trait]
/// # impl dead_letters::Requeue for Outbox {
/// #     async fn requeue(
/// #         &self,
/// #         _: &sea_orm::DatabaseTransaction,
/// #         _: &[dead_letters::StoredLetter],
/// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// #         Ok(())
/// #     }
/// # }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # let letters = (0..3).map(|_| dead_letters::testing::letter(app)).collect();
/// # let ids = dead_letters::DeadLetterRepo::insert_many(&repo, letters).await?;
/// # let (replayer, filter, by, mut back) = (repo.replayer(Outbox), DeadLetterFilter::default().ids(ids), Attribution::by("ada"), 0);
/// let rate = ReplayRate::per_second(200)?;
/// let mut request = ReplayRequest::default().limit(rate.batch(u64::MAX));
/// loop {
///     let began = Instant::now();
///     let replayed = replayer.replay_matching(app, &filter, &by, &request).await?;
///     # back += replayed.ids.len();
///     if !replayed.more {
///         break;
///     }
///     sleep(rate.pause(replayed.ids.len(), began.elapsed())).await;
///     request.after = replayed.next;
/// }
/// # assert_eq!(back, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplayRate(u32);

impl ReplayRate {
    /// Returns a rate of this many letters a second, 1 to 1,000.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for any other number.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::ReplayRate;
    ///
    /// assert_eq!(ReplayRate::per_second(20)?.letters_per_second(), 20);
    /// assert!(ReplayRate::per_second(0).is_err());
    /// # Ok::<(), dead_letters::DeadLetterRepoError>(())
    /// ```
    pub fn per_second(letters: u32) -> Result<Self, DeadLetterRepoError> {
        match letters {
            1..=1_000 => Ok(Self(letters)),
            _ => Err(DeadLetterRepoError::OutOfRange {
                argument: "rate",
                value: letters.into(),
                min: 1,
                max: 1_000,
            }),
        }
    }

    /// Returns the number of letters a second.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::ReplayRate;
    ///
    /// let rate = ReplayRate::per_second(20)?;
    /// assert_eq!(rate.letters_per_second(), 20);
    /// # Ok::<(), dead_letters::DeadLetterRepoError>(())
    /// ```
    pub const fn letters_per_second(self) -> u32 {
        self.0
    }

    /// Returns the [`limit`](field@crate::ReplayRequest::limit) of the next batch, if this many letters are left: the letters of
    /// one second, at most 100 and at least 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::ReplayRate;
    ///
    /// let rate = ReplayRate::per_second(20)?;
    /// assert_eq!((rate.batch(1_000), rate.batch(5)), (20, 5));
    /// # Ok::<(), dead_letters::DeadLetterRepoError>(())
    /// ```
    pub fn batch(self, left: u64) -> u32 {
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        left.clamp(1, self.0.min(MAX_BATCH))
    }

    /// Returns how long to wait after a batch that replayed this many letters and took this long, at most one second for
    /// a [batch](Self::batch) of this rate. A slow batch is not made up for by faster ones.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::ReplayRate;
    ///
    /// let rate = ReplayRate::per_second(20)?;
    /// assert_eq!(rate.pause(10, Duration::from_millis(100)), Duration::from_millis(400));
    /// assert_eq!(rate.pause(10, Duration::from_secs(3)), Duration::ZERO);
    /// # Ok::<(), dead_letters::DeadLetterRepoError>(())
    /// ```
    pub fn pause(self, replayed: usize, took: Duration) -> Duration {
        self.time_for(replayed as u64).saturating_sub(took)
    }

    /// Returns how long a replay of this many letters takes at least.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::ReplayRate;
    ///
    /// assert_eq!(ReplayRate::per_second(20)?.time_for(1_200), Duration::from_secs(60));
    /// # Ok::<(), dead_letters::DeadLetterRepoError>(())
    /// ```
    pub fn time_for(self, letters: u64) -> Duration {
        let micros = u128::from(letters) * 1_000_000 / u128::from(self.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_second_at_most_and_never_empty() {
        let batch = |rate, left| ReplayRate::per_second(rate).unwrap().batch(left);
        let rates = [1, 20, 100, 1_000].map(|rate| batch(rate, u64::MAX));
        assert_eq!(rates, [1, 20, 100, 100]);
        assert_eq!([0, 1, 7, 21].map(|left| batch(20, left)), [1, 1, 7, 20]);
        for rate in [1, 3, 20, 100, 999, 1_000] {
            let rate = ReplayRate::per_second(rate).unwrap();
            let second = rate.pause(rate.batch(u64::MAX) as usize, Duration::ZERO);
            assert!(second <= Duration::from_secs(1) && second > Duration::ZERO, "{rate:?}: {second:?}");
        }
    }

    #[test]
    fn no_number_of_letters_overflows_the_time() {
        let rate = ReplayRate::per_second(1).unwrap();
        assert!(rate.time_for(u64::MAX) >= rate.time_for(1_000_000));
        assert_eq!(rate.pause(usize::MAX, Duration::MAX), Duration::ZERO);
    }

    #[test]
    fn a_rate_is_1_to_1_000_letters_a_second() {
        for letters in [0, 1_001, 1_000_000_000] {
            let refused = ReplayRate::per_second(letters);
            assert!(matches!(refused, Err(DeadLetterRepoError::OutOfRange { argument: "rate", .. })));
        }
    }
}
