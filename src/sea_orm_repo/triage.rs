//! [`DeadLetterTriage`] on SeaORM.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tracing::{field::Empty, info_span};

use super::{SeaOrmDeadLetterRepo, gc::Due, observed, transaction::RepoConnection};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary,
    DeadLetterTriage, ErrorGroup, Page, PageRequest, Settled, Settlement, UnresolvedCount,
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

    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.list", %app_id, rows = Empty);
        observed(span, self.find_page(app_id, filter, page)).await
    }

    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.unresolved_counts", apps = app_ids.len());
        observed(span, self.count_unresolved_of_apps(app_ids, cap)).await
    }

    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<ErrorGroup>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.error_groups", %app_id, rows = Empty);
        observed(span, self.group(app_id, filter, limit)).await
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

    async fn purge_resolved(
        &self,
        app_id: AppId,
        resolved_before: DateTime<Utc>,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        let span = info_span!("dead_letters.purge_resolved", %app_id, %resolved_before, rows = Empty);
        observed(span, self.sweep(Some(app_id), Due::Settled(resolved_before), limit)).await
    }

    async fn purge_resolved_all_apps(
        &self,
        resolved_before: DateTime<Utc>,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        let span = info_span!("dead_letters.purge_resolved_all_apps", %resolved_before, rows = Empty);
        observed(span, self.sweep(None, Due::Settled(resolved_before), limit)).await
    }

    async fn gc_for_app(
        &self,
        app_id: AppId,
        older_than: DateTime<Utc>,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        let span = info_span!("dead_letters.gc_for_app", %app_id, %older_than, rows = Empty);
        observed(span, self.sweep(Some(app_id), Due::Created(older_than), limit)).await
    }
}
