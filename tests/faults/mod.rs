//! Tests that kill servers, processes, and migrations under way.

mod crash;
mod dropped;
mod interleaved;
mod migrate;
mod process;
mod role;

pub(crate) use migrate::Service;
pub(crate) use process::this_test_alone;
