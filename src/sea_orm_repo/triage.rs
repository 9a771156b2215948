//! [`DeadLetterTriage`] on SeaORM.

use async_trait::async_trait;
use tracing::{field::Empty, info_span};

use super::{SeaOrmDeadLetterRepo, observed, transaction::RepoConnection};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary,
    DeadLetterTriage, ErrorGroup, Imported, Page, PageRequest, Settled, Settlement, StoredLetter,
    UnresolvedCount,
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

    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError> {
        let span = info_span!("dead_letters.import", rows = letters.len());
        observed(span, self.store_exported(letters)).await
    }
}
