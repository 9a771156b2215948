//! Implements the traits of the store on SeaORM. Each method observes one function, which has the method's name and
//! stands in a module of this folder.

use std::{ops::Range, pin::pin, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::Column;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo, actions, announcements, backlogs, connection::RepoConnection, convert::Summary,
    count, delete, error_groups, export, get, import, insert, letters_version, list, new_error_groups,
    rebuild_signatures, resolve, sweep, sweep_sql::app_of, timeline,
};
use crate::{
    Action, ActionRequest, AnnouncementClaim, AppId, Archive, Attribution, Backlog, BacklogRequest,
    CappedCount, Changed, Count, CountRequest, DeadLetterAction, DeadLetterAnnounce, DeadLetterDelete,
    DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve,
    DeadLetterRetention, DeadLetterRow, DeadLetterState, DeadLetterSummary, DeadLetterTransfer, Due, Erased,
    ErrorGroups, GroupRequest, Imported, LettersVersion, NewDeadLetter, NewErrorGroup, NewErrorGroups,
    NewGroupRequest, Page, PageRequest, PayloadSearch, RebuildRequest, Rebuilt, RecentApp, ReopenRequest,
    Resolution, StoredLetter, SweepCursor, SweepScope, Swept, SweptActions, Timeline, TimelineRequest,
    UnannouncedGroups, UnresolvedCount,
    observed::{call, observed},
};

