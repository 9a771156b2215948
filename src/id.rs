//! The ids. Each is a type of its own, so that one can't be passed for another, also in a service's queries and
//! entities.

use std::{fmt, str::FromStr};

use sea_orm::DeriveValueType;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, DeriveValueType,
        )]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Returns the bare UUID.
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("use dead_letters::", stringify!($name), ";")]
            /// use uuid::Uuid;
            ///
            /// let uuid = Uuid::new_v4();
            #[doc = concat!("assert_eq!(", stringify!($name), "::from(uuid).into_inner(), uuid);")]
            /// ```
            pub const fn into_inner(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_newtype! {
    /// The app, or tenant, that a dead letter belongs to.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::AppId;
    ///
    /// let app: AppId = "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01".parse()?;
    /// assert_eq!(AppId::from(app.into_inner()), app);
    /// # Ok::<(), uuid::Error>(())
    /// ```
    AppId
}
uuid_newtype! {
    /// A letter, which is a row of `dead_letters`. The repo makes UUIDv7 ids, so a later letter has a larger id.
    DeadLetterId
}
uuid_newtype! {
    /// The script that a trigger ran.
    ScriptId
}
uuid_newtype! {
    /// The trigger whose retries were used up.
    TriggerId
}
