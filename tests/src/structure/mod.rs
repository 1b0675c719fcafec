//! The rooms of the product's crates, and the rules that keep them: a check of the sources.
//!
//! - [`source`]: what the rules need of a file: its imports, and its functions.
//! - [`rooms`]: which room may use which.
//! - [`rules`]: what is wrong where.
//! - [`pages`]: the tables in `docs/architecture.md`, which say the same.

mod pages;
mod rooms;
mod rules;
mod source;

use std::path::{Path, PathBuf};

use self::rooms::CRATES;
use self::source::Source;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources below a folder, with paths from there.
fn sources(folder: &Path) -> Vec<Source> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.push(Source::new(name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

#[test]
fn every_room_uses_only_what_is_below_it() {
    let mut found = Vec::new();
    for table in CRATES {
        let files = sources(&repository().join(table.folder));
        assert!(files.len() > 10, "{}: where are the sources?", table.folder);
        found.extend(rules::check(table, &files).into_iter().map(|fault| format!("{}/{fault}", table.folder)));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_map_in_the_documentation_has_the_same_rooms() {
    let page = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    for table in CRATES {
        assert_eq!(pages::rooms(&page, table.folder), pages::expected(table), "docs/architecture.md, {}", table.folder);
    }
}
