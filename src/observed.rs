//! What is told of each call: a span, its outcome there, and the metrics.

use std::{future::Future, pin::Pin};

use tracing::{Instrument, Span, debug, warn};

use crate::DeadLetterRepoError;

/// A call that is to be observed. [`call!`] makes it.
pub(crate) struct Call {
    #[cfg(feature = "metrics")]
    pub(crate) name: &'static str,
    pub(crate) span: Span,
}

/// A call by its name, which is the label of its metrics and stands in the name of its span, and the span's
/// other fields.
macro_rules! call {
    ($name:literal $(, $($field:tt)+)?) => {
        $crate::observed::Call {
            #[cfg(feature = "metrics")]
            name: $name,
            span: tracing::info_span!(
                concat!("dead_letters.", $name),
                $($($field)+,)?
                rows = tracing::field::Empty
            ),
        }
    };
}
pub(crate) use call;

/// Runs a call in its span, and tells there what came of it: the letters that the answer is about, an answer
/// such as "not found" at DEBUG, a failure at WARN. A call that is dropped is not counted.
///
/// The call is pinned by the caller: each move would copy it, and some are of kilobytes.
pub(crate) async fn observed<T>(
    call: Call,
    work: Pin<&mut impl Future<Output = Result<T, DeadLetterRepoError>>>,
    rows: impl FnOnce(&T) -> u64,
) -> Result<T, DeadLetterRepoError> {
    #[cfg(feature = "metrics")]
    let began = std::time::Instant::now();
    let mut work = work.instrument(call.span);
    let outcome = (&mut work).await;
    let rows = outcome.as_ref().map(rows);
    let span = work.span();
    match &rows {
        Ok(rows) => {
            span.record("rows", rows);
        }
        Err(error) if error.is_answer() => span.in_scope(|| debug!(%error)),
        Err(error) => span.in_scope(|| warn!(%error)),
    }
    #[cfg(feature = "metrics")]
    crate::metrics::count_call(call.name, began.elapsed(), rows);
    outcome
}
