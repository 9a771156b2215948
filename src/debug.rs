//! `Debug` that shows no content: it ends up in logs.

use std::fmt;

use serde_json::Value;

use crate::payload::nests_too_deep;

/// `Debug` of a type, in which the fields behind the semicolon are shown by their size.
macro_rules! debug_without_content {
    ($type:ident { $($shown:ident),+; $($content:ident),+ $(,)? }) => {
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                // None is forgotten.
                let Self { $($shown,)+ $($content,)+ } = self;
                f.debug_struct(stringify!($type))
                    $(.field(stringify!($shown), $shown))+
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

impl Size for Value {
    fn size(&self) -> impl fmt::Debug {
        fmt::from_fn(|f| match nests_too_deep(self) {
            true => f.write_str("deeper than 127 levels"),
            false => write!(f, "{:?}", self.to_string().size()),
        })
    }
}
