//! What a token says of its bearer, and how that becomes a part of a topic. Pure.
//!
//! The value of a claim becomes one subject token, or a part of one, as `encodeURIComponent` of browsers writes it, with
//! `.` and `*` encoded as well: `ann@shop.example` is `ann%40shop%2Eexample`. Two values never become the same token, and
//! none becomes a wildcard, two tokens, or nothing.

use serde_json::{Map, Value};

/// The claims of a verified token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

/// The most values of one claim that count; an identity provider sends at most a few hundred groups.
pub const MAX_VALUES: usize = 256;

// === impl Claims ===

impl Claims {
    /// These claims.
    pub fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// The values of a claim as texts: one of a text or a whole number, several of a list, none of anything else.
    ///
    /// A name is first taken as it stands, so that `https://shop.example/role` is one; else its dots lead into objects, so
    /// that `realm_access.roles` finds `{"realm_access": {"roles": […]}}`. A dot that belongs to a name on the way is written `\.`, as in
    /// `resource_access.my\.app.roles`.
    pub fn values(&self, name: &str) -> Vec<String> {
        match self.find(name) {
            Some(Value::Array(values)) => values.iter().filter_map(text).take(MAX_VALUES).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A claim as it is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            let mut steps = steps(name).into_iter();
            let first = self.0.get(&steps.next()?)?;
            steps.try_fold(first, |value, step| value.get(&step))
        })
    }
}

impl FromIterator<(String, Value)> for Claims {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(claims: T) -> Self {
        Self(claims.into_iter().collect())
    }
}

/// The names along a path: parted by dots, but for those with a backslash before them.
fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut step) = (Vec::new(), String::new());
    let mut rest = path.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.peek() == Some(&'.') => step.extend(rest.next()),
            '.' => steps.push(std::mem::take(&mut step)),
            c => step.push(c),
        }
    }
    steps.push(step);
    steps
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// The value of a claim as a part of a subject token. An empty value is none: a token cannot be empty.
pub fn encoded(value: &str) -> Option<String> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).map_or('0', |digit| char::from(*digit));
    let mut token = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_!~'()".contains(&byte) {
            token.push(char::from(byte));
        } else {
            token.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        Claims::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_claim_is_found_by_its_whole_name_or_along_its_dots() {
        let claims = claims(json!({
            "sub": "42", "n": 42, "groups": ["a", 7, {"x": 1}, null, "b"], "realm_access": {"roles": ["r"]},
            "resource_access": {"my.app": {"roles": ["x"]}, "my": {"app": {"roles": ["y"]}}}, "c.d": {"e": "dotted"},
            "https://shop.example/role": "clerk", "a.b": "whole", "a": {"b": "along"}, "f": 1.5, "o": {}, "t": true,
        }));
        for (name, values) in [
            ("sub", &["42"][..]),
            ("n", &["42"]),
            ("groups", &["a", "7", "b"]),
            ("realm_access.roles", &["r"]),
            ("https://shop.example/role", &["clerk"]),
            ("a.b", &["whole"]),
            ("resource_access.my\\.app.roles", &["x"]),
            ("resource_access.my.app.roles", &["y"]),
            ("c\\.d.e", &["dotted"]),
            ("c\\.d\\.e", &[]),
            ("t", &["true"]),
            ("f", &[]),
            ("o", &[]),
            ("missing", &[]),
            ("sub.x", &[]),
            ("missing.x", &[]),
        ] {
            assert_eq!(claims.values(name), values, "{name}");
        }
    }

    #[test]
    fn values_are_encoded_as_in_browsers_and_their_dots_and_stars_too() {
        for (value, token) in [
            ("42", "42"),
            ("ann@shop.example", "ann%40shop%2Eexample"),
            ("auth0|5f", "auth0%7C5f"),
            ("*", "%2A"),
            (">", "%3E"),
            ("a b", "a%20b"),
            ("%2E", "%252E"),
            ("é", "%C3%A9"),
            ("-_!~'()", "-_!~'()"),
            ("\r\n\0", "%0D%0A%00"),
        ] {
            assert_eq!(encoded(value).as_deref(), Some(token), "{value:?}");
        }
        assert_eq!(encoded(""), None);
    }

    proptest! {
        #[test]
        fn two_values_never_become_the_same_token(a in ".*", b in ".*") {
            prop_assert_eq!(encoded(&a) == encoded(&b), a == b);
        }

        #[test]
        fn a_value_becomes_one_literal_token(value in ".+") {
            let token = encoded(&value).unwrap();
            prop_assert!(token.bytes().all(|b| b.is_ascii_graphic() && !b".*>".contains(&b)), "{}", token);
            prop_assert!(token.chars().all(tidings_crds::template::stands_in_values), "{}", token);
            let decoded = percent_encoding::percent_decode_str(&token).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(decoded, value);
        }
    }
}
