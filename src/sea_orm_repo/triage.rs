//! [`DeadLetterTriage`] on SeaORM.

use std::ops::Range;

use async_trait::async_trait;
use tracing::{field::Empty, info_span};
use uuid::Uuid;

use super::{SeaOrmDeadLetterRepo, observed, transaction::RepoConnection};
use crate::{
    AppId, Backlog, Count, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow,
    DeadLetterSummary, DeadLetterTriage, ErrorGroups, GroupRequest, Imported, Page, PageRequest, Settled,
    Settlement, StoredLetter, Timeline, TimelineRequest, UnresolvedCount,
};

#[async_trait]
impl<C: RepoConnection> DeadLetterTriage for SeaOrmDeadLetterRepo<C> {
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.get_for_app", %app_id, %id);
        observed(span, self.find_in_app(app_id, id)).await
    }

    async fn summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.summary", %app_id, %id);
        observed(span, self.find_summary(app_id, id)).await
    }

    async fn payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.payload_text", %app_id, %id);
        observed(span, self.find_payload_text(app_id, id, characters)).await
    }

    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.list", %app_id, rows = Empty);
        observed(span, self.find_page(app_id, filter, page)).await
    }

    async fn export(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<StoredLetter>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.export", %app_id, rows = Empty);
        observed(span, self.export_page(app_id, filter, page)).await
    }

    async fn backlogs(
        &self,
        among: Option<&[AppId]>,
        after: Option<AppId>,
        limit: u32,
        cap: u32,
    ) -> Result<Vec<Backlog>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.backlogs", rows = Empty);
        observed(span, self.find_backlogs(among, after, limit, cap)).await
    }

    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.unresolved_counts", apps = app_ids.len());
        observed(span, self.count_unresolved_of_apps(app_ids, cap)).await
    }

    async fn count(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        cap: u32,
        scan: Option<u32>,
    ) -> Result<Count, DeadLetterRepoError> {
        let span = info_span!("dead_letters.count", %app_id, rows = Empty);
        observed(span, self.count_matching(app_id, filter, cap, scan)).await
    }

    async fn timeline(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &TimelineRequest,
        scan: Option<u32>,
    ) -> Result<Timeline, DeadLetterRepoError> {
        let span = info_span!("dead_letters.timeline", %app_id, rows = Empty);
        observed(span, self.count_by_time(app_id, filter, request, scan)).await
    }

    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError> {
        let span = info_span!("dead_letters.error_groups", %app_id, rows = Empty);
        observed(span, self.group(app_id, filter, request)).await
    }

    async fn times_replayed(
        &self,
        app_id: AppId,
        event_ids: &[Uuid],
    ) -> Result<Vec<u64>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.times_replayed", %app_id, rows = Empty);
        observed(span, self.count_replays(app_id, event_ids)).await
    }

    async fn resolve_once(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        settlement: &Settlement,
    ) -> Result<DeadLetterRow, DeadLetterRepoError> {
        let span = info_span!("dead_letters.resolve_once", %app_id, %id);
        observed(span, self.settle_once(app_id, id, settlement)).await
    }

    async fn resolve_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        settlement: &Settlement,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError> {
        let span = info_span!("dead_letters.resolve_matching", %app_id, rows = Empty);
        observed(span, self.settle_matching(app_id, filter, settlement, limit)).await
    }

    async fn reopen(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError> {
        let span = info_span!("dead_letters.reopen", %app_id, %id);
        observed(span, self.unsettle(app_id, id)).await
    }

    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError> {
        let span = info_span!("dead_letters.import", rows = letters.len());
        observed(span, self.store_exported(letters)).await
    }
}
