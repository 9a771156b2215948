//! The store as one trait object.

use crate::{
    DeadLetterAnnounce, DeadLetterDelete, DeadLetterRead, DeadLetterRepo, DeadLetterResolve,
    DeadLetterRetention, DeadLetterTransfer,
};

/// Combines the traits of a service's store in one object: pass an `Arc<dyn DeadLetterStore>` wherever one of the
/// traits is required.
///
/// Replay is separate, because it needs the service's `Requeue`: [`DeadLetterReplay`](crate::DeadLetterReplay).
///
/// Every type that implements the seven traits implements this one. No method name occurs in two of them. A method that
/// is added to one of them later has a default body, so a service's own implementation keeps compiling.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use dead_letters::{BacklogRequest, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterStore};
///
/// /// The state of a service's handlers.
/// struct State {
///     dead_letters: Arc<dyn DeadLetterStore>,
/// }
///
/// async fn is_quiet(state: &State) -> Result<bool, DeadLetterRepoError> {
///     Ok(state.dead_letters.backlogs(&BacklogRequest::default().limit(1)).await?.is_empty())
/// }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # let state = State { dead_letters: Arc::new(repo) };
/// # assert!(is_quiet(&state).await?);
/// # state.dead_letters.insert(dead_letters::testing::letter(app)).await?;
/// # assert!(!is_quiet(&state).await?);
/// # Ok(())
/// # }
/// ```
pub trait DeadLetterStore:
    DeadLetterRepo
    + DeadLetterRead
    + DeadLetterResolve
    + DeadLetterDelete
    + DeadLetterTransfer
    + DeadLetterRetention
    + DeadLetterAnnounce
{
}

impl<S> DeadLetterStore for S where
    S: DeadLetterRepo
        + DeadLetterRead
        + DeadLetterResolve
        + DeadLetterDelete
        + DeadLetterTransfer
        + DeadLetterRetention
        + DeadLetterAnnounce
        + ?Sized
{
}
