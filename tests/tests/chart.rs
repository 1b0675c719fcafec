//! The chart, without nodes: what it renders, and what a real API server says to that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_tests::helm::{Helm, chart, documents, label, pod_of};
use tidings_tests::kube_cluster::KubeCluster;
use tidings_tests::kube_schemas;
use tidings_tests::network_policy::{Endpoint, NetworkPolicies, PodFacts};
use tidings_tests::process::{Program, repository};
use tidings_tests::wait::{PATIENCE, eventually};

/// With nothing that can be left out.
const MINIMAL: [&str; 12] = [
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

fn production() -> String {
    format!("--values={}/values-production.yaml", chart())
}

/// The same values in a file, for helm to read.
fn everything(directory: &Path) -> Result<String> {
    let file = directory.join("everything.yaml");
    std::fs::write(&file, EVERYTHING)?;
    Ok(format!("--values={}", file.display()))
}

/// All that the chart can be, as a release `tidings` in `tidings-system`.
async fn renderings() -> Result<Vec<(&'static str, Vec<Value>)>> {
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

/// Passwords are made anew with each rendering.
fn without_passwords(yaml: &str) -> String {
    let lines = yaml.lines().map(|line| match line.split_once("-password: ") {
        Some((name, value)) if !value.contains(' ') => format!("{name}-password: <made>"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn lint_finds_nothing_even_when_strict() -> Result<()> {
    let helm = Helm::find().await?;
    helm.run(&["lint", "--strict", &chart()]).await?;
    helm.run(&["lint", "--strict", &chart(), &production()]).await?;
    helm.run(&[&["lint", "--strict", &chart()], &MINIMAL[..]].concat()).await?;
    Ok(())
}

#[tokio::test]
async fn renders_as_it_did() -> Result<()> {
    let helm = Helm::find().await?;
    let directory = tempfile::tempdir()?;
    let (production, everything) = (production(), everything(directory.path())?);
    let of = async |arguments: &[&str]| helm.render("tidings", "tidings-system", arguments).await;
    insta::assert_snapshot!("default", without_passwords(&of(&[]).await?));
    insta::assert_snapshot!("production", without_passwords(&of(&[&production]).await?));
    insta::assert_snapshot!("minimal", without_passwords(&of(&MINIMAL).await?));
    insta::assert_snapshot!("everything", without_passwords(&of(&[&everything]).await?));
    Ok(())
}

#[tokio::test]
async fn a_wrong_value_is_refused_by_its_name() -> Result<()> {
    let helm = Helm::find().await?;
    let cases: [(&[&str], &str); 16] = [
        (&["--set=gateway.replica=2"], "additional properties 'replica' not allowed"),
        (&["--set=operator.replicas=two"], "at '/operator/replicas': got string, want integer"),
        (&["--set=image.digest=sha256:abc"], "at '/image/digest'"),
        (&["--set=image.pullPolicy=Sometimes"], "at '/image/pullPolicy'"),
        (&["--set=publicUrl=push.example"], "at '/publicUrl'"),
        (&["--set=className=Upper"], "at '/className'"),
        (&["--set=gateway.drain.delaySeconds=5s"], "at '/gateway/drain/delaySeconds'"),
        (&["--set=gateway.trustedProxies={proxy}"], "at '/gateway/trustedProxies/0'"),
        (&["--set=nats.url=nats.example", "--set=nats.builtIn.enabled=false"], "at '/nats/url'"),
        (&["--set=nats.builtIn.enabled=false"], "nats.url: write where your NATS is"),
        (&["--set=nats.url=nats://n:4222"], "nats.url: it has no effect while nats.builtIn.enabled"),
        (&["--set=nats.tls.caSecret=ca"], "nats.tls.caSecret: it has no effect"),
        (&["--set=ingress.enabled=true"], "ingress.hosts: write at least one"),
        (&["--set=httpRoute.enabled=true"], "httpRoute.parentRefs: name the Gateway"),
        (
            &["--set=gateway.autoscaling.enabled=true", "--set=gateway.autoscaling.minReplicas=20"],
            "gateway.autoscaling.minReplicas: it is larger",
        ),
        (
            &["--set=monitoring.podMonitor.enabled=true", "--set=monitoring.serviceMonitor.enabled=true"],
            "monitoring.serviceMonitor.enabled: with monitoring.podMonitor.enabled",
        ),
    ];
    let chart = chart();
    for (arguments, expected) in cases {
        let complaint = helm.refused(&[&["template", "tidings", &chart], arguments].concat()).await?;
        assert!(complaint.contains(expected), "{arguments:?}: {complaint}");
    }
    Ok(())
}

#[tokio::test]
async fn versions_are_those_of_the_programs() -> Result<()> {
    let described: Value = serde_yaml::from_str(&std::fs::read_to_string(Path::new(&chart()).join("Chart.yaml"))?)?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&described["version"], &described["appVersion"]), (&json!(version), &json!(version)));
    let pinned = std::fs::read_to_string(repository().join("scripts/nats-server.sh"))?;
    let values: Value = serde_yaml::from_str(&std::fs::read_to_string(Path::new(&chart()).join("values.yaml"))?)?;
    let tag = values["nats"]["builtIn"]["image"]["tag"].as_str().context("no tag")?;
    assert!(pinned.contains(&format!("\nversion={tag}\n")), "the built-in NATS is {tag}, the tests' is not");
    Ok(())
}

#[tokio::test]
async fn names_carry_the_release_and_cluster_wide_ones_the_namespace_too() -> Result<()> {
    let helm = Helm::find().await?;
    let directory = tempfile::tempdir()?;
    let everything = everything(directory.path())?;
    for object in helm.objects("push", "edge", &[&everything]).await? {
        let name = object["metadata"]["name"].as_str().context("no name")?.to_owned();
        match object["metadata"]["namespace"].as_str() {
            Some("edge") => assert!(name == "push" || name.starts_with("push-"), "{}", label(&object)),
            // The operator's rights where it watches, and those of the test.
            Some(other) => {
                assert!(["shop", "news"].contains(&other), "{}", label(&object));
                assert!(name.starts_with("edge:push:") || name == "push-test", "{}", label(&object));
            }
            None => assert!(name.starts_with("edge:push:"), "{}", label(&object)),
        }
        assert!(!object.to_string().contains("tidings-system"), "{}", label(&object));
    }
    Ok(())
}

/// What decides about rights: kind, names, rules, whom they are bound to, and the labels that merge roles.
fn rights(objects: &[Value]) -> BTreeMap<String, Value> {
    let kinds = ["ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"];
    let of_release = objects.iter().filter(|object| {
        kinds.iter().any(|kind| object["kind"] == *kind) && object["metadata"]["annotations"]["helm.sh/hook"].is_null()
    });
    let essence = |object: &Value| {
        let labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let merged: BTreeMap<_, _> = labels.into_iter().filter(|(key, _)| key.contains("/aggregate-to-")).collect();
        let parts = ["rules", "subjects", "roleRef"].map(|part| object.get(part).cloned());
        json!([object["metadata"]["namespace"], merged, parts])
    };
    of_release.map(|object| (label(object), essence(object))).collect()
}

#[tokio::test]
async fn rights_are_those_that_the_tests_run_with() -> Result<()> {
    let manifests = repository().join("tests/manifests");
    let shipped = std::fs::read_to_string(manifests.join("release-rights.yaml"))?;
    // In the chart these names carry namespace and release, so that releases do not share them.
    let people = std::fs::read_to_string(manifests.join("people-roles.yaml"))?;
    let people = ["channels-view", "channels-edit", "subscriber", "publisher"].iter().fold(people, |text, role| {
        text.replace(&format!("name: tidings-{role}"), &format!("name: \"tidings-system:tidings:{role}\""))
    });
    let mut expected = rights(&documents(&shipped)?);
    expected.extend(rights(&documents(&people)?));
    for (values, objects) in renderings().await? {
        match values {
            "default" | "production" => assert_eq!(rights(&objects), expected, "{values}"),
            "minimal" => assert_eq!(rights(&objects), rights(&documents(&shipped)?), "{values}"),
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn watching_some_namespaces_gives_rights_in_these_alone() -> Result<()> {
    let helm = Helm::find().await?;
    let objects = helm.objects("tidings", "tidings-system", &["--set=operator.watchNamespaces={shop,news}"]).await?;
    let rights = rights(&objects);
    let everywhere = &rights["ClusterRole/tidings-system:tidings:operator"][2][0];
    assert_eq!(everywhere.as_array().map(Vec::len), Some(1));
    assert_eq!(everywhere[0]["resourceNames"], json!(["channels.tidings.dev"]));
    let watched: BTreeSet<_> = objects
        .iter()
        .filter(|object| object["kind"] == "Role" && object["rules"].to_string().contains("channels/status"))
        .map(|object| object["metadata"]["namespace"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(watched, BTreeSet::from(["shop", "news"]));
    Ok(())
}

/// The pods of a rendering, each with the name of what makes it.
fn pods(objects: &[Value]) -> Vec<(String, Value)> {
    objects.iter().filter_map(|object| Some((label(object), pod_of(object)?.clone()))).collect()
}

#[tokio::test]
async fn every_flag_of_every_pod_is_one_that_its_program_has() -> Result<()> {
    let mut help = BTreeMap::new();
    for command in ["tidings-operator", "tidings-gateway", "tidings-operator crd apply", "tidings-operator try"] {
        let mut words = command.split(' ');
        let program = Program::built(words.next().context("no program")?).args(words).arg("--help");
        let (status, output) = program.run().await;
        assert!(status.success(), "{command} --help: {output}");
        help.insert(command, output);
    }
    let mut seen = 0;
    for (values, objects) in renderings().await? {
        for (pod, template) in pods(&objects) {
            for container in template["spec"]["containers"].as_array().context("no containers")? {
                let words = |field: &str| {
                    let list = container[field].as_array().cloned().unwrap_or_default();
                    list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect::<Vec<_>>()
                };
                let command = words("command").join(" ");
                if command == "nats-server" {
                    continue;
                }
                let help = help.get(command.as_str()).with_context(|| format!("{pod} runs {command:?}"))?;
                for argument in words("args") {
                    let flag = argument.split('=').next().unwrap_or_default().to_owned();
                    let known = help.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).any(|word| word == flag);
                    assert!(known, "{values}: {pod} passes {flag} to {command}, which does not know it");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} flags");
    Ok(())
}

#[tokio::test]
async fn a_gateway_has_time_to_drain_before_it_is_killed() -> Result<()> {
    for (values, objects) in renderings().await? {
        let gateway = objects.iter().find(|object| label(object) == "Deployment/tidings-gateway").context("none")?;
        let spec = &gateway["spec"]["template"]["spec"];
        let arguments = spec["containers"][0]["args"].to_string();
        let seconds = |flag: &str| -> Result<u64> {
            let value = arguments.split(&format!("{flag}=")).nth(1).context("no such flag")?;
            Ok(value.split('s').next().unwrap_or_default().parse()?)
        };
        let drain = seconds("--drain-delay")? + seconds("--drain-window")?;
        // What docs/reference/gateway.md asks for, and some for the kubelet.
        assert_eq!(spec["terminationGracePeriodSeconds"], json!(drain + 5 + 5), "{values}");
    }
    Ok(())
}

#[tokio::test]
async fn the_public_service_has_the_public_port_alone() -> Result<()> {
    for (values, objects) in renderings().await? {
        let service = objects.iter().find(|object| label(object) == "Service/tidings-gateway").context("none")?;
        let targets: Vec<_> =
            service["spec"]["ports"].as_array().into_iter().flatten().map(|port| &port["targetPort"]).collect();
        assert_eq!(targets, [&json!("public")], "{values}");
        assert!(service["spec"]["ports"][0]["appProtocol"].is_string(), "{values}");
    }
    Ok(())
}

/// Every metric that a document mentions: names with our prefix, or the process's.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let ours = words.filter(|word| word.starts_with("tidings_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

#[tokio::test]
async fn metrics_in_rules_dashboard_and_scaling_exist() -> Result<()> {
    let reference = |name: &str| std::fs::read_to_string(repository().join("docs/reference").join(name));
    let known = metrics_in(&(reference("metrics.md")? + &reference("operator.md")?));
    let mut used = BTreeSet::new();
    for (_, objects) in renderings().await? {
        for object in &objects {
            let text = match object["kind"].as_str() {
                Some("PrometheusRule" | "HorizontalPodAutoscaler") => object["spec"].to_string(),
                Some("ConfigMap") if label(object).ends_with("-dashboard") => {
                    let dashboard = object["data"]["tidings.json"].as_str().context("no dashboard")?;
                    serde_json::from_str::<Value>(dashboard).context("the dashboard is not JSON")?;
                    dashboard.to_owned()
                }
                _ => continue,
            };
            used.extend(metrics_in(&text));
        }
    }
    let used: BTreeSet<_> = used.iter().map(|name| name.trim_end_matches("_bucket").to_owned()).collect();
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty() && used.len() > 15, "unknown: {unknown:?}; used: {used:?}");
    Ok(())
}

#[tokio::test]
async fn monitors_scaling_and_budgets_find_the_pods_they_are_for() -> Result<()> {
    for (values, objects) in renderings().await? {
        let templates = pods(&objects);
        let labels_of = |name: &str| {
            let template = templates.iter().find(|(pod, _)| pod == name).map(|(_, template)| template);
            template.and_then(|template| template["metadata"]["labels"].as_object().cloned()).unwrap_or_default()
        };
        let ports_of = |name: &str| {
            let template = templates.iter().find(|(pod, _)| pod == name).map(|(_, template)| template.to_string());
            template.unwrap_or_default()
        };
        for object in &objects {
            let selector = match object["kind"].as_str() {
                Some("PodMonitor" | "PodDisruptionBudget") => &object["spec"]["selector"]["matchLabels"],
                Some("Service") => &object["spec"]["selector"],
                Some("NetworkPolicy") => &object["spec"]["podSelector"]["matchLabels"],
                _ => continue,
            };
            let component = selector["app.kubernetes.io/component"].as_str().context("no component")?;
            let kind = if component == "nats" { "StatefulSet" } else { "Deployment" };
            let pod = format!("{kind}/tidings-{component}");
            for (key, value) in selector.as_object().context("no selector")? {
                assert_eq!(labels_of(&pod).get(key), Some(value), "{values}: {} does not select {pod}", label(object));
            }
            for part in ["podMetricsEndpoints", "ports"] {
                for endpoint in object["spec"][part].as_array().into_iter().flatten() {
                    let port = if part == "ports" { &endpoint["targetPort"] } else { &endpoint["port"] };
                    assert!(ports_of(&pod).contains(&format!("\"name\":{port}")), "{values}: {} {port}", label(object));
                }
            }
        }
        for monitor in objects.iter().filter(|object| object["kind"] == "ServiceMonitor") {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().context("no selector")?;
            let carries =
                |service: &&Value| wanted.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value);
            let services: Vec<_> =
                objects.iter().filter(|object| object["kind"] == "Service").filter(carries).collect();
            assert_eq!(services.len(), 1, "{values}: {}", label(monitor));
            assert_eq!(services[0]["spec"]["ports"][0]["name"], monitor["spec"]["endpoints"][0]["port"]);
        }
        for scaler in objects.iter().filter(|object| object["kind"] == "HorizontalPodAutoscaler") {
            assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "tidings-gateway");
            let gateway =
                objects.iter().find(|object| label(object) == "Deployment/tidings-gateway").context("none")?;
            assert!(gateway["spec"].get("replicas").is_none(), "{values}: two would decide how many there are");
        }
    }
    Ok(())
}

/// Subjects in the permissions of a user, in a configuration of nats-server: the quoted words up to the user's end.
fn subjects_of(configuration: &str, user: &str) -> Result<BTreeSet<String>> {
    let of_user = configuration.split(&format!("user: {user}, ")).nth(1).with_context(|| format!("no user {user}"))?;
    let permissions = of_user.split("permissions").nth(1).context("no permissions")?;
    let permissions = permissions.split('}').next().unwrap_or_default();
    let subjects = permissions.split('"').skip(1).step_by(2);
    // Beats have the release in their subject.
    Ok(subjects
        .map(|subject| if subject.starts_with("tidings-beat") { "tidings-beat" } else { subject }.to_owned())
        .collect())
}

#[tokio::test]
async fn the_built_in_nats_gives_the_permissions_of_the_reference() -> Result<()> {
    let reference = std::fs::read_to_string(repository().join("docs/reference/nats-permissions.md"))?;
    let objects = Helm::find().await?.objects("tidings", "tidings-system", &[]).await?;
    let configuration = objects.iter().find(|object| label(object) == "ConfigMap/tidings-nats").context("none")?;
    let configuration = configuration["data"]["nats.conf"].as_str().context("no nats.conf")?;
    for user in ["gateway", "operator"] {
        assert_eq!(subjects_of(configuration, user)?, subjects_of(&reference, user)?, "{user}");
    }
    let publisher = subjects_of(configuration, "publisher")?;
    assert_eq!(publisher, ["tidings.>", "_INBOX.>"].map(String::from).into());
    Ok(())
}

/// Kinds that the API server of the tests does not know: their definitions are others'.
const FOREIGN: [&str; 4] = ["PodMonitor", "ServiceMonitor", "PrometheusRule", "HTTPRoute"];

#[tokio::test]
async fn the_api_server_takes_every_object_to_the_letter() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let kubectl = cluster.kubectl();
    for name in ["tidings-system", "shop", "news"] {
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
        kubectl.run_with(&["apply", "-f", "-"], &namespace).await?;
    }
    for (values, objects) in renderings().await? {
        let known = objects.into_iter().filter(|object| !FOREIGN.iter().any(|kind| object["kind"] == *kind));
        let known: Vec<_> = known.filter(|object| object["kind"] != "Pod").collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": known}).to_string();
        let dry = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        kubectl.run_with(&dry, &list).await.with_context(|| format!("with {values} values"))?;
    }
    Ok(())
}

#[tokio::test]
async fn kubeconform_finds_nothing_by_the_api_servers_own_schemas() -> Result<()> {
    let mut tool = tokio::process::Command::new(repository().join("scripts/go-tool.sh"));
    tool.args(["kubeconform", "0.8.0", "github.com/yannh/kubeconform/cmd/kubeconform"]);
    // The first time, it is built.
    let output = tool.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "kubeconform is not to be had");
    let kubeconform = String::from_utf8(output.stdout)?.trim().to_owned();
    let cluster = KubeCluster::shared().await?;
    let directory = tempfile::tempdir()?;
    let mut kinds = BTreeSet::new();
    let mut files = Vec::new();
    for (values, objects) in renderings().await? {
        let known: Vec<_> =
            objects.into_iter().filter(|object| !FOREIGN.iter().any(|kind| object["kind"] == *kind)).collect();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        kinds.extend(known.iter().map(|object| (word(&object["apiVersion"]), word(&object["kind"]))));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": known});
        let file = directory.path().join(format!("{values}.yaml"));
        std::fs::write(&file, list.to_string())?;
        files.push(file);
    }
    kube_schemas::write(&cluster.kubectl(), &kinds, directory.path()).await?;
    let schemas = format!("{}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json", directory.path().display());
    let check = |files: Vec<std::path::PathBuf>| {
        let program =
            Program::new("kubeconform", &kubeconform).args(["-strict", "-summary", "-schema-location", &schemas]);
        async move { program.args(files).run().await }
    };
    let (status, output) = check(files).await;
    assert!(status.success(), "{output}");
    assert!(output.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{output}");

    let faulty = directory.path().join("faulty.yaml");
    std::fs::write(&faulty, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}")?;
    let (status, output) = check(vec![faulty]).await;
    assert!(!status.success() && output.contains("prots"), "a fault is found: {output}");
    Ok(())
}

#[tokio::test]
async fn no_pod_is_refused_where_pod_security_is_restricted() -> Result<()> {
    let cluster = KubeCluster::shared().await?;
    let kubectl = cluster.kubectl();
    let namespace = cluster.namespace("restricted").await?;
    let enforce = ["label", "namespace", namespace.name(), "pod-security.kubernetes.io/enforce=restricted"];
    kubectl.run(&enforce).await?;
    // Pods need a service account; which one does not matter to Pod Security.
    let account = ["get", "serviceaccount", "default", "-n", namespace.name()];
    eventually(PATIENCE, "the default service account", || kubectl.run(&account)).await;
    let create = ["create", "--dry-run=server", "-n", namespace.name(), "-f", "-"];
    let mut seen = 0;
    for (values, objects) in renderings().await? {
        for (maker, template) in pods(&objects) {
            let mut spec = template["spec"].clone();
            spec["serviceAccountName"] = json!("default");
            // That class does not exist here, and nobody makes a pod's claims.
            spec.as_object_mut().context("no spec")?.remove("priorityClassName");
            if maker.starts_with("StatefulSet/") {
                spec["volumes"].as_array_mut().context("no volumes")?.push(json!({"name": "data", "emptyDir": {}}));
            }
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}).to_string();
            kubectl.run_with(&create, &pod).await.with_context(|| format!("{values}: {maker}"))?;
            seen += 1;
        }
    }
    let careless = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"one"},"spec":{"containers":[{"name":"a","image":"a"}]}}"#;
    assert!(kubectl.refused(&create, careless).await?.contains("violates PodSecurity"), "nothing would be refused");
    assert!(seen >= 15, "only {seen} pods");
    Ok(())
}

/// The pod of a component, as it would run in `namespace`.
fn endpoint(objects: &[Value], maker: &str, last: u8) -> Result<Endpoint> {
    let (_, template) = pods(objects).into_iter().find(|(name, _)| name == maker).context("no such pod")?;
    let labels = template["metadata"]["labels"].as_object().context("no labels")?;
    let labels = labels.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
    let ports = template["spec"]["containers"][0]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        Some((port["name"].as_str()?.to_owned(), u16::try_from(port["containerPort"].as_u64()?).ok()?))
    });
    let pod = PodFacts { namespace: "tidings-system".into(), labels: labels.collect(), ports: ports.collect() };
    Ok(Endpoint { address: Ipv4Addr::new(10, 244, 0, last), pod: Some(pod) })
}

fn stranger(namespace: &str) -> Endpoint {
    let pod = PodFacts { namespace: namespace.into(), ..PodFacts::default() };
    Endpoint { address: Ipv4Addr::new(10, 244, 9, 9), pod: Some(pod) }
}

#[tokio::test]
async fn needed_connections_pass_the_policies_and_no_others() -> Result<()> {
    let helm = Helm::find().await?;
    let directory = tempfile::tempdir()?;
    let (production, everything) = (production(), everything(directory.path())?);
    let outside = Endpoint { address: Ipv4Addr::new(192, 0, 2, 1), pod: None };
    let node = Endpoint { address: Ipv4Addr::new(10, 99, 0, 1), pod: None };
    let dns = stranger("kube-system");

    let objects = helm.objects("tidings", "tidings-system", &[]).await?;
    let policies = NetworkPolicies::of(&objects);
    let operator = endpoint(&objects, "Deployment/tidings-operator", 1)?;
    let gateway = endpoint(&objects, "Deployment/tidings-gateway", 2)?;
    let nats = endpoint(&objects, "StatefulSet/tidings-nats", 3)?;
    let other = stranger("shop");
    let neighbour = stranger("tidings-system");
    let flows: [(&str, &Endpoint, &Endpoint, &str, u16, bool); 31] = [
        ("browser to gateway", &outside, &gateway, "TCP", 8080, true),
        ("pod to gateway", &other, &gateway, "TCP", 8080, true),
        ("operator to NATS", &operator, &nats, "TCP", 4222, true),
        ("gateway to NATS", &gateway, &nats, "TCP", 4222, true),
        ("publisher to NATS", &other, &nats, "TCP", 4222, true),
        ("operator to the API", &operator, &node, "TCP", 6443, true),
        ("gateway to the API", &gateway, &node, "TCP", 6443, true),
        ("operator to DNS", &operator, &dns, "UDP", 53, true),
        ("gateway to DNS", &gateway, &dns, "UDP", 53, true),
        ("gateway to DNS, long answers", &gateway, &dns, "TCP", 53, true),
        ("browser to the gateway's admin port", &outside, &gateway, "TCP", 9090, false),
        ("pod to the gateway's admin port", &other, &gateway, "TCP", 9090, false),
        ("neighbour to the gateway's admin port", &neighbour, &gateway, "TCP", 9090, false),
        ("operator to the gateway", &operator, &gateway, "TCP", 8080, false),
        ("operator to the gateway's admin port", &operator, &gateway, "TCP", 9090, false),
        ("gateway to the operator", &gateway, &operator, "TCP", 9091, false),
        ("pod to the operator's admin port", &other, &operator, "TCP", 9091, false),
        ("browser to the operator", &outside, &operator, "TCP", 9091, false),
        ("neighbour to the operator", &neighbour, &operator, "TCP", 8080, false),
        ("browser to NATS", &outside, &nats, "TCP", 4222, false),
        ("pod to NATS' monitor", &other, &nats, "TCP", 8222, false),
        ("gateway to NATS' monitor", &gateway, &nats, "TCP", 8222, false),
        ("pod to NATS' cluster port", &other, &nats, "TCP", 6222, false),
        ("NATS to anywhere", &nats, &outside, "TCP", 443, false),
        ("NATS to DNS", &nats, &dns, "UDP", 53, false),
        ("NATS to the gateway", &nats, &gateway, "TCP", 8080, false),
        ("gateway to a pod", &gateway, &other, "TCP", 8080, false),
        ("operator to a pod", &operator, &other, "TCP", 8080, false),
        ("gateway to the kubelet", &gateway, &node, "TCP", 10250, false),
        ("operator to a mail server", &operator, &outside, "TCP", 25, false),
        ("gateway to another NATS", &gateway, &other, "TCP", 4222, false),
    ];
    for (name, from, to, protocol, port, passes) in flows {
        assert_eq!(policies.pass(from, to, protocol, port), passes, "default: {name}");
    }

    let objects = helm.objects("tidings", "tidings-system", &[&production]).await?;
    let policies = NetworkPolicies::of(&objects);
    let (gateway, operator) =
        (endpoint(&objects, "Deployment/tidings-gateway", 2)?, endpoint(&objects, "Deployment/tidings-operator", 1)?);
    let monitoring = stranger("monitoring");
    let flows: [(&str, &Endpoint, &Endpoint, &str, u16, bool); 7] = [
        ("Prometheus to the gateway", &monitoring, &gateway, "TCP", 9090, true),
        ("Prometheus to the operator", &monitoring, &operator, "TCP", 9091, true),
        ("others to the admin port", &other, &gateway, "TCP", 9090, false),
        ("gateway to NATS in another namespace", &gateway, &stranger("nats"), "TCP", 4222, true),
        ("gateway to NATS outside", &gateway, &outside, "TCP", 4222, true),
        ("gateway to its monitor", &gateway, &stranger("nats"), "TCP", 8222, false),
        ("browser to gateway", &outside, &gateway, "TCP", 8080, true),
    ];
    for (name, from, to, protocol, port, passes) in flows {
        assert_eq!(policies.pass(from, to, protocol, port), passes, "production: {name}");
    }

    let objects = helm.objects("tidings", "tidings-system", &[&everything]).await?;
    let policies = NetworkPolicies::of(&objects);
    let (gateway, nats) =
        (endpoint(&objects, "Deployment/tidings-gateway", 2)?, endpoint(&objects, "StatefulSet/tidings-nats", 3)?);
    assert!(policies.pass(&stranger("shop"), &nats, "TCP", 4222), "a publisher that was named");
    assert!(!policies.pass(&stranger("news"), &nats, "TCP", 4222), "a publisher that was not");
    assert!(policies.pass(&gateway, &nats, "TCP", 4222), "the gateway, with publishers named");
    assert!(policies.pass(&gateway, &outside, "TCP", 443), "the keys of issuers");
    Ok(())
}
