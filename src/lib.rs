#![doc = include_str!("../README.md")]
//!
//! ## Where to start
//!
//! - **Open the store:** [`open`](fn@open) returns a [`SeaOrmDeadLetterRepo`], which implements [`DeadLetterStore`].
//! - **Store, find and resolve letters:** [`DeadLetterRepo`] has the calls of a dispatcher. [`DeadLetterRead`] and
//!   [`DeadLetterResolve`] have those of operators. [`DeadLetterStore`] combines them in one object.
//! - **Bury events:** [`DeadLetterBury`] moves them from your outbox into the store. You implement [`Take`].
//! - **Replay letters:** [`DeadLetterReplay`] puts their events back into your outbox. You implement [`Requeue`].
//! - **Delete old letters:** a [`Sweeper`] applies a [`RetentionPolicy`].
//! - **Test your service:** [`testing`] has a store in memory, a store that fails on demand, and sample letters.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod action;
mod announce;
mod archive;
#[cfg(any(feature = "sweeper", feature = "watch"))]
mod background;
mod bury;
#[cfg(feature = "coalesce")]
mod coalesce;
mod connect;
mod count;
mod db_code;
mod debug;
mod delete;
mod description;
mod error;
mod filter;
mod group;
mod id;
mod letters_version;
#[cfg(feature = "metrics")]
mod metrics;
mod model;
mod observed;
#[cfg(feature = "migration")]
mod open;
mod page;
mod payload;
mod query;
mod read;
mod rebuild;
mod replay;
mod replay_rate;
mod repo;
mod resolve;
mod retention;
mod sea_orm_repo;
mod search;
mod setters;
mod signature;
mod store;
mod summary;
#[cfg(feature = "sweeper")]
mod sweeper;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod timeline;
mod trace_parent;
mod transfer;
#[cfg(feature = "watch")]
mod watch;
mod words;

#[cfg(feature = "metrics")]
pub use self::metrics::{BacklogGauges, describe_metrics};
pub use action::{Action, ActionRequest, DeadLetterAction, RecentApp};
pub use announce::{AnnouncementClaim, DeadLetterAnnounce, UnannouncedGroups};
pub use archive::{ArchiveError, ArchivedLetter, ArchivedLetters, ErasedInArchive, JsonLinesArchive};
pub use bury::{DeadLetterBury, Take};
#[cfg(feature = "coalesce")]
pub use coalesce::CoalescingDeadLetterRepo;
pub use connect::{connect, connect_options};
pub use count::{Backlog, BacklogRequest, CappedCount, Count, CountRequest, UnresolvedCount};
/// The generated entity, for queries of your own. If you write times yourself, SQLite's schema accepts microseconds
/// at most (`trunc_subsecs(6)`).
///
/// The entity follows the table: a minor release may add a column, and with it a field.
pub use dead_letters_entity as entity;
#[cfg(feature = "migration")]
pub use dead_letters_migration as migration;
pub use delete::{DeadLetterDelete, Erased};
pub use error::{DeadLetterRepoError, ErrorKind};
pub use filter::{DeadLetterFilter, DeadLetterState, IdFilter};
pub use group::{
    ErrorGroup, ErrorGroups, GroupRequest, NewErrorGroup, NewErrorGroups, NewGroupRequest, NewGroupState,
};
pub use id::{AppId, DeadLetterId, ScriptId, TriggerId};
pub use letters_version::LettersVersion;
pub use model::{DeadLetterRow, NewDeadLetter, PayloadKind, Resolution, StoredLetter};
#[cfg(feature = "migration")]
pub use open::{OnOpen, OpenError, open};
pub use page::{Cursor, ListSort, Page, PageRequest};
pub use query::ListQuery;
pub use read::DeadLetterRead;
pub use rebuild::{RebuildCursor, RebuildRequest, Rebuilt, Regrouped};
pub use replay::{DeadLetterReplay, ReplayFailure, ReplayRequest, Replayed, Requeue};
pub use replay_rate::ReplayRate;
pub use repo::DeadLetterRepo;
pub use resolve::{Attribution, Changed, DeadLetterResolve, ReopenRequest};
pub use retention::{Archive, DeadLetterRetention, Due, SweepCursor, SweepScope, Swept, SweptActions};
pub use sea_orm_repo::SeaOrmDeadLetterRepo;
pub use search::PayloadSearch;
pub use store::DeadLetterStore;
pub use summary::DeadLetterSummary;
#[cfg(feature = "sweeper")]
pub use sweeper::{
    Retention, RetentionPolicy, SweepEnd, SweepReport, Sweeper, SweeperBuilder, SweeperConfigError,
    SweeperStatus,
};
pub use timeline::{Bucket, Buckets, Timeline, TimelineRequest};
pub use trace_parent::TraceParent;
pub use transfer::{DeadLetterTransfer, Imported};
#[cfg(feature = "watch")]
pub use watch::{
    GroupWatch, GroupWatchBuilder, GroupWatchConfigError, GroupWatchEnd, GroupWatchReport, Notify,
};

/// Compiles the programs of these pages as doctests, like those of the README.
#[cfg(doctest)]
mod docs {
    #[doc = include_str!("../docs/connections.md")]
    mod connections {}
    #[doc = include_str!("../docs/grouping.md")]
    mod grouping {}
    #[doc = include_str!("../docs/migrations.md")]
    mod migrations {}
}
