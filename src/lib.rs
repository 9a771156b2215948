#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod archive;
#[cfg(feature = "coalesce")]
mod coalesce;
mod connect;
mod db_code;
mod debug;
mod description;
mod error;
mod filter;
mod id;
#[cfg(feature = "metrics")]
mod metrics;
mod model;
mod observed;
#[cfg(feature = "migration")]
mod open;
mod page;
mod payload;
mod query;
mod rebuild;
mod replay;
mod repo;
mod retention;
mod sea_orm_repo;
mod signature;
mod store;
#[cfg(feature = "sweeper")]
mod sweeper;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod triage;

#[cfg(feature = "metrics")]
pub use self::metrics::{BacklogGauges, describe_metrics};
pub use archive::{ArchiveError, ArchivedLetter, ArchivedLetters, JsonLinesArchive};
#[cfg(feature = "coalesce")]
pub use coalesce::CoalescingDeadLetterRepo;
pub use connect::connect_options;
/// The generated entity, for queries of your own. If you write times yourself, SQLite's schema accepts microseconds
/// at most (`trunc_subsecs(6)`).
pub use dead_letters_entity as entity;
#[cfg(feature = "migration")]
pub use dead_letters_migration as migration;
pub use error::{DeadLetterRepoError, ErrorKind};
pub use filter::{DeadLetterFilter, DeadLetterState, IdFilter};
pub use id::{AppId, DeadLetterId, ScriptId, TriggerId};
pub use model::{DeadLetterRow, NewDeadLetter, PayloadKind, Resolution, StoredLetter};
#[cfg(feature = "migration")]
pub use open::{OpenError, Schema, open};
pub use page::{Cursor, Page, PageRequest};
pub use query::ListQuery;
pub use rebuild::{RebuildCursor, RebuildRequest, Rebuilt, Regrouped};
pub use replay::{DeadLetterReplay, ReplayFailure, ReplayRequest, Replayed, Requeue};
pub use repo::DeadLetterRepo;
pub use retention::{Archive, CappedCount, DeadLetterRetention, Due, SweepCursor, SweepScope, Swept};
pub use sea_orm_repo::SeaOrmDeadLetterRepo;
pub use store::DeadLetterStore;
#[cfg(feature = "sweeper")]
pub use sweeper::{
    Retention, RetentionPolicy, SweepEnd, SweepReport, Sweeper, SweeperBuilder, SweeperConfigError,
    SweeperStatus,
};
pub use triage::{
    Backlog, Bucket, Count, DeadLetterSummary, DeadLetterTriage, ErrorGroup, ErrorGroups, GroupRequest,
    Imported, Settled, Settlement, Timeline, TimelineRequest, UnresolvedCount,
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
