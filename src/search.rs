//! Searches in payloads.

use crate::{DeadLetterFilter, PageRequest, debug::debug_without_content, setters::setters};

/// Which letters to find by a part of their payload.
///
/// The text is no field of [`DeadLetterFilter`]: it may be a secret, and filters stand in links, cursors, logs and the
/// history. This type can't be serialized either, and `Debug` shows the text by its size.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterFilter, PayloadSearch};
///
/// let search = PayloadSearch::new("4711").filter(DeadLetterFilter::default().source("orders"));
/// assert!(!format!("{search:?}").contains("4711"));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PayloadSearch {
    /// A part of the payload's stored text, 1 to 1,000 bytes. No character is a wildcard, and the match is
    /// case-sensitive. JSON is searched as it is stored, with its escapes: `\"` finds a quote inside a string.
    pub payload_contains: String,
    /// Which letters to search.
    pub filter: DeadLetterFilter,
    /// Which page to return. A cursor belongs to the app, the filter and the order, and does not depend on the text.
    pub page: PageRequest,
}

debug_without_content! { PayloadSearch { filter, page; payload_contains } }

impl PayloadSearch {
    /// Returns a search for this text in the payloads of all open letters.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterState, PayloadSearch};
    ///
    /// let search = PayloadSearch::new("4711");
    /// assert_eq!(search.filter.effective_state(), DeadLetterState::Open);
    /// ```
    pub fn new(payload_contains: impl Into<String>) -> Self {
        Self {
            payload_contains: payload_contains.into(),
            filter: DeadLetterFilter::default(),
            page: PageRequest::default(),
        }
    }
}

setters! { PayloadSearch { plain filter: DeadLetterFilter, plain page: PageRequest } }
