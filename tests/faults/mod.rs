//! What kills things: servers, processes, and migrations under way.

mod crash;
mod migrate;
mod process;
mod role;
