//! What a step needs of its PostgreSQL connection, whatever pool, role and database say.

use sea_orm_migration::prelude::*;

/// For a transaction that has done nothing yet. No `lock_timeout` would let every insert stand behind a step
/// that waits for an idle reader. (`transaction_timeout` came with PostgreSQL 17.)
pub(crate) async fn set_for_transaction(txn: &impl ConnectionTrait) -> Result<(), DbErr> {
    let settings = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '500ms' ELSE '0' END, true)
        FROM pg_settings
        WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
            'transaction_timeout')";
    txn.execute_unprepared(settings).await.map(drop)
}
