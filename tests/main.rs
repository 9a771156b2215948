//! One binary, so that one PostgreSQL server serves all tests.

#![allow(clippy::unwrap_used, reason = "in helpers too: clippy.toml knows only the tests themselves")]

mod archive;
mod contract;
mod database;
mod deploy;
mod faults;
mod messages;
mod migrations;
mod open;
mod queries;
mod sources;
mod sweeper;
mod testing;
mod watch;
