//! The version of letters: what a view that is polled compares instead of reading the letters again.

use std::fmt;

/// A version of one app's letters, or of all letters, that [`letters_version`](crate::DeadLetterRead::letters_version)
/// returns. Two versions are equal if the call found no change between them.
///
/// The text is opaque, has 32 characters, and reveals nothing about the letters.
///
/// # Examples
///
/// ```
/// use dead_letters::DeadLetterRead;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// // A page keeps the text, and loads the letters again when the next text differs.
/// let shown = repo.letters_version(None).await?.to_string();
/// let is_current = repo.letters_version(None).await?.to_string() == shown;
/// assert!(is_current && shown.len() == 32);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LettersVersion(pub(crate) [u8; 16]);

impl fmt::Display for LettersVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
