//! Deletes chosen letters, and erases their content.

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryTrait,
    UpdateMany,
    sea_query::{
        CommonTableExpression, Expr, ExprTrait, Func, LockBehavior, LockType, Query, UnionType, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    actions::{self, Entry, Target},
    bulk::{Bulk, Change},
    conditions::{is_any_of, is_any_of_ids, is_of_app},
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
    let has_content = COLUMN.erased_at.is_null().or(COLUMN.resolution_note.is_not_null());
    let are_theirs = is_of_app(app_id, &filter, dialect).add(is_any_of_ids(ids, dialect)).add(has_content);
    let statement = match dialect {
        Dialect::Sqlite => {
            let mut update = erase_rows(dialect).filter(are_theirs).into_query();
            update.returning(Query::returning().column(Column::Id));
            dialect.build(&update)
        }
        Dialect::Postgres | Dialect::Sharded => {
            let unlocked = Query::select()
                .column(Column::Id)
                .from(Entity)
                .cond_where(are_theirs.clone())
                .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
                .take();
            let app = dialect.shard(app_id).map(|app_id| COLUMN.app_id.eq(app_id.into_inner()));
            let are_unlocked = Condition::all().add(is_any_of(unlocked)).add_option(app);
            let mut update = erase_rows(dialect).filter(are_unlocked).into_query();
            update.returning(Query::returning().column(Column::Id));
            let changed = CommonTableExpression::new().table_name(CHANGED).query(update).to_owned();
            let ids_of_changed = Query::select().column(Column::Id).from(CHANGED).take();
            // All parts of a statement see the rows as they were before it.
            let others = Query::select()
                .column(Column::Id)
                .expr_as(Expr::Constant(false.into()), ERASED)
                .from(Entity)
                .cond_where(are_theirs)
                .and_where(Column::Id.not_in_subquery(ids_of_changed))
                .take();
            let all = Query::select()
                .column(Column::Id)
                .expr_as(Expr::Constant(true.into()), ERASED)
                .from(CHANGED)
                .union(UnionType::All, others)
                .with_cte(WithClause::new().cte(changed).to_owned())
                .take();
            dialect.build(&all)
        }
    };
    let work = async |txn: &DatabaseTransaction| {
        let mut erased = Erased::default();
        for row in txn.query_all_raw(statement).await? {
            let id = DeadLetterId::from(row.try_get::<Uuid>("", "id")?);
            let is_erased = dialect == Dialect::Sqlite || row.try_get("", ERASED)?;
            let list = if is_erased { &mut erased.ids } else { &mut erased.skipped_locked };
            list.push(id);
        }
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
    Entity::update_many()
        .col_expr(Column::Payload, "null".into())
        .col_expr(Column::PayloadKind, PayloadKind::Erased.as_str().into())
        .col_expr(Column::ReplayedPayload, none())
        .col_expr(Column::Metadata, none())
        .col_expr(Column::LastError, "".into())
        .col_expr(Column::ErrorSignature, ERASED_SIGNATURE.into())
        .col_expr(Column::SignatureVersion, OWN_SIGNATURE.into())
        .col_expr(Column::ResolutionNote, none())
        .col_expr(Column::ErasedAt, Func::coalesce([Column::ErasedAt.into_expr(), dialect.now()]).into())
}

const CHANGED: &str = "changed";
const ERASED: &str = "erased";
