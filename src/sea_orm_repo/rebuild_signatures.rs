//! Recomputes stored error signatures.

use std::{collections::BTreeMap, ops::RangeInclusive};

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, ExprTrait, FromQueryResult,
    sea_query::{
        Expr, Func, IntoIden, LockBehavior, LockType, Order, Query, SelectStatement, TableRef,
        UpdateStatement, ValueTuple,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    bytes::MAX_BYTES,
    conditions::{any_of, is_any_of_ids},
    connection::RepoConnection,
    convert::{by_position, ends_of_error, join_ends},
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range,
};
use crate::{
    AppId, DeadLetterId, DeadLetterRepoError, RebuildCursor, RebuildRequest, Rebuilt, Regrouped,
    signature::{OWN_SIGNATURE, SIGNATURE_VERSION, error_signature, group_key},
};

const LIMITS: RangeInclusive<u32> = 1..=500;

pub(super) async fn rebuild_signatures<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    request: &RebuildRequest,
) -> Result<Rebuilt, DeadLetterRepoError> {
    let limit = in_range("limit", request.limit, LIMITS)?;
    let dialect = repo.dialect()?;
    let page = page(dialect, request.after, limit);
    let page = Examined::find_by_statement(with_hidden_limits(dialect, &page)).all(&repo.db).await?;
    let (mut rebuilt, mut bytes) = (Rebuilt::default(), 0);
    let mut stale: BTreeMap<Option<AppId>, Vec<DeadLetterId>> = BTreeMap::new();
    for letter in page.iter().take(limit as usize) {
        if let Some(of_letter) = letter.stale_bytes {
            bytes += of_letter.unsigned_abs();
            if bytes > MAX_BYTES && rebuilt.examined > 0 {
                break;
            }
            rebuilt.stale += 1;
            let app_id = dialect.shard(letter.app_id.into());
            stale.entry(app_id).or_default().push(letter.id.into());
        }
        rebuilt.examined += 1;
        rebuilt.next = Some(RebuildCursor { app_id: letter.app_id.into(), id: letter.id.into() });
    }
    if rebuilt.examined == page.len() as u64 {
        rebuilt.next = None;
    }
    for (app_id, ids) in stale {
        let signed = with_hidden_limits(dialect, &signed_letters(dialect, app_id, &ids));
        let signed = Signed::find_by_statement(signed).all(&repo.db).await?;
        let changes: Vec<_> = signed.into_iter().map(Signed::change).collect();
        rebuilt.regrouped.extend(regrouped(&changes));
        if !request.dry_run && !changes.is_empty() {
            rebuilt.updated += repo.db.execute(&sign(dialect, app_id, changes)).await?.rows_affected();
        }
    }
    Ok(rebuilt)
}

by_position! {
    /// A letter of a page.
    struct Examined {
        app_id: Uuid,
        id: Uuid,
        /// How many bytes are read from the letter, if its signature is stale.
        stale_bytes: Option<i64>,
    }
}

/// Selects a page of the letters of all apps, ordered by the table's key, and one letter more, which shows whether
/// another page follows.
fn page(dialect: Dialect, after: Option<RebuildCursor>, limit: u32) -> SelectStatement {
    let length =
        |column: Column| Expr::from(Func::cust("octet_length").arg(column.into_expr())).cast_as("bigint");
    let bytes = [Column::Source, Column::Op, Column::ErrorSignature, Column::LastError].map(length);
    let bytes = bytes.into_iter().reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0_i64));
    let nil = RebuildCursor { app_id: Uuid::nil().into(), id: Uuid::nil().into() };
    let RebuildCursor { app_id, id } = after.unwrap_or(nil);
    let (app_id, id) = (app_id.into_inner(), id.into_inner());
    let (place, last) = match dialect {
        Dialect::Sharded => {
            let place = [Column::AppId, Column::Id].map(ColumnTrait::into_expr);
            (Expr::tuple(place), Expr::tuple([app_id, id].map(Expr::val)))
        }
        _ => (Column::Id.into_expr(), Expr::val(id)),
    };
    let is_behind = if after.is_some() { place.gt(last) } else { place.gte(last) };
    let mut page = Query::select();
    page.columns([Column::AppId, Column::Id])
        .expr_as(Expr::case(is_stale(), bytes), "stale_bytes")
        .from(Entity)
        .and_where(is_behind);
    if dialect == Dialect::Sharded {
        page.order_by(Column::AppId, Order::Asc);
    }
    page.order_by(Column::Id, Order::Asc).limit(shown(u64::from(limit) + 1)).take()
}

by_position! {
    /// The fields that a signature and a group key are made of.
    struct Signed {
        id: Uuid,
        app_id: Uuid,
        source: String,
        op: String,
        script_id: Option<Uuid>,
        error_signature: String,
        signature_version: i16,
        group_key: String,
        start_of_error: String,
        end_of_error: Option<String>,
    }
}

