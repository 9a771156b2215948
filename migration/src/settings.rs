//! The settings that a step needs on its PostgreSQL connection, whatever the pool, the role and the database set.

use sea_orm_migration::prelude::*;

/// Sets the isolation level and the timeouts of a transaction that has not run a statement yet.
///
/// Without a `lock_timeout`, every insert would queue behind a step that waits for an idle reader. The settings
/// are read from `pg_settings`, because `transaction_timeout` exists only since PostgreSQL 17.
pub(crate) async fn set_for_transaction(txn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let settings = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '500ms' ELSE '0' END, true)
        FROM pg_settings
        WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
            'transaction_timeout')";
    txn.execute_unprepared(settings).await.map(drop)
}
