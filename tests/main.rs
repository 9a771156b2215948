//! One binary, so that one PostgreSQL server serves all tests.

mod contract;
mod database;
mod migrations;
mod queries;
mod sources;
