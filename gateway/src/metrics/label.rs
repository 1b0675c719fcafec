//! Closed sets of words: each is a log field and a metric label at once.
//!
//! A label taken from anything else than a closed set could grow without bound.

/// A closed set of words.
pub trait ClosedSet: Copy + 'static {
    /// Every member, in the order of [`ClosedSet::index`].
    const ALL: &'static [Self];

    /// The word, in kebab case.
    fn as_str(self) -> &'static str;

    /// The place in [`ClosedSet::ALL`].
    fn index(self) -> usize;
}

/// Declares an enum whose variants are the words of a [`ClosedSet`], with `as_str` and `Display`.
macro_rules! closed_set {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// The word: a log field and a metric label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::metrics::label::ClosedSet for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                $name::as_str(self)
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use closed_set;
