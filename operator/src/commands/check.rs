//! `tidings-operator check`: validates manifests offline, as the API server and the operator would.
//!
//! Prints one line for each fault, `file:line: field: reason`, and a summary. It touches neither NATS nor a cluster;
//! subjects that need a grant are faults unless the settings grant them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use tidings_crds::desired::{Installation, Verdict, desired};
use tidings_crds::key::ChannelKey;
use tidings_crds::manifest::{self, Content, Document, Located};
use tidings_crds::objection::objections;

use crate::files::directory::MAX_FILE_BYTES;
use crate::reconcile::settings::Settings;

/// Checks these files and prints what is wrong; whether nothing is.
///
/// # Errors
/// When the output cannot be written.
pub fn check(files: &[impl AsRef<Path>], settings: Settings, out: &mut impl Write) -> io::Result<bool> {
    let Settings { grants, quotas } = settings;
    let installation = Installation { cluster: "check".to_owned(), grants, quotas };
    let mut checked = Checked::default();
    for file in files {
        let file = file.as_ref();
        let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        match read(file) {
            Ok(text) => checked.take(&name, manifest::read(&text)),
            Err(error) => checked.faults.push(format!("{name}: failed to read it: {error}")),
        }
    }
    let Checked { channels, skipped, mut faults } = checked;
    let declared = channels.iter().map(|(key, (_, channel))| (key.clone(), channel)).collect();
    let objections = objections(&declared, &BTreeMap::new(), &installation);
    for (key, (place, channel)) in &channels {
        if let Verdict::Rejected(rejection) = desired(channel, &installation, objections.get(key)) {
            faults.push(format!("{place}: {}: {}", rejection.reason, rejection.message));
        }
    }
    for line in skipped.iter().chain(&faults) {
        writeln!(out, "{line}")?;
    }
    let count = |number: usize, noun: &str| if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") };
    writeln!(out, "{}, {}.", count(channels.len(), "usable Channel"), count(faults.len(), "fault"))?;
    Ok(faults.is_empty())
}

#[derive(Default)]
struct Checked {
    channels: BTreeMap<ChannelKey, (String, tidings_crds::channel::Channel)>,
    skipped: Vec<String>,
    faults: Vec<String>,
}

// === impl Checked ===

impl Checked {
    fn take(&mut self, file: &str, documents: Vec<Document>) {
        for Document { line, key, content } in documents {
            match (content, key) {
                (Content::Channel(channel), Some(key)) => match self.channels.get(&key) {
                    Some((place, _)) => {
                        let message = format!("{file}:{line}: the Channel {key} is declared already, at {place}");
                        self.faults.push(message);
                    }
                    None => drop(self.channels.insert(key, (format!("{file}:{line}"), *channel))),
                },
                (Content::Faulty(faults), _) => {
                    self.faults.extend(faults.iter().map(|Located { line, fault }| format!("{file}:{line}: {fault}")));
                }
                (Content::Skipped { kind }, _) => self.skipped.push(format!("{file}:{line}: {kind} is left out")),
                (Content::Channel(_), None) => {}
            }
        }
    }
}

/// Not more than the operator would read.
fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = MAX_FILE_BYTES + 1;
    if file == Path::new("-") {
        io::stdin().lock().take(most).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(most).read_to_string(&mut text)?;
    }
    if text.len() as u64 > MAX_FILE_BYTES {
        let message = format!("larger than {} MiB, which is no manifest", MAX_FILE_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let sound = check(&[&file], Settings::default(), &mut out).unwrap();
        (sound, String::from_utf8(out).unwrap().replace(&file.display().to_string(), "a.yaml"))
    }

    const HEAD: &str = "apiVersion: tidings.dev/v1alpha1\nkind: Channel\nmetadata: { name: a }\n";

    #[test]
    fn a_sound_manifest_passes() {
        assert_eq!(run(HEAD), (true, "1 usable Channel, 0 faults.\n".to_owned()));
    }

    #[test]
    fn each_fault_stands_with_its_line_and_field() {
        let (sound, out) = run(&format!("{HEAD}spec:\n  events:\n    retryMilliseconds: 1\n  colour: red\n"));
        assert!(!sound);
        let lines: Vec<_> = out.lines().collect();
        assert!(lines.iter().any(|line| line.starts_with("a.yaml:6: spec.events.retryMilliseconds: ")), "{out}");
        assert!(lines.iter().any(|line| line.starts_with("a.yaml:7: spec.colour: unknown field")), "{out}");
        assert_eq!(lines.last(), Some(&"0 usable Channels, 2 faults."));
    }

    #[test]
    fn what_only_the_operator_would_refuse_is_a_fault_too() {
        let (sound, out) = run(&format!("{HEAD}spec: {{ subjects: [bank.>] }}\n"));
        assert!(!sound && out.starts_with("a.yaml:1: SubjectNotGranted: "), "{out}");
    }

    #[test]
    fn another_api_version_is_a_fault_with_what_to_write() {
        let (sound, out) = run(&HEAD.replace("tidings.dev/", "channels.tidings.dev/"));
        assert!(!sound);
        assert!(
            out.starts_with("a.yaml:1: apiVersion: write tidings.dev/v1alpha1, not channels.tidings.dev/"),
            "{out}"
        );
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_refused_at_once() {
        let (_, out) = run(&format!("{HEAD}# {}", "x".repeat(9 << 20)));
        assert!(out.starts_with("a.yaml: failed to read it: larger than 8 MiB"), "{out}");
        let (_, out) = run(&format!("{HEAD}spec: {}", "{a: ".repeat(1 << 20)));
        assert!(out.starts_with("a.yaml:4: nested more than 128 deep"), "{out}");
    }

    #[test]
    fn a_missing_file_is_a_fault() {
        let mut out = Vec::new();
        assert!(!check(&["/nowhere/a.yaml"], Settings::default(), &mut out).unwrap());
        assert!(String::from_utf8(out).unwrap().starts_with("/nowhere/a.yaml: failed to read it: "));
    }
}
