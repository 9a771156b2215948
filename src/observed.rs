//! The observation of each call: a span, its outcome in the span, and the metrics.

use std::{future::Future, pin::Pin};

use tracing::{Instrument, Span, debug, warn};

use crate::DeadLetterRepoError;

/// A call to observe. [`call!`] makes it.
pub(crate) struct Call {
    #[cfg(feature = "metrics")]
    pub(crate) name: &'static str,
    pub(crate) span: Span,
}

/// Makes a call to observe from its name and the other fields of its span. The name is the label of the metrics, and
/// a part of the span's name.
macro_rules! call {
    ($name:literal $(, $($field:tt)+)?) => {
        $crate::observed::Call {
            #[cfg(feature = "metrics")]
            name: $name,
            span: tracing::info_span!(
                target: "dead_letters",
                concat!("dead_letters.", $name),
                $($($field)+,)?
                rows = tracing::field::Empty
            ),
        }
    };
}
pub(crate) use call;

/// Runs a call in its span, and records the outcome there: the number of letters, an error such as "not found" at
/// DEBUG, a failure at WARN. A call that is dropped is not counted.
///
/// The caller pins the call, because each move would copy it, and some calls are several kilobytes large.
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
