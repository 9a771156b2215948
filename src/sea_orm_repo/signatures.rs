//! Computing stored error signatures anew.

use std::{collections::BTreeMap, ops::RangeInclusive};

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, ExprTrait, FromQueryResult,
    sea_query::{
        CaseStatement, Expr, IntoIden, LockBehavior, LockType, Order, Query, SelectStatement, TableRef,
        UpdateStatement, ValueTuple,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    conditions::{is_any_of, is_any_of_ids},
    connection::RepoConnection,
    convert::{by_position, ends_of_error, join_ends},
    in_range,
    text::{shown, with_hidden_limits},
};
use crate::{
    AppId, DeadLetterId, DeadLetterRepoError, RebuildRequest, Rebuilt, Regrouped,
    signature::{OWN_SIGNATURE, SIGNATURE_VERSION, error_signature, group_key},
};

/// Each letter brings up to 32 KB of its error.
const LIMITS: RangeInclusive<u32> = 1..=500;

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn rebuild(&self, request: &RebuildRequest) -> Result<Rebuilt, DeadLetterRepoError> {
        let limit = in_range("limit", request.limit, LIMITS)?;
        let rows = with_hidden_limits(self.db.get_database_backend(), &signed_letters(request.after, limit));
        let mut rows = Signed::find_by_statement(rows).all(&self.db).await?;
        let has_next = rows.len() > limit as usize;
        rows.truncate(limit as usize);

        let examined = rows.len() as u64;
        let next = rows.last().filter(|_| has_next).map(|last| last.id.into());
        let changes: Vec<_> = rows.into_iter().filter_map(Signed::change).collect();
        let stale = changes.len() as u64;
        let regrouped = regrouped(&changes);
        let updated = if request.dry_run { 0 } else { self.sign(changes).await? };
        Ok(Rebuilt { examined, stale, updated, regrouped, next })
    }

    /// Stores the signatures and keys, and returns how many.
    async fn sign(&self, changes: Vec<Change>) -> Result<u64, DbErr> {
        let backend = self.db.get_database_backend();
        if changes.is_empty() {
            return Ok(0);
        }
        if !self.sharded {
            return Ok(self.db.execute(&sign(backend, None, changes)).await?.rows_affected());
        }
        let mut of_apps: BTreeMap<AppId, Vec<Change>> = BTreeMap::new();
        for change in changes {
            of_apps.entry(change.letter.app_id.into()).or_default().push(change);
        }
        let mut updated = 0;
        for (app_id, changes) in of_apps {
            updated += self.db.execute(&sign(backend, Some(app_id), changes)).await?.rows_affected();
        }
        Ok(updated)
    }
}

/// Stores them for letters that no other transaction has locked, and that have not changed since they were read. The
/// app is said where it routes the statement.
fn sign(backend: DbBackend, app_id: Option<AppId>, changes: Vec<Change>) -> UpdateStatement {
    let ids: Vec<DeadLetterId> = changes.iter().map(|change| change.letter.id.into()).collect();
    let rows = changes.into_iter().map(|Change { letter, signature, version, key }| {
        ValueTuple::Many(vec![
            letter.id.into(),
            letter.group_key.into(),
            signature.into(),
            version.into(),
            key.into(),
        ])
    });
    let new = |column: &'static str| Expr::col((NEW, column));
    let own = |column: Column| Expr::col((Entity, column));
    let mut sign = Query::update();
    sign.table(Entity)
        .value(Column::ErrorSignature, new("column3"))
        .value(Column::SignatureVersion, new("column4"))
        .value(Column::GroupKey, new("column5"))
        .from(TableRef::ValuesList(rows.collect(), NEW.into_iden()))
        .and_where(own(Column::Id).eq(new("column1")))
        .and_where(own(Column::GroupKey).eq(new("column2")))
        .and_where_option(app_id.map(|app_id| own(Column::AppId).eq(app_id.into_inner())));
    if backend == DbBackend::Postgres {
        let of_app = app_id.map(|app_id| COLUMN.app_id.eq(app_id.into_inner()));
        let unlocked = Query::select()
            .column(Column::Id)
            .from(Entity)
            .and_where(is_any_of_ids(&ids, backend))
            .and_where_option(of_app)
            .lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked)
            .take();
        sign.and_where(is_any_of(unlocked));
    }
    sign
}

/// The letters that go from one group to another, by app and by group.
fn regrouped(changes: &[Change]) -> Vec<Regrouped> {
    let mut regrouped: BTreeMap<_, Regrouped> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.letter.group_key != change.key) {
        let of = (change.letter.app_id, &change.letter.group_key, &change.key);
        regrouped.entry(of).or_insert_with(|| change.regrouped()).letters += 1;
    }
    regrouped.into_values().collect()
}

/// The name of the rows to store. Their columns have the names that both backends give to those of VALUES.
const NEW: &str = "new";

by_position! {
    /// What a signature is made of. The error is there where the signature is stale.
    struct Signed {
        id: Uuid,
        app_id: Uuid,
        source: String,
        op: String,
        script_id: Option<Uuid>,
        error_signature: String,
        signature_version: i16,
        group_key: String,
        start_of_error: Option<String>,
        end_of_error: Option<String>,
    }
}

/// The letters of all apps by id, and one more than the limit, which shows that there are more.
fn signed_letters(after: Option<DeadLetterId>, limit: u32) -> SelectStatement {
    let [start, end] = ends_of_error(Column::LastError.into_expr());
    let if_stale = |text: Expr| Expr::Case(Box::new(CaseStatement::new().case(is_stale(), text)));
    Query::select()
        .columns([
            Column::Id,
            Column::AppId,
            Column::Source,
            Column::Op,
            Column::ScriptId,
            Column::ErrorSignature,
            Column::SignatureVersion,
            Column::GroupKey,
        ])
        .expr_as(if_stale(start), "start_of_error")
        .expr_as(if_stale(end), "end_of_error")
        .from(Entity)
        .and_where(after.map_or_else(|| COLUMN.id.gte(Uuid::nil()), |id| COLUMN.id.gt(id.into_inner())))
        .order_by(Column::Id, Order::Asc)
        .limit(shown(u64::from(limit) + 1))
        .take()
}

/// Whether an earlier version of the rules made the signature, or another writer stored the letter without a key.
fn is_stale() -> Expr {
    let is_older = Column::SignatureVersion.into_expr().between(OWN_SIGNATURE + 1, SIGNATURE_VERSION - 1);
    COLUMN.erased_at.is_null().and(is_older.or(Column::GroupKey.into_expr().eq("")))
}

impl Signed {
    /// What is to be stored, if the signature is stale.
    fn change(mut self) -> Option<Change> {
        let error = join_ends(self.start_of_error.take()?, self.end_of_error.take());
        // The service's own, which lacks nothing but its key.
        let is_own = self.signature_version == OWN_SIGNATURE && !self.error_signature.is_empty();
        let signature = if is_own { self.error_signature.clone() } else { error_signature(&error) };
        let key = group_key(&self.source, &self.op, self.script_id, &signature);
        let version = if is_own { OWN_SIGNATURE } else { SIGNATURE_VERSION };
        Some(Change { letter: self, signature, version, key })
    }
}

struct Change {
    letter: Signed,
    signature: String,
    version: i16,
    key: String,
}

impl Change {
    fn regrouped(&self) -> Regrouped {
        Regrouped {
            app_id: self.letter.app_id.into(),
            from: self.letter.group_key.clone(),
            to: self.key.clone(),
            signature_before: self.letter.error_signature.clone(),
            signature_after: self.signature.clone(),
            letters: 0,
        }
    }
}
