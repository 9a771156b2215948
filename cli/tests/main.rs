//! The real program, on both backends.

#![allow(clippy::unwrap_used, reason = "in helpers too: clippy.toml knows only the tests themselves")]

/// Runs each case on every backend.
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::support::Store::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::support::Store::postgres().await).await;
            })+
        }
    };
}

mod apps;
mod carry;
mod delete;
mod ending;
mod files;
mod look;
mod messages;
mod resolve;
mod search;
mod serve;
mod support;
mod terminal;
mod usage;
