//! Settling rows.

use dead_letters_entity::dead_letters::COLUMN;
use sea_orm::QueryFilter;

use super::{SeaOrmDeadLetterRepo, transaction::RepoConnection, triage};
use crate::{DeadLetterId, DeadLetterRepoError, Settlement};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn settle(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        let settlement = Settlement { resolution: reason.parse()?, by: None, note: None };
        let resolved =
            triage::settle(&settlement).filter(COLUMN.id.eq(id.into_inner())).exec(&self.db).await?;
        if resolved.rows_affected == 0 {
            return Err(DeadLetterRepoError::NotFound(id));
        }
        Ok(())
    }
}
