//! Orders: a service with an outbox, whose events end in its dead-letter store when their retries are used up.

pub mod admin;
pub mod dispatcher;
pub mod outbox;
