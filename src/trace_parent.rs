//! The trace of an event, from its metadata.

use std::fmt;

use serde_json::{Map, Value};

/// The length of version 00.
const BYTES: usize = 55;

/// A `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header): the trace in which
/// an event failed, and the span in it.
///
/// # Examples
///
/// ```
/// use dead_letters::TraceParent;
///
/// let parent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// let parent = parent.ok_or("not a traceparent")?;
/// assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(parent.span_id(), "00f067aa0ba902b7");
/// assert_eq!(TraceParent::parse("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
/// # Ok::<_, &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    /// The key of the metadata that holds the `traceparent`. It is the name of the HTTP header.
    pub const KEY: &str = "traceparent";

    /// Parses a `traceparent`. Returns `None` if the text is not one.
    ///
    /// Text of a version above 00 may go on after the flags, with a dash. Its beginning is then read as version 00, as
    /// the recommendation says. Version ff, upper case, and an id of zeros only are invalid.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::TraceParent;
    ///
    /// assert!(TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_some());
    /// // Version ff is invalid.
    /// assert_eq!(TraceParent::parse("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let (parent, rest) = text.split_at_checked(BYTES)?;
        let mut parts = parent.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            if is_hex { u128::from_str_radix(part, 16).ok() } else { None }
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_complete = rest.is_empty() || (version > 0 && rest.starts_with('-'));
        let is_valid = is_complete && version != 0xff && trace_id != 0 && span_id != 0;
        is_valid.then_some(Self {
            trace_id,
            span_id: span_id.try_into().ok()?,
            flags: flags.try_into().ok()?,
        })
    }

    /// Returns the `traceparent` of a letter's [metadata](crate::DeadLetterRow::metadata), the value of its key
    /// `traceparent`. Returns `None` if the metadata has no valid one.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{TraceParent, testing};
    ///
    /// let mut letter = testing::row(uuid::Uuid::nil().into());
    /// assert_eq!(TraceParent::of(&letter.metadata), None);
    /// let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// letter.metadata.insert(TraceParent::KEY.to_owned(), parent.into());
    /// assert_eq!(TraceParent::of(&letter.metadata), TraceParent::parse(parent));
    /// ```
    pub fn of(metadata: &Map<String, Value>) -> Option<Self> {
        metadata.get(Self::KEY)?.as_str().and_then(Self::parse)
    }

    /// Returns the `traceparent` of the current [`tracing`] span, for the [metadata](crate::NewDeadLetter::metadata) of a
    /// letter. Returns `None` outside a span, and if the service's subscriber has no layer of `tracing-opentelemetry` 0.34.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{NewDeadLetter, TraceParent, testing};
    /// use opentelemetry::trace::TracerProvider;
    /// use opentelemetry_sdk::trace::SdkTracerProvider;
    /// use tracing_subscriber::layer::SubscriberExt;
    ///
    /// // A service has such a subscriber already, with an exporter.
    /// let tracer = SdkTracerProvider::builder().build().tracer("orders");
    /// let subscriber = tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer));
    /// tracing::subscriber::with_default(subscriber, || {
    ///     let _span = tracing::info_span!("deliver").entered();
    ///     # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    ///     let mut letter = testing::letter(app);
    ///     if let Some(parent) = TraceParent::current() {
    ///         letter.metadata.insert(TraceParent::KEY.to_owned(), parent.to_string().into());
    ///     }
    ///     assert_eq!(TraceParent::of(&letter.metadata), TraceParent::current());
    ///     assert!(TraceParent::current().is_some());
    /// });
    /// ```
    #[cfg(feature = "opentelemetry")]
    pub fn current() -> Option<Self> {
        use opentelemetry::trace::TraceContextExt;
        use tracing_opentelemetry::OpenTelemetrySpanExt;

        let context = tracing::Span::current().context();
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| Self {
            trace_id: u128::from_be_bytes(span.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(span.span_id().to_bytes()),
            flags: span.trace_flags().to_u8(),
        })
    }

    /// Returns the id of the trace: 32 hexadecimal digits, in lower case.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::TraceParent;
    ///
    /// let parent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    /// assert_eq!(parent.map(TraceParent::trace_id).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    /// ```
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Returns the id of the span, which the recommendation calls parent-id: 16 hexadecimal digits, in lower case.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::TraceParent;
    ///
    /// let parent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    /// assert_eq!(parent.map(TraceParent::span_id).as_deref(), Some("00f067aa0ba902b7"));
    /// ```
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span_id)
    }
}

