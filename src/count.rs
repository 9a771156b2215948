//! Counts of letters, and the apps that have open ones.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppId, setters::setters};

/// A count that stops at a cap. It prints as `1,234`, or as `1,000+` if there are more.
///
/// # Examples
///
/// ```
/// use dead_letters::CappedCount;
///
/// assert_eq!(CappedCount::from(1_234).to_string(), "1,234");
/// assert_eq!(CappedCount { count: 99, capped: true }.to_string(), "99+");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CappedCount {
    /// The letters, or the cap if there are more.
    pub count: u64,
    /// Whether there are more than `count`.
    pub capped: bool,
}

/// A count that no cap stopped.
impl From<u64> for CappedCount {
    fn from(count: u64) -> Self {
        Self { count, capped: false }
    }
}

impl fmt::Display for CappedCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plus = if self.capped { "+" } else { "" };
        f.pad(&format!("{}{plus}", separated(self.count)))
    }
}

/// Prints a whole number with thousands separators: `1,234,567`.
pub(crate) fn separated(number: impl fmt::Display) -> String {
    let number = number.to_string();
    let digits = number.trim_start_matches('-').len();
    let mut text = String::with_capacity(number.len() + digits / 3);
    for (index, digit) in number.char_indices() {
        let left = number.len() - index;
        if left < digits && left.is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How far a [`count`](crate::DeadLetterRead::count) goes. The default cap is 1,000, without a scan limit.
///
/// # Examples
///
/// ```
/// use dead_letters::{CountRequest, DeadLetterFilter, DeadLetterRead};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// let timeouts = DeadLetterFilter::default().error_contains("timeout");
/// // Reads at most 10,000 letters, because no index finds a part of an error.
/// let count = repo.count(app, &timeouts, &CountRequest::default().cap(99).scan_limit(10_000)).await?;
/// if let Some(time) = count.scanned_back_to {
///     println!("{} letters since {time}", count.matching);
/// }
/// # assert_eq!(count.matching.to_string(), "0");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CountRequest {
    /// Where the count stops.
    pub cap: u32,
    /// How many letters the call may examine, at least 1. `None` is no limit.
    pub scan_limit: Option<u32>,
}

impl Default for CountRequest {
    fn default() -> Self {
        Self { cap: 1_000, scan_limit: None }
    }
}

setters! { CountRequest { plain cap: u32, some scan_limit: u32 } }

/// How many letters match, and when they were counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Count {
    /// How many of the examined letters match. It serializes as `count` and `capped`.
    #[serde(flatten)]
    pub matching: CappedCount,
    /// The time of the count, by the database's clock.
    pub now: DateTime<Utc>,
    /// The filter's `created_before`, or [`now`](Self::now) if the filter has none. Letters created at this time or
    /// later are not counted, unless the filter has `ids` and no `created_before`, or is about closed letters.
    ///
    /// A bulk call that takes `as_of` as its `created_before` is about the letters that were counted, and leaves
    /// alone letters that fail later. A transaction that began before `as_of` and commits after the count adds
    /// letters that match. A bulk call whose limit is the count therefore resolves no more letters than were counted,
    /// but may resolve others.
    pub as_of: DateTime<Utc>,
    /// Where the scan limit stopped the call: the `created_at` of the last examined letter, or its `resolved_at` if
    /// the filter's state is closed. `None` if nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// How many unresolved letters an app has, for its badge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnresolvedCount {
    /// The app.
    pub app_id: AppId,
    /// The app's unresolved letters. It serializes as `count` and `capped`.
    #[serde(flatten)]
    pub unresolved: CappedCount,
}

/// Which apps [`backlogs`](crate::DeadLetterRead::backlogs) returns. The default is the first 100 of all apps, with
/// counts that stop at 1,000.
///
/// # Examples
///
/// ```
/// use dead_letters::{BacklogRequest, DeadLetterRead};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
/// // The next page of the apps that an operator may see.
/// let request = BacklogRequest::default().among([app]).after(app).limit(20);
/// assert!(repo.backlogs(&request).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BacklogRequest {
    /// Only these apps, in any order. `None` is all apps.
    pub among: Option<Vec<AppId>>,
    /// Only apps behind this one.
    pub after: Option<AppId>,
    /// How many apps to return at most, 1 to 1,000.
    pub limit: u32,
    /// Where each count stops.
    pub cap: u32,
}

impl Default for BacklogRequest {
    fn default() -> Self {
        Self { among: None, after: None, limit: 100, cap: 1_000 }
    }
}

setters! { BacklogRequest { into among: Vec<AppId>, some after: AppId, plain limit: u32, plain cap: u32 } }

/// An app that has open letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Backlog {
    /// The app.
    pub app_id: AppId,
    /// The app's open letters.
    pub open: CappedCount,
    /// The app's unresolved letters: the open ones that are not `handler_failed`.
    pub unresolved: CappedCount,
    /// The `created_at` of the app's oldest open letter.
    pub oldest: DateTime<Utc>,
    /// The `created_at` of the app's newest open letter.
    pub newest: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_prints_with_separators_and_a_plus_if_it_is_capped() {
        let print = |count, capped| CappedCount { count, capped }.to_string();
        assert_eq!(print(0, false), "0");
        assert_eq!(print(999, false), "999");
        assert_eq!(print(1_000, true), "1,000+");
        assert_eq!(print(1_234_567, false), "1,234,567");
        assert_eq!(separated(i64::MIN), "-9,223,372,036,854,775,808");
        assert_eq!(separated(-100), "-100");
    }
}