/// Selects those of these letters whose signature is stale.
fn signed_letters(dialect: Dialect, app_id: Option<AppId>, ids: &[DeadLetterId]) -> SelectStatement {
    let [start, end] = ends_of_error(Column::LastError.into_expr());
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
        .expr_as(start, "start_of_error")
        .expr_as(end, "end_of_error")
        .from(Entity)
        .cond_where(are(dialect, app_id, ids))
        .and_where(is_stale())
        .take()
}

/// Returns the condition of a letter with one of these ids. `app_id` routes the statement if the table is
/// distributed.
fn are(dialect: Dialect, app_id: Option<AppId>, ids: &[DeadLetterId]) -> Condition {
    let of_app = app_id.map(|app_id| COLUMN.app_id.eq(app_id.into_inner()));
    Condition::all().add(is_any_of_ids(ids, dialect)).add_option(of_app)
}

/// Returns the condition of a letter that has not been erased and whose signature is stale. Either an earlier
/// version of the rules made the signature, or another writer stored the letter without a signature or a group
/// key.
fn is_stale() -> Expr {
    let version = || Column::SignatureVersion.into_expr();
    let is_older = version().between(OWN_SIGNATURE + 1, SIGNATURE_VERSION - 1);
    let has_none = version().eq(OWN_SIGNATURE).and(Column::ErrorSignature.into_expr().eq(""));
    let is_stale = is_older.or(has_none).or(Column::GroupKey.into_expr().eq(""));
    COLUMN.erased_at.is_null().and(is_stale)
}

impl Signed {
    fn change(self) -> Change {
        // A signature that the service made is kept. Such a letter lacks only its group key.
        let is_own = self.signature_version == OWN_SIGNATURE && !self.error_signature.is_empty();
        let (signature, version) = match is_own {
            true => (self.error_signature.clone(), OWN_SIGNATURE),
            false => {
                let error = join_ends(self.start_of_error, self.end_of_error);
                (error_signature(&error), SIGNATURE_VERSION)
            }
        };
        Change {
            key: group_key(&self.source, &self.op, self.script_id, &signature),
            id: self.id,
            app_id: self.app_id,
            old_signature: self.error_signature,
            old_version: self.signature_version,
            old_key: self.group_key,
            signature,
            version,
        }
    }
}

struct Change {
    id: Uuid,
    app_id: Uuid,
    old_signature: String,
    old_version: i16,
    old_key: String,
    signature: String,
    version: i16,
    key: String,
}

/// The name of the rows to store. Both backends name the columns of VALUES `column1`, `column2` and so on.
const NEW: &str = "new";

/// Updates the letters that no other transaction has locked and that are unchanged since they were read.
fn sign(dialect: Dialect, app_id: Option<AppId>, changes: Vec<Change>) -> UpdateStatement {
    let ids: Vec<DeadLetterId> = changes.iter().map(|change| change.id.into()).collect();
    let rows = changes.into_iter().map(|change| {
        ValueTuple::Many(vec![
            change.id.into(),
            change.old_signature.into(),
            change.old_version.into(),
            change.old_key.into(),
            change.signature.into(),
            change.version.into(),
            change.key.into(),
        ])
    });
    let new = |column: &'static str| Expr::col((NEW, column));
    let own = |column: Column| Expr::col((Entity, column));
    let mut sign = Query::update();
    sign.table(Entity)
        .from(TableRef::ValuesList(rows.collect(), NEW.into_iden()))
        .value(Column::ErrorSignature, new("column5"))
        .value(Column::SignatureVersion, new("column6"))
        .value(Column::GroupKey, new("column7"))
        .and_where(own(Column::Id).eq(new("column1")))
        .and_where(own(Column::ErrorSignature).eq(new("column2")))
        .and_where(own(Column::SignatureVersion).eq(new("column3")))
        .and_where(own(Column::GroupKey).eq(new("column4")))
        .and_where(own(Column::ErasedAt).is_null());
    if dialect == Dialect::Sqlite {
        // With statistics SQLite would otherwise read all letters, and look each one up in the VALUES.
        sign.cond_where(are(dialect, app_id, &ids));
    } else {
        sign.and_where_option(app_id.map(|app_id| own(Column::AppId).eq(app_id.into_inner())));
        let unlocked = Query::select()
            .column(Column::Id)
            .from(Entity)
            .cond_where(are(dialect, app_id, &ids))
            .lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked)
            .take();
        // The condition is on the VALUES instead of the table's ids, so that PostgreSQL finds the table's rows by
        // their key.
        sign.and_where(new("column1").eq(any_of(unlocked)));
    }
    sign
}

/// Returns the letters that move from one group to another, by app and group.
fn regrouped(changes: &[Change]) -> Vec<Regrouped> {
    let mut regrouped: BTreeMap<_, Regrouped> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.old_key != change.key) {
        let first = || Regrouped {
            app_id: change.app_id.into(),
            from: change.old_key.clone(),
            to: change.key.clone(),
            signature_before: change.old_signature.clone(),
            signature_after: change.signature.clone(),
            letters: 0,
        };
        regrouped.entry((change.app_id, &change.old_key, &change.key)).or_insert_with(first).letters += 1;
    }
    regrouped.into_values().collect()
}
