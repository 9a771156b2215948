//! Implements [`DeadLetterRetention`] on SeaORM.

use std::pin::pin;

use async_trait::async_trait;

use super::{SeaOrmDeadLetterRepo, connection::RepoConnection, sweep_sql::app_of};
use crate::{
    Archive, CappedCount, DeadLetterRepoError, DeadLetterRetention, DeadLetterState, Due, SweepCursor,
    SweepScope, Swept,
    observed::{call, observed},
};

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
        let swept = self.sweep_due(scope, due, after, limit.into(), None);
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
        let swept = self.sweep_due(scope, due, after, limit.into(), Some(archive));
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
        observed(call, pin!(self.count_due_rows(scope, due, state, cap)), |counted| counted.count).await
    }
}
