//! What a step needs of its PostgreSQL connection, whatever pool, role and database say.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DatabaseTransaction, Statement, TransactionTrait},
};

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

/// A connection without timeouts, kept from everybody else and in no transaction: for CREATE INDEX
/// CONCURRENTLY, which a timeout would make leave an invalid index.
pub(crate) struct Session {
    connection: DatabaseTransaction,
    /// What was changed, by name.
    former: Vec<(String, String)>,
}

impl Session {
    pub(crate) async fn open(db: &SchemaManagerConnection<'_>) -> Result<Self, DbErr> {
        // SeaORM keeps a connection for a transaction alone, so this is one, ended behind its back.
        let connection = db.begin().await?;
        connection.execute_unprepared("COMMIT").await?;
        let settings = "SELECT name, setting, set_config(name, '0', false) FROM pg_settings
            WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout') AND setting <> '0'";
        let settings = Statement::from_string(db.get_database_backend(), settings);
        let former = connection.query_all_raw(settings).await?;
        let former = former.iter().map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)));
        let former = former.collect::<Result<_, DbErr>>()?;
        Ok(Self { connection, former })
    }

    pub(crate) fn connection(&self) -> &DatabaseTransaction {
        &self.connection
    }

    /// Gives the connection back to the pool as it was.
    pub(crate) async fn close(self) -> Result<(), DbErr> {
        for (name, setting) in self.former {
            let set = Func::cust("set_config").arg(name).arg(setting).arg(false);
            self.connection.query_one(&Query::select().expr(set).take()).await?;
        }
        // What the rollback is to end.
        self.connection.execute_unprepared("BEGIN").await?;
        self.connection.rollback().await
    }
}
