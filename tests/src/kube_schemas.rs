//! JSON schemas for `kubeconform`, made of what a live API server says about itself: nothing is downloaded.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::kubectl::Kubectl;

/// Writes `<kind>-<group>-<version>.json` for each of these `(apiVersion, kind)`, which the API server has to know.
/// Fields that the API server does not know are faults in them.
pub async fn write(kubectl: &Kubectl, kinds: &BTreeSet<(String, String)>, directory: &Path) -> Result<()> {
    let read =
        async |path: &str| -> Result<Value> { Ok(serde_json::from_str(&kubectl.run(&["get", "--raw", path]).await?)?) };
    let index = read("/openapi/v3").await?;
    let versions: BTreeSet<&str> = kinds.iter().map(|(version, _)| version.as_str()).collect();
    for api_version in versions {
        let path = if api_version.contains('/') { format!("apis/{api_version}") } else { format!("api/{api_version}") };
        let url = index["paths"][&path]["serverRelativeURL"].as_str();
        let mut document = read(url.with_context(|| format!("the API server does not serve {api_version}"))?).await?;
        let schemas = document["components"]["schemas"].as_object_mut().context("no schemas")?;
        schemas.values_mut().for_each(close);
        for (_, kind) in kinds.iter().filter(|(version, _)| version == api_version) {
            let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
            let known = json!({"group": group, "kind": kind, "version": version});
            let is_it = |schema: &Value| {
                let names = schema["x-kubernetes-group-version-kind"].as_array();
                names.is_some_and(|names| names.contains(&known))
            };
            let name = schemas.iter().find(|(_, schema)| is_it(schema)).map(|(name, _)| name);
            let name = name.with_context(|| format!("the API server does not know {kind} in {api_version}"))?;
            let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": {"schemas": &schemas}});
            // What kubeconform calls `{{ .ResourceKind }}{{ .KindSuffix }}`.
            let group = group.split('.').next().unwrap_or_default();
            let group = if group.is_empty() { String::new() } else { format!("{group}-") };
            let file = directory.join(format!("{}-{group}{version}.json", kind.to_lowercase()));
            std::fs::write(&file, schema.to_string()).with_context(|| format!("failed to write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Objects with known fields have no others.
fn close(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let open =
        fields.contains_key("additionalProperties") || fields.contains_key("x-kubernetes-preserve-unknown-fields");
    if fields.contains_key("properties") && !open {
        fields.insert("additionalProperties".into(), Value::Bool(false));
    }
}
