//! The reference of the Channel as Markdown, from the same types as the schema.

use std::fmt::Write;

use serde_json::Value;

use crate::api::condition::{AcceptedReason, ProgrammedReason, ReadyReason, Reason};
use crate::api::definition::{COLUMNS, schema};

const HEAD: &str = "\
<!-- Generated from the types in crds/ by `make generate`. Do not edit. -->
# Channel

`channels.tidings.dev`, `apiVersion: tidings.dev/v1alpha1`, namespaced, short name `tch`, category `tidings`. Knative has a kind of the
same name: where both are installed, write `kubectl get channels.tidings.dev`. The fields are also what
`kubectl explain channels.tidings.dev.spec` shows.

A Channel's name is a DNS label without dots, because it becomes a part of NATS subjects. `spec` may be left out: then
everything has its default. A whole manifest:

```yaml
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata:
  name: orders
  namespace: shop
spec:
  history: { maxAgeSeconds: 86400, maxBytes: 1Gi }
  access:
    subscribe: { mode: Token, topics: [all, \"user.{sub}\"] }
```

";

const RULES: &str = "\
## Rules

Beside the types and bounds above, the API server (and `tidings-operator check`, without a cluster) refuses what breaks
one of these rules.

| field | rule |
|---|---|
";

const CONDITIONS: &str = "\
## Conditions

Every condition always carries a reason, a message and the generation it was found at, so `kubectl wait` does not take
the state of an older specification for that of the newest. A reason belongs to one condition and implies its status.

";

/// The page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let part = |name: &str| schema().get("properties").and_then(|properties| properties.get(name));
    if let Some(spec) = part("spec") {
        object(&mut page, "spec", spec);
    }
    page.push_str(RULES);
    rules(&mut page, "", schema());
    if let Some(spec) = part("spec") {
        rules(&mut page, "spec", spec);
    }
    page.push('\n');
    if let Some(status) = part("status") {
        object(&mut page, "status", status);
    }
    page.push_str(CONDITIONS);
    reasons(
        &mut page,
        "Is the specification in order, and may the Channel have what it asks for?",
        AcceptedReason::ALL,
    );
    reasons(&mut page, "Are stream and route in place?", ProgrammedReason::ALL);
    let ready = "Do the gateways serve the channel as it is written? The first reason that applies, in this order, is \
                 the one given.";
    reasons(&mut page, ready, ReadyReason::ALL);
    columns(&mut page);
    page
}

/// The fields of an object as a table, then the objects among them.
fn object(page: &mut String, path: &str, schema: &Value) {
    line(page, format_args!("## {path}\n\n{}\n", text(schema, "description")));
    line(page, format_args!("| field | type | default | meaning |\n|---|---|---|---|"));
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, field) in properties.into_iter().flatten() {
        let default = match field.get("default") {
            Some(default) if !default.is_object() => format!("`{}`", default.to_string().replace('"', "")),
            _ => String::new(),
        };
        let (kind, meaning) = (kind(field), text(field, "description"));
        line(page, format_args!("| `{name}` | {kind} | {default} | {meaning} |"));
    }
    page.push('\n');
    for (name, field) in properties.into_iter().flatten() {
        if field.get("properties").is_some() {
            object(page, &format!("{path}.{name}"), field);
        }
    }
}

fn kind(field: &Value) -> String {
    let bound = |name: &str| field.get(name).and_then(Value::as_f64);
    if field.get("x-kubernetes-int-or-string").is_some() {
        return "quantity".to_owned();
    }
    if let Some(values) = field.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    match field.get("type").and_then(Value::as_str).unwrap_or_default() {
        "array" => {
            let most = field.get("maxItems").and_then(Value::as_u64).unwrap_or_default();
            let item = field.get("items").map(kind).unwrap_or_default();
            format!("list of {item}, at most {most}")
        }
        "integer" => match (bound("minimum"), bound("maximum")) {
            (Some(low), Some(high)) => format!("integer, {low} to {high}"),
            (Some(low), None) => format!("integer, at least {low}"),
            _ => "integer".to_owned(),
        },
        other => other.to_owned(),
    }
}

fn rules(page: &mut String, path: &str, schema: &Value) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let field = rule.get("fieldPath").and_then(Value::as_str).unwrap_or(".metadata.name");
        let field = format!("{path}{field}");
        line(page, format_args!("| `{}` | {} |", field.trim_start_matches('.'), text(rule, "message")));
    }
}

fn reasons<R: Reason>(page: &mut String, question: &str, reasons: &[R]) {
    line(page, format_args!("### {}\n\n{question}\n\n| reason | status | meaning |\n|---|---|---|", R::TYPE));
    for reason in reasons {
        let (name, status, meaning) = (reason.as_str(), reason.status().as_str(), escaped(reason.meaning()));
        line(page, format_args!("| `{name}` | {status} | {meaning} |"));
    }
    page.push('\n');
}

fn columns(page: &mut String) {
    line(page, format_args!("## Columns of `kubectl get tch`\n\n| column | meaning |\n|---|---|"));
    for column in &COLUMNS {
        let wide = if column.wide { " (`-o wide`)" } else { "" };
        line(page, format_args!("| {}{wide} | {} |", column.name, column.description));
    }
}

fn line(page: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(page, "{line}");
}

fn text(schema: &Value, key: &str) -> String {
    escaped(schema.get(key).and_then(Value::as_str).unwrap_or_default())
}

/// One line, with nothing in it that Markdown would read as its own.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for part in text.split('\n').map(str::trim) {
        if !escaped.is_empty() {
            escaped.push(' ');
        }
        for c in part.chars() {
            if matches!(c, '*' | '_' | '|' | '<' | '>' | '`' | '[' | ']') {
                escaped.push('\\');
            }
            escaped.push(c);
        }
    }
    escaped
}
