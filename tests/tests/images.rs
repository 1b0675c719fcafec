//! The images: what is in them, and that the same input gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidings_tests::process::{Program, repository};
use tokio::process::Command;

/// Packing takes a moment, and nats-server may have to be built first.
async fn run(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new(repository().join(program));
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().await.with_context(|| format!("failed to run {program}"))?;
    ensure!(output.status.success(), "{program} failed");
    Ok(String::from_utf8(output.stdout)?)
}

/// Where this test's own build has put the programs.
fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    Ok(test.ancestors().nth(2).context("a test stands in target/<profile>/deps")?.to_owned())
}

fn files(root: &Path, below: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(below)? {
        let path = entry?.path();
        if path.is_dir() {
            files(root, &path, found)?;
        } else {
            found.insert(path.strip_prefix(root)?.display().to_string());
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_image_holds_the_programs_and_what_they_need_and_nothing_else() -> Result<()> {
    let root = tempfile::tempdir()?;
    let programs = programs()?;
    let program = |name: &str| programs.join(name).display().to_string();
    let (gateway, operator) = (program("tidings-gateway"), program("tidings-operator"));
    let directory = root.path().display().to_string();
    run("scripts/image-root.sh", &[&directory, &gateway, &operator], &[]).await?;

    let mut found = BTreeSet::new();
    files(root.path(), root.path(), &mut found)?;
    let (libraries, others): (BTreeSet<_>, BTreeSet<_>) = found.into_iter().partition(|file| file.starts_with("lib"));
    let expected = ["etc/nsswitch.conf", "etc/ssl/certs/ca-certificates.crt", "usr/local/bin/tidings-gateway"];
    assert_eq!(others, expected.into_iter().chain(["usr/local/bin/tidings-operator"]).map(String::from).collect());
    let names: BTreeSet<_> = libraries.iter().filter_map(|path| path.rsplit('/').next()).collect();
    assert!(names.contains("libc.so.6") && names.len() <= 4, "{libraries:?}");

    // The image's own loader finds every library within the image.
    let within = |file: &str| root.path().join(file).display().to_string();
    let loader = libraries.iter().find(|file| file.contains("/ld-linux")).context("no loader")?;
    let homes: BTreeSet<_> = libraries.iter().filter_map(|file| Path::new(file).parent()).collect();
    let homes: Vec<_> = homes.iter().map(|home| root.path().join(home).display().to_string()).collect();
    for name in ["tidings-gateway", "tidings-operator"] {
        let start = Program::new(name, within(loader)).args(["--inhibit-cache", "--library-path", &homes.join(":")]);
        let (status, listed) = start.clone().arg("--list").arg(within(&format!("usr/local/bin/{name}"))).run().await;
        assert!(status.success(), "{listed}");
        let resolved = listed.lines().filter_map(|line| line.split(" => ").nth(1));
        let outside: Vec<_> = resolved.filter(|path| !path.starts_with(&directory)).collect();
        assert!(outside.is_empty(), "{name} needs more than the image has: {outside:?}");
        let (status, version) = start.arg(within(&format!("usr/local/bin/{name}"))).arg("--version").run().await;
        assert!(status.success() && version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
    Ok(())
}

/// The blobs of an archive by digest, and its index.
fn opened(archive: &Path) -> Result<(BTreeMap<String, Vec<u8>>, Value)> {
    let (mut blobs, mut index) = (BTreeMap::new(), Value::Null);
    for entry in tar::Archive::new(std::fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if name.ends_with("index.json") {
            index = serde_json::from_slice(&content)?;
        } else if let Some(digest) = name.split("blobs/sha256/").nth(1).filter(|digest| !digest.is_empty()) {
            let sum: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, sum, "a blob is not what its name says");
            blobs.insert(format!("sha256:{digest}"), content);
        }
    }
    Ok((blobs, index))
}

#[tokio::test]
async fn the_same_input_gives_the_same_bytes_and_labels_say_what_it_is() -> Result<()> {
    // What is packed does not matter here, and debug builds are large.
    let small = tempfile::tempdir()?;
    for name in ["tidings-gateway", "tidings-operator"] {
        std::fs::copy("/bin/true", small.path().join(name))?;
    }
    let programs = small.path().display().to_string();
    let variables = [("PROGRAMS", programs.as_str()), ("IMAGES", "tidings.test"), ("VERSION", "1.2.3")];
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut told = Vec::new();
    for directory in [&first, &second] {
        told.push(run("scripts/images.sh", &[&directory.path().display().to_string()], &variables).await?);
    }
    let expected = format!("tidings.test/tidings:1.2.3 {}/tidings.tar\n", first.path().display());
    assert!(told[0].starts_with(&expected), "{}", told[0]);
    for name in ["tidings.tar", "nats-server.tar"] {
        let [first, second] = [&first, &second].map(|directory| std::fs::read(directory.path().join(name)));
        assert!(first? == second?, "{name} differs");
    }

    let (blobs, index) = opened(&first.path().join("tidings.tar"))?;
    let listed = &index["manifests"][0];
    assert_eq!(listed["annotations"]["io.containerd.image.name"], "tidings.test/tidings:1.2.3");
    let blob = |digest: &Value| -> Result<&Vec<u8>> {
        blobs.get(digest.as_str().unwrap_or_default()).with_context(|| format!("{digest} is missing"))
    };
    let manifest: Value = serde_json::from_slice(blob(&listed["digest"])?)?;
    assert_eq!(manifest["layers"][0]["size"], json!(blob(&manifest["layers"][0]["digest"])?.len()));
    let config: Value = serde_json::from_slice(blob(&manifest["config"]["digest"])?)?;
    assert_eq!(config["config"]["User"], "65532:65532");
    let label = |name: &str| config["config"]["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!((label("version"), label("licenses")), (Some("1.2.3"), Some("Apache-2.0")));
    assert!(label("revision").is_some_and(|revision| revision.len() >= 7), "{config}");
    Ok(())
}
