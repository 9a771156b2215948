//! One binary, so that one PostgreSQL server serves all tests.

#![allow(clippy::unwrap_used, reason = "in helpers too: clippy.toml knows only the tests themselves")]

mod access;
mod api;
mod attack;
mod audit;
mod bounds;
mod browser;
mod bulk;
#[cfg(feature = "serve")]
mod connections;
mod delete;
mod document;
mod edit;
mod fuzz;
#[path = "../examples/load/ledger.rs"]
mod ledger;
mod load;
mod mount;
mod nginx;
mod pages;
mod polls;
mod search;
mod support;
