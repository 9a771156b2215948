//! Setters of requests and settings, so that a new field is not a breaking change.

/// Implements a setter for each field. A `plain` field takes its value. An optional field takes a value or an `Option`
/// (`some`), or everything that converts into its value (`into`).
macro_rules! setters {
    ($type:ident { $($kind:ident $field:ident: $value:ty),+ $(,)? }) => {
        impl $type {
            $($crate::setters::setters! { @ $kind $field $value })+
        }
    };
    (@ plain $field:ident $value:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: $value) -> Self {
            self.$field = $field;
            self
        }
    };
    (@ some $field:ident $value:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: impl Into<Option<$value>>) -> Self {
            self.$field = $field.into();
            self
        }
    };
    (@ into $field:ident $value:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: impl Into<$value>) -> Self {
            self.$field = Some($field.into());
            self
        }
    };
}
pub(crate) use setters;
