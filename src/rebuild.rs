//! The request and the result of a rebuild of error signatures.

use serde::{Deserialize, Serialize};

use crate::{AppId, DeadLetterId, debug::debug_without_content, setters::setters};

/// Which letters [`rebuild_signatures`](crate::DeadLetterTransfer::rebuild_signatures) examines.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterTransfer, RebuildRequest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// let preview = repo.rebuild_signatures(&RebuildRequest::default().dry_run(true)).await?;
/// for group in &preview.regrouped {
///     println!("{} letters: {:?} -> {:?}", group.letters, group.signature_before, group.signature_after);
/// }
/// assert_eq!(preview.updated, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildRequest {
    /// How many letters to examine, 1 to 500. The default is 500.
    pub limit: u32,
    /// Where the call begins: the [`next`](Rebuilt::next) of the call before. `None` begins with the first letter.
    pub after: Option<RebuildCursor>,
    /// Whether to only return what would change, without changing anything.
    pub dry_run: bool,
}

impl Default for RebuildRequest {
    fn default() -> Self {
        Self { limit: 500, after: None, dry_run: false }
    }
}

setters! { RebuildRequest { plain limit: u32, some after: RebuildCursor, plain dry_run: bool } }

/// The position behind the last letter that a call examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildCursor {
    /// The letter's app. A table that is distributed by app may hold the same id twice.
    pub app_id: AppId,
    /// The letter.
    pub id: DeadLetterId,
}

/// The result of a rebuild of one batch of letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Letters that were examined.
    pub examined: u64,
    /// Letters whose signature was stale.
    pub stale: u64,
    /// Letters that were updated. The other stale letters were locked or changed meanwhile. It is always 0 in a dry
    /// run.
    pub updated: u64,
    /// The groups that stale letters leave, and the groups that they join, sorted by app, `from` and `to`. Two
    /// entries with the same `from` show a split. Two with the same `to` show a merge.
    pub regrouped: Vec<Regrouped>,
    /// The cursor of the next call. `None` if there are no more letters.
    pub next: Option<RebuildCursor>,
}

/// Letters that move from one error group to another. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Regrouped {
    /// The app of the letters.
    pub app_id: AppId,
    /// The key of the group that they leave. It is empty if another writer stored none.
    pub from: String,
    /// The key of the group that they join.
    pub to: String,
    /// The old signature of one of the letters.
    pub signature_before: String,
    /// The new signature of that letter.
    pub signature_after: String,
    /// How many letters move.
    pub letters: u64,
}

debug_without_content! {
    Regrouped { app_id, from, to, letters; signature_before, signature_after }
}
