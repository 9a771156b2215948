//! The store as one object.

use crate::{DeadLetterRepo, DeadLetterRetention, DeadLetterTriage};

/// All that a service does with its store, as one object: `Arc<dyn DeadLetterStore>` goes wherever one of the
/// traits is wanted. Replay alone is apart, since it needs the service:
/// [`DeadLetterReplay`](crate::DeadLetterReplay).
///
/// Whatever implements the traits implements it.
pub trait DeadLetterStore: DeadLetterRepo + DeadLetterTriage + DeadLetterRetention {}

impl<S: DeadLetterRepo + DeadLetterTriage + DeadLetterRetention + ?Sized> DeadLetterStore for S {}
