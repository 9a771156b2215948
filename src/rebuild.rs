//! What a rebuild of error signatures is asked for, and what it did.

use serde::{Deserialize, Serialize};

use crate::{AppId, DeadLetterId, debug::debug_without_content};

/// Which letters [`rebuild_signatures`](crate::DeadLetterTriage::rebuild_signatures) examines. More fields may come:
/// write it with `..Default::default()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Letters, 1 to 500. The default is 500.
    pub limit: u32,
    /// Only letters behind this one: the [`next`](Rebuilt::next) of the call before.
    pub after: Option<RebuildCursor>,
    /// Whether to change nothing, and only return what would change.
    pub dry_run: bool,
}

impl Default for RebuildRequest {
    fn default() -> Self {
        Self { limit: 500, after: None, dry_run: false }
    }
}

/// The last letter that a call examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildCursor {
    /// The letter's app. A table that is distributed by app may have an id twice.
    pub app_id: AppId,
    /// The letter.
    pub id: DeadLetterId,
}

/// What became of the letters that a call examined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Letters that were examined.
    pub examined: u64,
    /// Letters whose signature was stale.
    pub stale: u64,
    /// Letters that were updated. The other stale letters were locked or changed meanwhile. Always 0 in a dry run.
    pub updated: u64,
    /// The groups that stale letters leave, and the groups that they join, sorted by app, `from` and `to`. Two entries
    /// with the same `from` show a split. Two with the same `to` show a merge.
    pub regrouped: Vec<Regrouped>,
    /// Where the next call goes on. `None` if there are no more letters.
    pub next: Option<RebuildCursor>,
}

/// Letters that go from one error group to another. Its `Debug` shows texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regrouped {
    /// The app of the letters.
    pub app_id: AppId,
    /// The key of the group that they leave. Empty where another writer stored none.
    pub from: String,
    /// The key of the group that they join.
    pub to: String,
    /// The signature that one of them had.
    pub signature_before: String,
    /// The signature that it gets.
    pub signature_after: String,
    /// How many letters.
    pub letters: u64,
}

debug_without_content! {
    Regrouped { app_id, from, to, letters; signature_before, signature_after }
}
