//! One binary, so that one PostgreSQL server serves all tests.

#![allow(clippy::unwrap_used, reason = "in helpers too: clippy.toml knows only the tests themselves")]

mod access;
mod api;
mod attack;
mod browser;
mod bulk;
mod database;
mod document;
mod mount;
mod nginx;
mod pages;
mod support;
