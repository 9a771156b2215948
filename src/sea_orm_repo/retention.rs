//! [`DeadLetterRetention`] on SeaORM.

use async_trait::async_trait;
use tracing::{Span, field::Empty, info_span};

use super::{SeaOrmDeadLetterRepo, observed, transaction::RepoConnection};
use crate::{
    Archive, CappedCount, DeadLetterRepoError, DeadLetterRetention, DeadLetterState, Due, SweepScope, Swept,
};

#[async_trait]
impl<C: RepoConnection> DeadLetterRetention for SeaOrmDeadLetterRepo<C> {
    async fn sweep(&self, scope: &SweepScope, due: Due, limit: u32) -> Result<Swept, DeadLetterRepoError> {
        let span = of(scope, info_span!("dead_letters.sweep", app_id = Empty, ?due, rows = Empty));
        observed(span, self.delete_due(scope, due, limit.into())).await
    }

    async fn sweep_into(
        &self,
        scope: &SweepScope,
        due: Due,
        limit: u32,
        archive: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError> {
        let span = of(scope, info_span!("dead_letters.sweep_into", app_id = Empty, ?due, rows = Empty));
        observed(span, self.archive_due(scope, due, limit.into(), archive)).await
    }

    async fn count_due(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        let span = of(scope, info_span!("dead_letters.count_due", app_id = Empty, ?due, rows = Empty));
        observed(span, self.count_due_rows(scope, due, state, cap)).await
    }
}

/// The span, with the app if it is one's.
fn of(scope: &SweepScope, span: Span) -> Span {
    if let SweepScope::App(app_id) = scope {
        span.record("app_id", tracing::field::display(app_id));
    }
    span
}
