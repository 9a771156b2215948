//! The texts of enums that are stored, serialized or parsed as one word.

/// Gives an enum the list of its variants, the text of each, and `Display`. With an error for any other text, the enum
/// also gets `FromStr`.
macro_rules! words {
    (
        $type:ident { $($variant:ident = $text:literal),+ $(,)? }
        $(#[$doc:meta])+
        as_str
        $(, or |$other:ident| $error:expr)?
    ) => {
        impl $type {
            /// All variants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            $(#[$doc])+
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        $(
            impl std::str::FromStr for $type {
                type Err = $crate::DeadLetterRepoError;

                fn from_str($other: &str) -> Result<Self, Self::Err> {
                    Self::ALL.iter().copied().find(|word| word.as_str() == $other).ok_or_else(|| $error)
                }
            }
        )?
    };
}
pub(crate) use words;
