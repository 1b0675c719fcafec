//! Finds the line of a field in a YAML text.
//!
//! serde_yaml's values carry no positions, but its errors do: the text is read once more by a visitor that goes down the
//! path and fails there, and the error says where.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<'p> {
    /// Into the field of an object.
    Field(&'p str),
    /// Into the entry of a list.
    Entry(usize),
}

/// The line, counted from 1, of the field at `path` (as in `spec.subjects[0]`), or of the nearest thing above it that
/// exists. `None` if the text cannot be read.
pub fn line(text: &str, path: &str) -> Option<usize> {
    let steps: Vec<Step<'_>> = steps(path).collect();
    let mut wanted = steps.as_slice();
    loop {
        let reached = Cell::new(0);
        let seek = Seek { steps: wanted, taken: 0, reached: &reached };
        let error = seek.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        match wanted.get(..reached.get()) {
            Some(existing) if existing.len() < wanted.len() => wanted = existing,
            _ => return Some(error.location()?.line()),
        }
    }
}

/// The steps of a path as [`crate::name::fault::Fault`] writes it.
pub(crate) fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| {
        match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
            Some(index) => Step::Entry(index),
            None => Step::Field(part),
        }
    })
}

/// Reads a value, and fails at the end of the path, or where the path leads nowhere.
struct Seek<'s, 'p> {
    steps: &'s [Step<'p>],
    taken: usize,
    /// How many steps exist.
    reached: &'s Cell<usize>,
}

/// Reads a key, and fails if it is the last of the path. Whether it is on the path.
struct Key<'s, 'p>(&'s Seek<'s, 'p>);

const FOUND: &str = "found";

// === impl Seek ===

impl<'p> Seek<'_, 'p> {
    fn next(&self) -> Option<&Step<'p>> {
        self.steps.get(self.taken)
    }

    fn below(&self) -> Self {
        Self { steps: self.steps, taken: self.taken + 1, reached: self.reached }
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.reached.set(self.taken);
        deserializer.deserialize_any(self)
    }
}

/// Whatever is not on the way ends the search here.
macro_rules! stop {
    ($($visit:ident: $type:ty),+) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<(), E> {
            Err(E::custom(FOUND))
        })+
    };
}

impl<'de> Visitor<'de> for Seek<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    stop!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom(FOUND))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(on_path) = map.next_key_seed(Key(&self))? {
            if on_path {
                map.next_value_seed(self.below())?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Err(A::Error::custom(FOUND))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Some(Step::Entry(index)) = self.next() {
            for _ in 0..*index {
                if list.next_element::<IgnoredAny>()?.is_none() {
                    break;
                }
            }
            list.next_element_seed(self.below())?;
        }
        Err(A::Error::custom(FOUND))
    }
}

// === impl Key ===

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let seek = self.0;
        let on_path = matches!(seek.next(), Some(Step::Field(wanted)) if *wanted == key);
        if on_path && seek.taken + 1 == seek.steps.len() {
            seek.reached.set(seek.taken + 1);
            return Err(E::custom(FOUND));
        }
        Ok(on_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A comment.
kind: Channel
metadata: { name: a,
  namespace: b }
spec:
  subjects:
  - one
  - two
  access:
    subscribe:

      mode: Token
items:
- kind: X
  spec: {}
";

    #[test]
    fn fields_are_found_by_their_path() {
        for (path, expected) in [
            ("kind", 2),
            ("metadata", 3),
            ("metadata.namespace", 4),
            ("spec.subjects", 6),
            ("spec.subjects[1]", 8),
            ("spec.access.subscribe.mode", 12),
            ("items[0].spec", 15),
        ] {
            assert_eq!(line(TEXT, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_does_not_exist_is_found_at_the_nearest_thing_that_does() {
        assert_eq!(line(TEXT, ""), Some(2));
        assert_eq!(line(TEXT, "nothing"), Some(2));
        assert_eq!(line(TEXT, "kind.deeper"), Some(2));
        assert_eq!(line(TEXT, "spec.nothing"), Some(5));
        assert_eq!(line(TEXT, "spec.nothing.deeper[1]"), Some(5));
        assert_eq!(line(TEXT, "spec.subjects[7]"), Some(6));
        assert_eq!(line(TEXT, "spec.access.subscribe.topics"), Some(10));
    }

    #[test]
    fn a_path_is_steps() {
        let read: Vec<_> = steps("items[3].spec.subjects[12]").collect();
        let expected =
            [Step::Field("items"), Step::Entry(3), Step::Field("spec"), Step::Field("subjects"), Step::Entry(12)];
        assert_eq!(read, expected);
    }
}
