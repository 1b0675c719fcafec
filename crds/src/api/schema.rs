//! The Channel's schema applied to a document: what the API server would refuse, and what it would fill in.
//!
//! Only what our own schema uses is known here (objects, arrays, strings, integers, booleans, enums, bounds, patterns,
//! quantities); a test says that it uses nothing else.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::api::definition::schema;
use crate::name::fault::Fault;

/// A DNS label, as the schema writes it.
const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// What is wrong with `value` at `path`, an object's part that the schema at `path` describes (`spec`, `status`).
///
/// Unknown fields are faults, as they are for `kubectl apply`. `null` is the same as absence.
pub fn faults(path: &str, value: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(schema) = part(path) {
        check(schema, value, path, &mut faults);
    }
    faults
}

/// `value` with the defaults of the schema at `path` in it, and without `null`.
pub fn with_defaults(path: &str, value: Value) -> Value {
    part(path).map_or_else(|| value.clone(), |schema| fill(schema, value.clone()))
}

fn part(path: &str) -> Option<&'static Value> {
    schema().get("properties")?.get(path)
}

fn check(schema: &Value, value: &Value, path: &str, faults: &mut Vec<Fault>) {
    let fault = |message: String| Fault::new(path, message);
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        match value {
            Value::String(text) => faults.extend(check_text(schema, text).map(fault)),
            Value::Number(number) if number.is_i64() => {}
            _ => faults.push(fault(format!("write a number or a text, not {}", kind(value)))),
        }
        return;
    }
    match (schema.get("type").and_then(Value::as_str).unwrap_or_default(), value) {
        ("object", Value::Object(object)) => check_object(schema, object, path, faults),
        ("array", Value::Array(items)) => {
            if let Some(message) = outside(schema, "Items", items.len(), "entries") {
                faults.push(fault(message));
            }
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    check(schema, item, &format!("{path}[{at}]"), faults);
                }
            }
        }
        ("string", Value::String(text)) => faults.extend(check_text(schema, text).map(fault)),
        ("integer", Value::Number(number)) => faults.extend(check_number(schema, number).map(fault)),
        ("boolean", Value::Bool(_)) => {}
        (wanted, _) => faults.push(fault(format!("write {}, not {}", article(wanted), kind(value)))),
    }
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, faults: &mut Vec<Fault>) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for (key, value) in object {
        match properties.get(key) {
            Some(_) if value.is_null() => {}
            Some(schema) => check(schema, value, &format!("{path}.{key}"), faults),
            None => {
                let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                let message = format!("unknown field; the fields here are {}", known.join(", "));
                faults.push(Fault::new(format!("{path}.{key}"), message));
            }
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if object.get(name).is_none_or(Value::is_null) {
            faults.push(Fault::new(format!("{path}.{name}"), "this field is required"));
        }
    }
}

fn check_text(schema: &Value, text: &str) -> Option<String> {
    if let Some(known) = schema.get("enum").and_then(Value::as_array) {
        let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
        return (!known.contains(&text)).then(|| format!("write {}, not {text:?}", known.join(" or ")));
    }
    if let Some(message) = outside(schema, "Length", text.chars().count(), "characters") {
        return Some(message);
    }
    let pattern = schema.get("pattern").and_then(Value::as_str)?;
    (!matches(pattern, text)).then(|| match pattern {
        LABEL_PATTERN => format!("write lower case letters, digits and dashes, not {text:?}"),
        _ => format!("{text:?} does not match {pattern}"),
    })
}

fn check_number(schema: &Value, number: &serde_json::Number) -> Option<String> {
    let Some(value) = number.as_i64() else {
        return Some(format!("write a whole number of at most 63 bits, not {number}"));
    };
    // Bounds are written as floating point numbers; ours are far below 2^53, where these are exact.
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let (low, high) = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (f64::MIN, f64::MAX),
    };
    let (low, high) = (bound("minimum").unwrap_or(low), bound("maximum").unwrap_or(high));
    #[allow(clippy::cast_precision_loss, reason = "a value that loses precision is beyond every bound")]
    let value = value as f64;
    if value < low {
        Some(format!("write at least {low}"))
    } else if value > high {
        Some(format!("write at most {high}"))
    } else {
        None
    }
}

/// Whether a count lies outside `min<what>` and `max<what>`.
fn outside(schema: &Value, what: &str, count: usize, unit: &str) -> Option<String> {
    let bound = |end: &str| schema.get(format!("{end}{what}")).and_then(Value::as_u64).map(|n| usize::try_from(n).ok());
    match (bound("min").flatten(), bound("max").flatten()) {
        (Some(1), _) if count == 0 => Some("write something here, or leave the field out".to_owned()),
        (Some(min), _) if count < min => Some(format!("write at least {min} {unit}, not {count}")),
        (_, Some(max)) if count > max => Some(format!("write at most {max} {unit}, not {count}")),
        _ => None,
    }
}

/// Every pattern of the schema, compiled once.
fn matches(pattern: &str, text: &str) -> bool {
    static PATTERNS: LazyLock<BTreeMap<String, Regex>> = LazyLock::new(|| {
        let mut found = BTreeMap::new();
        collect(schema(), &mut found);
        found
    });
    PATTERNS.get(pattern).is_none_or(|regex| regex.is_match(text))
}

fn collect(schema: &Value, found: &mut BTreeMap<String, Regex>) {
    match schema {
        Value::Object(object) => {
            if let Some(pattern) = object.get("pattern").and_then(Value::as_str)
                && let Ok(regex) = Regex::new(pattern)
            {
                found.insert(pattern.to_owned(), regex);
            }
            object.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

fn fill(schema: &Value, value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut object: Map<String, Value> = object.into_iter().filter(|(_, value)| !value.is_null()).collect();
            for (key, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if let Some(value) = object.remove(key).or_else(|| schema.get("default").cloned()) {
                    object.insert(key.clone(), fill(schema, value));
                }
            }
            Value::Object(object)
        }
        Value::Array(items) => {
            let schema = schema.get("items").unwrap_or(&Value::Null);
            Value::Array(items.into_iter().map(|item| fill(schema, item)).collect())
        }
        other => other,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn article(wanted: &str) -> &str {
    match wanted {
        "object" => "an object",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
    }
}
