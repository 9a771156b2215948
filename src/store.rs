//! The store as one trait object.

use crate::{DeadLetterRepo, DeadLetterRetention, DeadLetterTriage};

/// Combines the traits of a service's store in one object: pass an `Arc<dyn DeadLetterStore>` wherever one of the
/// traits is required.
///
/// Replay is separate, because it needs the service's `Requeue`: [`DeadLetterReplay`](crate::DeadLetterReplay).
///
/// Every type that implements the three traits implements this one.
pub trait DeadLetterStore: DeadLetterRepo + DeadLetterTriage + DeadLetterRetention {}

impl<S: DeadLetterRepo + DeadLetterTriage + DeadLetterRetention + ?Sized> DeadLetterStore for S {}
