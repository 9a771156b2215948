//! A `Debug` that shows no content, because it ends up in logs.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use crate::payload::nests_too_deep;

/// Implements `Debug` for a type. The fields after the semicolon are shown by their size.
macro_rules! debug_without_content {
    ($type:ident { $($shown:ident),*; $($content:ident),+ $(,)? }) => {
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                // The pattern names every field, so that a new field can't be forgotten.
                let Self { $($shown,)* $($content,)+ } = self;
                f.debug_struct(stringify!($type))
                    $(.field(stringify!($shown), $shown))*
                    $(.field(stringify!($content), &$crate::debug::Size::size($content)))+
                    .finish()
            }
        }
    };
}

pub(crate) use debug_without_content;

pub(crate) trait Size {
    fn size(&self) -> impl fmt::Debug;
}

impl Size for String {
    fn size(&self) -> impl fmt::Debug {
        fmt::from_fn(|f| write!(f, "{} bytes", self.len()))
    }
}

impl Size for Option<String> {
    fn size(&self) -> impl fmt::Debug {
        self.as_ref().map(Size::size)
    }
}

impl Size for Map<String, Value> {
    fn size(&self) -> impl fmt::Debug {
        fmt::from_fn(|f| write!(f, "{} fields", self.len()))
    }
}

impl Size for BTreeMap<String, String> {
    fn size(&self) -> impl fmt::Debug {
        fmt::from_fn(|f| write!(f, "{} fields", self.len()))
    }
}

impl Size for Value {
    fn size(&self) -> impl fmt::Debug {
        fmt::from_fn(|f| match nests_too_deep(self) {
            true => f.write_str("deeper than 127 levels"),
            false => write!(f, "{:?}", self.to_string().size()),
        })
    }
}