#[async_trait]
impl<C: RepoConnection> DeadLetterRepo for SeaOrmDeadLetterRepo<C> {
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let call = call!("insert", app_id = %letter.app_id);
        observed(call, pin!(insert::insert(self, letter)), |_| 1).await
    }

    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
        let call = call!("insert_many", letters = letters.len());
        observed(call, pin!(insert::insert_many(self, letters)), |ids| ids.len() as u64).await
    }

    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        observed(call!("get", %id), pin!(get::get(self, id)), |row| row.is_some().into()).await
    }

    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        let rows = list::list_for_app(self, app_id, unresolved_only, limit, offset);
        observed(call!("list_for_app", %app_id), pin!(rows), |rows| rows.len() as u64).await
    }

    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        let count = count::unresolved_count(self, app_id);
        observed(call!("unresolved_count", %app_id), pin!(count), |count| count.unsigned_abs()).await
    }

    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        observed(call!("resolve", %id), pin!(resolve::resolve(self, id, reason)), |()| 1).await
    }

    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError> {
        let swept = sweep::gc(self, older_than, limit);
        observed(call!("gc", %older_than), pin!(swept), |&deleted| deleted).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterRead for SeaOrmDeadLetterRepo<C> {
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        let row = get::get_for_app(self, app_id, id);
        observed(call!("get_for_app", %app_id, %id), pin!(row), |row| row.is_some().into()).await
    }

    async fn app_of(&self, id: DeadLetterId) -> Result<Option<AppId>, DeadLetterRepoError> {
        let app = get::app_of(self, id);
        observed(call!("app_of", %id), pin!(app), |app| app.is_some().into()).await
    }

    async fn summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError> {
        let row = get::summary(self, app_id, id);
        observed(call!("summary", %app_id, %id), pin!(row), |row| row.is_some().into()).await
    }

    async fn payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        let text = get::text(self, Column::Payload, app_id, id, characters);
        observed(call!("payload_text", %app_id, %id), pin!(text), |text| text.is_some().into()).await
    }

    async fn replayed_payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        let text = get::text(self, Column::ReplayedPayload, app_id, id, characters);
        observed(call!("replayed_payload_text", %app_id, %id), pin!(text), |text| text.is_some().into()).await
    }

    async fn error_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        let text = get::text(self, Column::LastError, app_id, id, characters);
        observed(call!("error_text", %app_id, %id), pin!(text), |text| text.is_some().into()).await
    }

    async fn metadata(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<Map<String, Value>>, DeadLetterRepoError> {
        let metadata = get::metadata(self, app_id, id);
        observed(call!("metadata", %app_id, %id), pin!(metadata), |found| found.is_some().into()).await
    }

    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let page = list::list(self, app_id, filter, page);
        observed(call!("list", %app_id), pin!(page), |page| page.items.len() as u64).await
    }

    async fn search_payloads(
        &self,
        app_id: AppId,
        search: &PayloadSearch,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let page = list::search_payloads(self, app_id, search);
        observed(call!("search_payloads", %app_id), pin!(page), |page| page.items.len() as u64).await
    }

    async fn backlogs(&self, request: &BacklogRequest) -> Result<Vec<Backlog>, DeadLetterRepoError> {
        let apps = backlogs::backlogs(self, request);
        observed(call!("backlogs"), pin!(apps), |apps| apps.iter().map(|app| app.open.count).sum()).await
    }

    async fn apps(
        &self,
        state: DeadLetterState,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, DeadLetterRepoError> {
        let apps = backlogs::apps(self, state, after, limit);
        observed(call!("apps"), pin!(apps), |_| 0).await
    }

    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let call = call!("unresolved_counts", apps = app_ids.len());
        let apps = count::unresolved_counts(self, app_ids, cap);
        observed(call, pin!(apps), |apps| apps.iter().map(|app| app.unresolved.count).sum()).await
    }

    async fn count(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &CountRequest,
    ) -> Result<Count, DeadLetterRepoError> {
        let counted = count::count(self, app_id, filter, request);
        observed(call!("count", %app_id), pin!(counted), |counted| counted.matching.count).await
    }

    async fn timeline(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &TimelineRequest,
    ) -> Result<Timeline, DeadLetterRepoError> {
        let call = call!("timeline", %app_id);
        let found = timeline::timeline(self, app_id, filter, request);
        observed(call, pin!(found), |found| found.buckets.iter().map(|bucket| bucket.count).sum()).await
    }

    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError> {
        let call = call!("error_groups", %app_id);
        let found = error_groups::error_groups(self, app_id, filter, request);
        observed(call, pin!(found), |found| found.groups.iter().map(|group| group.count).sum()).await
    }

    async fn new_error_groups(
        &self,
        request: &NewGroupRequest,
    ) -> Result<NewErrorGroups, DeadLetterRepoError> {
        let found = new_error_groups::new_error_groups(self, request);
        let letters = |found: &NewErrorGroups| found.groups.iter().map(|group| group.count).sum();
        observed(call!("new_error_groups"), pin!(found), letters).await
    }

    async fn times_replayed(
        &self,
        app_id: AppId,
        event_ids: &[Uuid],
    ) -> Result<Vec<u64>, DeadLetterRepoError> {
        let times = count::times_replayed(self, app_id, event_ids);
        observed(call!("times_replayed", %app_id), pin!(times), |times| times.iter().sum()).await
    }

    async fn actions(
        &self,
        app_id: AppId,
        request: &ActionRequest,
    ) -> Result<Vec<DeadLetterAction>, DeadLetterRepoError> {
        let found = actions::actions(self, app_id, request);
        observed(call!("actions", %app_id), pin!(found), |found| found.len() as u64).await
    }

    async fn recent_apps(&self, since: DateTime<Utc>) -> Result<Vec<RecentApp>, DeadLetterRepoError> {
        let found = actions::recent_apps(self, since);
        observed(call!("recent_apps", %since), pin!(found), |_| 0).await
    }

    async fn letters_version(&self, app_id: Option<AppId>) -> Result<LettersVersion, DeadLetterRepoError> {
        let version = letters_version::letters_version(self, app_id);
        observed(call!("letters_version", app_id = app_id.map(tracing::field::display)), pin!(version), |_| 0)
            .await
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
            let (action, resolved) = (Action::Resolve, resolution.into());
            let row =
                resolve::resolve_once::<_, Summary>(self, app_id, id, action, resolved, attribution).await?;
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
    ) -> Result<Changed, DeadLetterRepoError> {
        let changed = resolve::resolve_matching(self, app_id, filter, resolution, attribution, limit);
        observed(call!("resolve_matching", %app_id), pin!(changed), |changed| changed.ids.len() as u64).await
    }

    async fn reopen_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        request: &ReopenRequest,
    ) -> Result<Changed, DeadLetterRepoError> {
        let changed = resolve::reopen_matching(self, app_id, filter, attribution, request);
        let call = call!("reopen_matching", %app_id);
        observed(call, pin!(changed), |changed| changed.ids.len() as u64).await
    }

    async fn reopen(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<(), DeadLetterRepoError> {
        let reopened = resolve::reopen(self, app_id, id, attribution);
        let call = call!("reopen", %app_id, %id);
        observed(call, pin!(reopened), |()| 1).await
    }

    async fn record_reveal(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<(), DeadLetterRepoError> {
        let recorded = actions::record_reveal(self, app_id, id, attribution);
        observed(call!("record_reveal", %app_id, %id), pin!(recorded), |()| 1).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterDelete for SeaOrmDeadLetterRepo<C> {
    async fn delete_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        limit: u32,
    ) -> Result<Changed, DeadLetterRepoError> {
        let deleted = delete::delete_matching(self, app_id, filter, attribution, limit);
        let call = call!("delete_matching", %app_id);
        observed(call, pin!(deleted), |deleted| deleted.ids.len() as u64).await
    }

    async fn erase(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        attribution: &Attribution,
    ) -> Result<Erased, DeadLetterRepoError> {
        let erased = delete::erase(self, app_id, ids, attribution);
        let call = call!("erase", %app_id);
        observed(call, pin!(erased), |erased| erased.ids.len() as u64).await
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
        let page = export::export(self, app_id, filter, page);
        observed(call!("export", %app_id), pin!(page), |page| page.items.len() as u64).await
    }

    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError> {
        let imported = import::import(self, letters);
        observed(call!("import", letters = letters.len()), pin!(imported), |imported| imported.stored).await
    }

    async fn rebuild_signatures(&self, request: &RebuildRequest) -> Result<Rebuilt, DeadLetterRepoError> {
        let rebuilt = rebuild_signatures::rebuild_signatures(self, request);
        observed(call!("rebuild_signatures"), pin!(rebuilt), |rebuilt| rebuilt.updated).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterRetention for SeaOrmDeadLetterRepo<C> {
    async fn sweep(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
    ) -> Result<Swept, DeadLetterRepoError> {
        let call = call!("sweep", app_id = app_of(scope).map(tracing::field::display), ?due);
        let swept = sweep::sweep(self, scope, due, after, limit.into(), None);
        observed(call, pin!(swept), |swept| swept.deleted).await
    }

    async fn sweep_into(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
        archive: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError> {
        let call = call!("sweep_into", app_id = app_of(scope).map(tracing::field::display), ?due);
        let swept = sweep::sweep(self, scope, due, after, limit.into(), Some(archive));
        observed(call, pin!(swept), |swept| swept.deleted).await
    }

    async fn count_due(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        let call = call!("count_due", app_id = app_of(scope).map(tracing::field::display), ?due);
        observed(call, pin!(sweep::count_due(self, scope, due, state, cap)), |counted| counted.count).await
    }

    async fn sweep_actions(
        &self,
        before: DateTime<Utc>,
        first_app: Option<AppId>,
        limit: u32,
    ) -> Result<SweptActions, DeadLetterRepoError> {
        let swept = actions::sweep_actions(self, before, first_app, limit.into());
        observed(call!("sweep_actions", %before), pin!(swept), |swept| swept.deleted).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterAnnounce for SeaOrmDeadLetterRepo<C> {
    async fn unannounced_groups(
        &self,
        request: &NewGroupRequest,
    ) -> Result<UnannouncedGroups, DeadLetterRepoError> {
        let found = announcements::unannounced_groups(self, request);
        let letters = |found: &UnannouncedGroups| found.groups.iter().map(|group| group.count).sum();
        observed(call!("unannounced_groups"), pin!(found), letters).await
    }

    async fn claim_announcement(
        &self,
        group: &NewErrorGroup,
        lease: Duration,
    ) -> Result<Option<AnnouncementClaim>, DeadLetterRepoError> {
        let call = call!("claim_announcement", app_id = %group.app_id);
        let claim = announcements::claim_announcement(self, group, lease);
        observed(call, pin!(claim), |claim| claim.is_some().into()).await
    }

    async fn confirm_announcement(&self, claim: &AnnouncementClaim) -> Result<bool, DeadLetterRepoError> {
        let call = call!("confirm_announcement", app_id = %claim.app_id);
        let confirmed = announcements::confirm_announcement(self, claim);
        observed(call, pin!(confirmed), |&confirmed| confirmed.into()).await
    }

    async fn sweep_announcements(
        &self,
        announced_before: DateTime<Utc>,
        abandoned_before: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, DeadLetterRepoError> {
        let swept = announcements::sweep_announcements(self, announced_before, abandoned_before, limit);
        observed(call!("sweep_announcements", %announced_before), pin!(swept), |&deleted| deleted).await
    }
}