/// Writes version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_of_version_00_is_read_and_written_back() {
        let read = TraceParent::parse(PARENT).unwrap();
        assert_eq!(read.to_string(), PARENT);
        let ids = (read.trace_id(), read.span_id());
        assert_eq!(ids, ("4bf92f3577b34da6a3ce929d0e0e4736".to_owned(), "00f067aa0ba902b7".to_owned()));
    }

    #[test]
    fn a_newer_version_is_read_as_version_00_whatever_follows_a_dash() {
        for newer in [PARENT.replacen("00", "01", 1), PARENT.replacen("00", "fe", 1) + "-more-ü"] {
            assert_eq!(TraceParent::parse(&newer), TraceParent::parse(PARENT), "{newer}");
        }
    }

    #[test]
    fn a_text_that_is_no_traceparent_is_none() {
        let wrong = [
            String::new(),
            PARENT[..54].to_owned(),
            format!("{PARENT}-more"),
            format!("{PARENT} "),
            PARENT.replacen("00", "01", 1) + "more",
            PARENT.replacen("00", "ff", 1),
            PARENT.replace("4bf", "4BF"),
            PARENT.replace("4bf", "+bf"),
            PARENT.replace("4bf", "4xf"),
            PARENT.replace('-', "_"),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7-01-".to_owned(),
            "ü".repeat(28),
        ];
        for text in wrong {
            assert_eq!(TraceParent::parse(&text), None, "{text}");
        }
    }

    #[cfg(feature = "opentelemetry")]
    #[test]
    fn the_current_traceparent_is_that_of_the_span_and_none_outside_one() {
        use opentelemetry::trace::{TraceContextExt, TracerProvider};
        use opentelemetry_sdk::trace::SdkTracerProvider;
        use tracing_opentelemetry::OpenTelemetrySpanExt;
        use tracing_subscriber::layer::SubscriberExt;

        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert_eq!(TraceParent::current(), None);
            let outer = tracing::info_span!("outer");
            let context = outer.context();
            let (trace_id, span_id) = {
                let span = context.span();
                (span.span_context().trace_id().to_string(), span.span_context().span_id().to_string())
            };
            let outer = outer.entered();
            let parent = TraceParent::current().unwrap();
            assert_eq!((parent.trace_id(), parent.span_id()), (trace_id.clone(), span_id.clone()));
            assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
            let inner = tracing::info_span!("inner").entered();
            let parent = TraceParent::current().unwrap();
            assert!(parent.trace_id() == trace_id && parent.span_id() != span_id);
            drop((inner, outer));
        });
        let plain = tracing_subscriber::registry();
        tracing::subscriber::with_default(plain, || {
            let _span = tracing::info_span!("span").entered();
            assert_eq!(TraceParent::current(), None);
        });
    }

    #[test]
    fn the_traceparent_of_metadata_is_the_text_of_its_key() {
        let of = |metadata: Value| TraceParent::of(metadata.as_object().unwrap());
        assert_eq!(of(json!({ "traceparent": PARENT, "tenant": 1 })), TraceParent::parse(PARENT));
        for none in [json!({}), json!({ "traceparent": 1 }), json!({ "Traceparent": PARENT })] {
            assert_eq!(of(none), None);
        }
    }
}
