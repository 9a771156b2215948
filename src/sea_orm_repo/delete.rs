//! Deletes chosen letters, and erases their content.

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryTrait,
    UpdateMany,
    sea_query::{
        CommonTableExpression, Expr, ExprTrait, Func, LockBehavior, LockType, Query, SelectStatement,
        UnionType, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    actions::{self, Entry, Target},
    bulk::{Bulk, Change},
    conditions::{is_any_of_ids, is_of_app},
    connection::RepoConnection,
    dialect::Dialect,
    in_range,
    resolve::change_all,
};
use crate::{
    Action, AppId, Attribution, Changed, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, Erased,
    PayloadKind,
    signature::{ERASED_SIGNATURE, OWN_SIGNATURE},
};

pub(super) async fn delete_matching<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    attribution: &Attribution,
    limit: u32,
) -> Result<Changed, DeadLetterRepoError> {
    change_all(repo, Bulk::new(repo, app_id, filter, Change::Delete(attribution), limit)?).await
}

pub(super) async fn erase<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    ids: &[DeadLetterId],
    attribution: &Attribution,
) -> Result<Erased, DeadLetterRepoError> {
    in_range("ids", u32::try_from(ids.len()).unwrap_or(u32::MAX), 0..=1_000)?;
    let dialect = repo.dialect()?;
    // The call writes several rows, which would have the same number.
    let attribution = &Attribution { batch: None, ..attribution.clone() };
    let filter = DeadLetterFilter::default().ids(ids);
    let are_theirs = is_of_app(app_id, &filter, dialect).add(is_any_of_ids(ids, dialect));
    let work = async |txn: &DatabaseTransaction| {
        let mut erased = Erased::default();
        // Locked first: whatever another connection changes is seen by all statements below, or by none.
        let mut locked = Vec::new();
        for row in txn.query_all_raw(dialect.build(&lock(dialect, are_theirs))).await? {
            let id = DeadLetterId::from(row.try_get::<Uuid>("", "id")?);
            match row.try_get("", HAS_CONTENT)? {
                Some(true) => locked.push(id),
                Some(false) => {}
                None => erased.skipped_locked.push(id),
            }
        }
        let are_locked = is_of_app(app_id, &filter, dialect).add(is_any_of_ids(&locked, dialect));
        let mut update = erase_rows(dialect).filter(are_locked).into_query();
        update.returning(Query::returning().column(Column::Id));
        for row in txn.query_all_raw(dialect.build(&update)).await? {
            erased.ids.push(row.try_get::<Uuid>("", "id")?.into());
        }
        // A trigger or a policy of the database may keep a letter from being changed.
        let kept = locked.into_iter().filter(|id| !erased.ids.contains(id)).collect::<Vec<_>>();
        erased.skipped_locked.extend(kept);
        erased.ids.sort();
        erased.skipped_locked.sort();
        // A letter that was deleted or erased before may still have notes in its history.
        let unlocked: Vec<_> = ids.iter().copied().filter(|id| !erased.skipped_locked.contains(id)).collect();
        if !unlocked.is_empty() {
            txn.execute_raw(actions::without_notes(dialect, app_id, &unlocked)).await?;
        }
        if !erased.ids.is_empty() {
            let entries = erased.ids.iter().map(|&id| {
                let target = Target::Letter(id);
                Entry { app_id, action: Action::Erase, target, resolution: None, attribution }
            });
            txn.execute_raw(dialect.build(&Entry::insert_each(dialect, entries))).await?;
        }
        Ok(erased)
    };
    repo.db.in_transaction(work).await
}

/// Returns the UPDATE that erases letters at the database's time. The caller adds the condition. An archive erases the
/// same fields: see `StoredLetter::erased`.
fn erase_rows(dialect: Dialect) -> UpdateMany<Entity> {
    let none = || Expr::from(None::<String>);
    let before_or_now = [Column::ErasedAt.into_expr(), dialect.now()];
    let erased_at = Expr::from(match dialect {
        // Citus takes no function of the time in a COALESCE. LEAST skips NULL. SQLite's function of that kind does not.
        Dialect::Postgres | Dialect::Sharded => Func::least(before_or_now),
        Dialect::Sqlite => Func::coalesce(before_or_now),
    });
    Entity::update_many()
        .col_expr(Column::Payload, "null".into())
        .col_expr(Column::PayloadKind, PayloadKind::Erased.as_str().into())
        .col_expr(Column::ReplayedPayload, none())
        .col_expr(Column::Metadata, none())
        .col_expr(Column::LastError, "".into())
        .col_expr(Column::ErrorSignature, ERASED_SIGNATURE.into())
        .col_expr(Column::SignatureVersion, OWN_SIGNATURE.into())
        .col_expr(Column::ResolutionNote, none())
        .col_expr(Column::ErasedAt, erased_at)
}

fn has_content() -> Expr {
    COLUMN.erased_at.is_null().or(COLUMN.resolution_note.is_not_null())
}

/// Locks these letters, unless the database is SQLite, which has one writer. Returns each one's id, and whether it has
/// content; of a letter that another transaction has locked, NULL.
fn lock(dialect: Dialect, are_theirs: Condition) -> SelectStatement {
    const LOCKED: &str = "locked";
    let mut letters = Query::select()
        .column(Column::Id)
        .expr_as(has_content(), HAS_CONTENT)
        .from(Entity)
        .cond_where(are_theirs.clone())
        .take();
    if dialect == Dialect::Sqlite {
        return letters;
    }
    letters.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    let locked = CommonTableExpression::new().table_name(LOCKED).query(letters).to_owned();
    let others = Query::select()
        .column(Column::Id)
        .expr(Expr::Constant(None::<bool>.into()))
        .from(Entity)
        .cond_where(are_theirs)
        .and_where(Column::Id.not_in_subquery(Query::select().column(Column::Id).from(LOCKED).take()))
        .take();
    Query::select()
        .column(Column::Id)
        .column(HAS_CONTENT)
        .from(LOCKED)
        .union(UnionType::All, others)
        .with_cte(WithClause::new().cte(locked).to_owned())
        .take()
}

const HAS_CONTENT: &str = "has_content";
