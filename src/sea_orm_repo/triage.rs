//! Implements [`DeadLetterRead`], [`DeadLetterResolve`] and [`DeadLetterTransfer`] on SeaORM.

use std::{ops::Range, pin::pin};

use async_trait::async_trait;
use dead_letters_entity::dead_letters::Column;
use uuid::Uuid;

use super::{SeaOrmDeadLetterRepo, connection::RepoConnection, convert::Summary};
use crate::{
    AppId, Attribution, Backlog, BacklogRequest, Count, CountRequest, DeadLetterFilter, DeadLetterId,
    DeadLetterRead, DeadLetterRepoError, DeadLetterResolve, DeadLetterRow, DeadLetterSummary,
    DeadLetterTransfer, ErrorGroups, GroupRequest, Imported, Page, PageRequest, RebuildRequest, Rebuilt,
    Resolution, Resolved, StoredLetter, Timeline, TimelineRequest, UnresolvedCount,
    observed::{call, observed},
};

#[async_trait]
impl<C: RepoConnection> DeadLetterRead for SeaOrmDeadLetterRepo<C> {
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        let row = self.find_in_app(app_id, id);
        observed(call!("get_for_app", %app_id, %id), pin!(row), |row| row.is_some().into()).await
    }

    async fn summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError> {
        let row = self.find_summary(app_id, id);
        observed(call!("summary", %app_id, %id), pin!(row), |row| row.is_some().into()).await
    }

    async fn payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        let text = self.find_text(Column::Payload, app_id, id, characters);
        observed(call!("payload_text", %app_id, %id), pin!(text), |text| text.is_some().into()).await
    }

    async fn error_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        let text = self.find_text(Column::LastError, app_id, id, characters);
        observed(call!("error_text", %app_id, %id), pin!(text), |text| text.is_some().into()).await
    }

    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let page = self.find_page(app_id, filter, page);
        observed(call!("list", %app_id), pin!(page), |page| page.items.len() as u64).await
    }

    async fn backlogs(&self, request: &BacklogRequest) -> Result<Vec<Backlog>, DeadLetterRepoError> {
        let apps = self.find_backlogs(request);
        observed(call!("backlogs"), pin!(apps), |apps| apps.iter().map(|app| app.open.count).sum()).await
    }

    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let call = call!("unresolved_counts", apps = app_ids.len());
        let apps = self.count_unresolved_of_apps(app_ids, cap);
        observed(call, pin!(apps), |apps| apps.iter().map(|app| app.unresolved.count).sum()).await
    }

    async fn count(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &CountRequest,
    ) -> Result<Count, DeadLetterRepoError> {
        let counted = self.count_matching(app_id, filter, request);
        observed(call!("count", %app_id), pin!(counted), |counted| counted.matching.count).await
    }

    async fn timeline(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &TimelineRequest,
    ) -> Result<Timeline, DeadLetterRepoError> {
        let call = call!("timeline", %app_id);
        let found = self.count_by_time(app_id, filter, request);
        observed(call, pin!(found), |found| found.buckets.iter().map(|bucket| bucket.count).sum()).await
    }

    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError> {
        let call = call!("error_groups", %app_id);
        let found = self.group(app_id, filter, request);
        observed(call, pin!(found), |found| found.groups.iter().map(|group| group.count).sum()).await
    }

    async fn times_replayed(
        &self,
        app_id: AppId,
        event_ids: &[Uuid],
    ) -> Result<Vec<u64>, DeadLetterRepoError> {
        let times = self.count_replays(app_id, event_ids);
        observed(call!("times_replayed", %app_id), pin!(times), |times| times.iter().sum()).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterResolve for SeaOrmDeadLetterRepo<C> {
    async fn resolve_once(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        resolution: Resolution,
        attribution: &Attribution,
    ) -> Result<DeadLetterSummary, DeadLetterRepoError> {
        let row = async {
            let row = self.settle_once::<Summary>(app_id, id, resolution, attribution).await?;
            Ok(row.into())
        };
        observed(call!("resolve_once", %app_id, %id), pin!(row), |_| 1).await
    }

    async fn resolve_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        resolution: Resolution,
        attribution: &Attribution,
        limit: u32,
    ) -> Result<Resolved, DeadLetterRepoError> {
        let settled = self.settle_matching(app_id, filter, resolution, attribution, limit);
        observed(call!("resolve_matching", %app_id), pin!(settled), |settled| settled.ids.len() as u64).await
    }

    async fn reopen(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<(), DeadLetterRepoError> {
        let reopened = self.unsettle(app_id, id);
        let call = call!("reopen", %app_id, %id, by = attribution.by.as_deref());
        observed(call, pin!(reopened), |()| 1).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterTransfer for SeaOrmDeadLetterRepo<C> {
    async fn export(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<StoredLetter>, DeadLetterRepoError> {
        let page = self.export_page(app_id, filter, page);
        observed(call!("export", %app_id), pin!(page), |page| page.items.len() as u64).await
    }

    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError> {
        let imported = self.store_exported(letters);
        observed(call!("import", letters = letters.len()), pin!(imported), |imported| imported.stored).await
    }

    async fn rebuild_signatures(&self, request: &RebuildRequest) -> Result<Rebuilt, DeadLetterRepoError> {
        let rebuilt = self.rebuild(request);
        observed(call!("rebuild_signatures"), pin!(rebuilt), |rebuilt| rebuilt.updated).await
    }
}
