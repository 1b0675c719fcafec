//! The values that tests render the chart with, and what comes of them.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::helm::{Helm, chart, label, pod_of};

/// With nothing that can be left out.
pub const MINIMAL: [&str; 12] = [
    "--set=nats.builtIn.enabled=false",
    "--set=nats.url=nats://nats.nats.svc:4222",
    "--set=crds.upgrade=Off",
    "--set=peopleRoles=false",
    "--set=networkPolicy.enabled=false",
    "--set=test.enabled=false",
    "--set=gateway.replicas=1",
    "--set=operator.resources=null",
    "--set=gateway.resources=null",
    "--set=gateway.maxUnavailable=50%",
    "--set=operator.logFormat=text",
    "--set=gateway.logFormat=text",
];

/// With everything that can be switched on.
const EVERYTHING: &str = r#"
image: { pullSecrets: [registry] }
publicUrl: https://push.example/
clusterId: one
nats: { builtIn: { storage: { syncAlways: true, className: fast } } }
operator:
  replicas: 2
  watchNamespaces: [shop, news]
  subjectGrants: [{ namespaces: [shop], subjects: ["orders.>"] }]
  quotas: [{ namespaces: [shop], channels: 20, bytes: 10Gi }]
  podAnnotations: { example.com/a: b }
  podLabels: { team: push }
  nodeSelector: { disk: ssd }
  tolerations: [{ key: dedicated, operator: Exists }]
  priorityClassName: high
gateway:
  config: { issuers: [] }
  secrets: [issuer-keys]
  demo: true
  tls: { secretName: push-tls }
  drain: { delaySeconds: 15, windowSeconds: 60 }
  maxConnections: 50000
  maxSubscribers: 40000
  trustedProxies: [10.0.0.0/8]
  service: { type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: [192.0.2.0/24] }
  autoscaling: { enabled: true, connections: 20000 }
  podLabels: { team: push }
ingress: { enabled: true, hosts: [push.example], tlsSecret: push-tls }
httpRoute: { enabled: true, parentRefs: [{ name: public }], hostnames: [push.example] }
networkPolicy:
  monitoring: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: monitoring } } }]
  publishers: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: shop } } }]
monitoring:
  serviceMonitor: { enabled: true }
  rules: { enabled: true, labels: { release: prometheus } }
  dashboard: { enabled: true }
"#;

/// A start for production, as the chart ships it: an argument of helm.
pub fn production() -> String {
    format!("--values={}/values-production.yaml", chart())
}

/// With everything that can be switched on, in a file for helm to read: an argument of helm.
pub fn everything(directory: &Path) -> Result<String> {
    let file = directory.join("everything.yaml");
    std::fs::write(&file, EVERYTHING)?;
    Ok(format!("--values={}", file.display()))
}

/// All that the chart can be, as a release `tidings` in `tidings-system`.
pub async fn renderings() -> Result<Vec<(&'static str, Vec<Value>)>> {
    let helm = Helm::find().await?;
    let directory = tempfile::tempdir()?;
    let (production, everything) = (production(), everything(directory.path())?);
    let of = async |arguments: &[&str]| helm.objects("tidings", "tidings-system", arguments).await;
    Ok(vec![
        ("default", of(&[]).await?),
        ("production", of(&[&production]).await?),
        ("minimal", of(&MINIMAL).await?),
        ("everything", of(&[&everything]).await?),
    ])
}

/// The pods of a rendering, each with the name of what makes it.
pub fn pods(objects: &[Value]) -> Vec<(String, Value)> {
    objects.iter().filter_map(|object| Some((label(object), pod_of(object)?.clone()))).collect()
}
