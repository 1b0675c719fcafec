//! The chart, without a cluster: what it renders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidings_tests::chart_values::{MINIMAL, everything, pods, production, renderings};
use tidings_tests::helm::{Helm, chart, documents, label};
use tidings_tests::process::{Program, repository};

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
    let accepts_pods = "--set=gateway.config.kubernetes.enabled=true";
    let objects = Helm::find().await?.objects("tidings", "tidings-system", &[accepts_pods]).await?;
    assert_eq!(rights(&objects), expected);
    // Who is not asked who pods are may not ask the API server about anybody.
    let mut minimal = rights(&documents(&shipped)?);
    for rights in [&mut expected, &mut minimal] {
        let all = rights.len();
        rights.retain(|_, right| !right.to_string().contains("system:auth-delegator"));
        assert_eq!(rights.len(), all - 1);
    }
    for (values, objects) in renderings().await? {
        match values {
            "default" | "production" => assert_eq!(rights(&objects), expected, "{values}"),
            "minimal" => assert_eq!(rights(&objects), minimal, "{values}"),
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
