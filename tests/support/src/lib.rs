//! Databases for tests: SQLite files, and PostgreSQL databases on the server that `TEST_DATABASE_URL` names. Without
//! that variable, a process that needs PostgreSQL starts a private server from the installed programs. The server
//! ends with the process, however the process ends.
//!
//! No test is skipped. Without PostgreSQL, a test that needs it fails, and the error says what to install.
//!
//! With Citus, `TEST_DATABASE_URL` names the coordinator, and `TEST_CITUS_WORKERS` names the other nodes, separated
//! by commas. `TEST_DATABASE_TEMPLATE` names a database on all nodes, which `tests/citus/prepare` creates. Each test
//! gets a copy of it on all nodes.

mod database;
mod folder;
mod maintenance;
mod server;

pub use database::TestDatabase;
pub use server::Server;

/// An error while a database is set up: a text for the person at the terminal.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
