//! What a rebuild of error signatures is asked for, and what it did.

use serde::{Deserialize, Serialize};

use crate::{AppId, DeadLetterId, debug::debug_without_content};

/// Which letters [`rebuild_signatures`](crate::DeadLetterTriage::rebuild_signatures) examines. More fields may come:
/// write it with `..Default::default()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Letters, 1 to 500. 500 by default: the call reads up to 32 KB of the error of each.
    pub limit: u32,
    /// Only letters with a larger id: the [`next`](Rebuilt::next) of the call before.
    pub after: Option<DeadLetterId>,
    /// Whether to change nothing, and only return what would change.
    pub dry_run: bool,
}

impl Default for RebuildRequest {
    fn default() -> Self {
        Self { limit: 500, after: None, dry_run: false }
    }
}

/// What became of the letters that a call examined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Letters that the call read.
    pub examined: u64,
    /// Those of them whose signature was stale.
    pub stale: u64,
    /// Those of them that were updated. The rest was locked, or changed in between; in a dry run it is all.
    pub updated: u64,
    /// Which groups stale letters leave, and to which they go: by app, `from` and `to`. Two entries with one `from` split
    /// a group, two with one `to` merge groups.
    pub regrouped: Vec<Regrouped>,
    /// The last letter. `None` if there are no more.
    pub next: Option<DeadLetterId>,
}

/// Letters that go from one error group to another. Its `Debug` shows texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regrouped {
    /// Their app.
    pub app_id: AppId,
    /// The key of the group that they leave. Empty where another writer stored none.
    pub from: String,
    /// The key of the group that they go to.
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
