//! The store as one trait object.

use crate::{DeadLetterRead, DeadLetterRepo, DeadLetterResolve, DeadLetterRetention, DeadLetterTransfer};

/// Combines the traits of a service's store in one object: pass an `Arc<dyn DeadLetterStore>` wherever one of the
/// traits is required.
///
/// Replay is separate, because it needs the service's `Requeue`: [`DeadLetterReplay`](crate::DeadLetterReplay).
///
/// Every type that implements the five traits implements this one. No method name occurs in two of them. A method that
/// is added to one of them later has a default body, so a service's own implementation keeps compiling.
pub trait DeadLetterStore:
    DeadLetterRepo + DeadLetterRead + DeadLetterResolve + DeadLetterTransfer + DeadLetterRetention
{
}

impl<S> DeadLetterStore for S where
    S: DeadLetterRepo
        + DeadLetterRead
        + DeadLetterResolve
        + DeadLetterTransfer
        + DeadLetterRetention
        + ?Sized
{
}
