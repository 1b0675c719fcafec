//! A container image made without a container engine: one layer, written as an OCI archive that containerd imports.
//!
//! The same files give the same archive, byte for byte.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image from scratch, with an unprivileged user.
pub struct OciImage {
    name: String,
    layer: Builder<Vec<u8>>,
    entrypoint: Vec<String>,
}

impl OciImage {
    /// An empty image `name`, such as `tidings.test/nats:latest`, that runs the program at `entrypoint`.
    pub fn new(name: &str, entrypoint: &str) -> Result<OciImage> {
        let mut layer = Builder::new(Vec::new());
        append(&mut layer, "etc/", EntryType::Directory, 0o755, b"")?;
        append(&mut layer, "tmp/", EntryType::Directory, 0o1777, b"")?;
        Ok(OciImage { name: name.to_owned(), layer, entrypoint: vec![entrypoint.to_owned()] })
    }

    /// Puts a program of this machine at `path`. It must be statically linked, or its libraries must be added too.
    pub fn program(mut self, path: &str, from: &Path) -> Result<OciImage> {
        let mut bytes = Vec::new();
        let mut file = File::open(from).with_context(|| format!("failed to open {}", from.display()))?;
        file.read_to_end(&mut bytes)?;
        append(&mut self.layer, path.trim_start_matches('/'), EntryType::Regular, 0o755, &bytes)?;
        Ok(self)
    }

    /// Puts a file at `path`.
    pub fn file(mut self, path: &str, content: &[u8]) -> Result<OciImage> {
        append(&mut self.layer, path.trim_start_matches('/'), EntryType::Regular, 0o644, content)?;
        Ok(self)
    }

    /// Puts everything below a directory of this machine at the same places; files that may be run are programs.
    pub fn directory(mut self, root: &Path) -> Result<OciImage> {
        use std::os::unix::fs::PermissionsExt;
        let mut open = vec![root.to_owned()];
        let mut files = Vec::new();
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() { open.push(path) } else { files.push(path) }
            }
        }
        // The order of a directory says nothing.
        files.sort();
        for file in files {
            let place = file.strip_prefix(root)?.to_str().context("the path is not UTF-8")?.to_owned();
            let runs = std::fs::metadata(&file)?.permissions().mode() & 0o111 != 0;
            self = if runs { self.program(&place, &file)? } else { self.file(&place, &std::fs::read(&file)?)? };
        }
        Ok(self)
    }

    /// Writes the archive.
    pub fn write(self, archive: &Path) -> Result<()> {
        let layer = self.layer.into_inner()?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "User": "65532:65532"},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let platform = json!({"architecture": architecture, "os": "linux"});
        let annotations = json!({"io.containerd.image.name": self.name});
        if let Some(listed) = listed.as_object_mut() {
            listed.extend([("platform".to_owned(), platform), ("annotations".to_owned(), annotations)]);
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [listed],
        });

        let file = File::create(archive).with_context(|| format!("failed to create {}", archive.display()))?;
        let mut tar = Builder::new(file);
        let mut add = |path: &str, content: &[u8]| append(&mut tar, path, EntryType::Regular, 0o644, content);
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &serde_json::to_vec(&index)?)?;
        for blob in [&layer, &config, &manifest] {
            add(&format!("blobs/sha256/{}", hex(blob)), blob)?;
        }
        tar.into_inner()?;
        Ok(())
    }
}

/// Adds an entry without owner and time, which would differ from build to build.
fn append<W: std::io::Write>(
    tar: &mut Builder<W>,
    path: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, path, content).with_context(|| format!("failed to add {path} to an archive"))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex(blob))
}

fn hex(blob: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(blob).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_files_give_the_same_archive_and_blobs_are_named_by_their_digest() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let build = |name: &str| -> Result<Vec<u8>> {
            let path = directory.path().join(name);
            OciImage::new("tidings.test/one:latest", "/run-me")?.file("/etc/some.conf", b"a=1\n")?.write(&path)?;
            Ok(std::fs::read(path)?)
        };
        let archive = build("first")?;
        assert!(archive == build("second")?, "the archives differ");

        let mut names = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(hex(&content), digest);
            }
            names.push(name);
        }
        assert_eq!(names.len(), 5, "{names:?}");
        Ok(())
    }
}
