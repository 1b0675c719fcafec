//! What the rules need of a source file. It is read as `cargo fmt` writes it, line by line.

use std::collections::BTreeSet;

/// One source file.
#[derive(Debug)]
pub(super) struct Source {
    /// From the crate's `src` on.
    pub(super) path: String,
    /// Paths of the crate that it uses.
    pub(super) imports: Vec<Import>,
    /// What it defines.
    pub(super) functions: Vec<Function>,
    /// Modules that exist for tests alone.
    pub(super) test_modules: BTreeSet<Vec<String>>,
}

/// A path that begins at the root of the crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Without `crate::`, as far as it names modules or items.
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    /// Whether it is in a module of tests.
    pub(super) test: bool,
    /// Whether a comment `// circle: …` says why it may close a circle of files.
    pub(super) circle: bool,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// From its signature to its end.
    pub(super) lines: usize,
    /// Whether a comment `// long: …` says why it is long.
    pub(super) reason: bool,
}

// === impl Source ===

impl Source {
    /// Reads a file.
    pub(super) fn new(path: impl Into<String>, text: &str) -> Self {
        let (path, lines) = (path.into(), text.lines().collect::<Vec<_>>());
        let (mut imports, mut functions, mut test_modules) = (Vec::new(), Vec::new(), BTreeSet::new());
        // The indentation of the module of tests that a line is in.
        let mut tests: Option<usize> = None;
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if tests.is_some_and(|indent| indent == indentation(line) && code == "}") {
                tests = None;
            }
            if tests.is_none() && code == "#[cfg(test)]" {
                let next = |by| lines.get(at + by).copied().unwrap_or_default();
                let elsewhere = next(1).trim().strip_prefix("#[path = \"").and_then(|path| path.strip_suffix(".rs\"]"));
                match (elsewhere, module(next(1))) {
                    (Some(name), _) => drop(test_modules.insert(beside(&path, name))),
                    (None, Some((name, true))) => drop(test_modules.insert(below(&path, &name))),
                    (None, Some((_, false))) => tests = Some(indentation(line)),
                    (None, None) => {}
                }
            }
            if code.starts_with("//") {
                continue;
            }
            let above = at.checked_sub(1).and_then(|above| lines.get(above)).map(|line| line.trim_start());
            let circle = above.is_some_and(|line| line.strip_prefix("// circle: ").is_some_and(|why| !why.is_empty()));
            let test = tests.is_some();
            imports.extend(paths(&path, code, test).map(|path| Import { path, line: at + 1, test, circle }));
            if let Some(name) = function(code) {
                let reason = lines[..at].iter().rev().map(|line| line.trim_start());
                let reason = reason
                    .take_while(|line| line.starts_with("//") || line.starts_with("#["))
                    .any(|line| line.strip_prefix("// long: ").is_some_and(|why| !why.trim().is_empty()));
                functions.push(Function { name, line: at + 1, lines: length(&lines[at..]), reason });
            }
        }
        Self { path, imports, functions, test_modules }
    }

    /// The modules from the root to this one.
    pub(super) fn module(&self) -> Vec<String> {
        module_of(&self.path)
    }
}

fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).filter(|part| !matches!(part.as_str(), "lib" | "main")).collect()
}

/// A module that this file declares.
fn below(path: &str, name: &str) -> Vec<String> {
    [module_of(path), vec![name.to_owned()]].concat()
}

/// A file in the folder of this one.
fn beside(path: &str, name: &str) -> Vec<String> {
    let mut module = module_of(path);
    if !path.ends_with("/mod.rs") {
        module.pop();
    }
    module.push(name.to_owned());
    module
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The module that a line declares, and whether it is a file.
fn module(line: &str) -> Option<(String, bool)> {
    let (_, declared) = line.trim().split_once("mod ")?;
    let name = declared.trim_end_matches([';', '{', ' ']);
    Some((name.to_owned(), declared.ends_with(';')))
}

/// The paths in a line of code that begin at the root of the crate.
fn paths(file: &str, code: &str, nested: bool) -> impl Iterator<Item = Vec<String>> {
    // From the face of a room, the modules above are the root's; from a module within a file they are one step further.
    let is_face = file.ends_with("/mod.rs") && file.matches('/').count() == 1;
    let up = "super::".repeat(1 + usize::from(!is_face) + usize::from(nested));
    let mut found = Vec::new();
    for begin in ["crate::", &up] {
        for (at, _) in code.match_indices(begin) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            let rest = &code[at + begin.len()..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(rest.len());
            let path: Vec<String> = rest[..end].split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect();
            found.push(path);
        }
    }
    found.into_iter()
}

/// The name of the function whose signature begins here.
fn function(code: &str) -> Option<String> {
    const BEFORE: [&str; 7] = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "default"];
    let mut rest = code;
    while let Some((word, behind)) = rest.split_once(' ') {
        if word == "fn" {
            return Some(behind.split(['(', '<']).next().unwrap_or_default().to_owned());
        }
        if !BEFORE.contains(&word) {
            return None;
        }
        rest = behind;
    }
    None
}

/// From the first of these lines, a signature, to the end of the function.
fn length(lines: &[&str]) -> usize {
    let indent = indentation(lines[0]);
    let ends = |line: &&str| {
        let code = line.trim_start();
        indentation(line) == indent && (code == "}" || code.ends_with(';') || code.ends_with('}'))
    };
    lines.iter().position(ends).map_or(lines.len(), |at| at + 1)
}

#[test]
fn a_file_is_read_line_by_line() {
    let text = "\
//! [`crate::above`] is only spoken of.
use crate::log::feed::{Feed, Line};
#[cfg(test)]
mod feed_tests;
#[cfg(test)]
#[path = \"more_tests.rs\"]
mod more;
#[cfg(test)]
mod tests {
    use crate::routes::table;
}
fn after() -> crate::nats::Link {
    1
}
";
    let source = Source::new("channel/hub.rs", text);
    let imports: Vec<_> =
        source.imports.iter().map(|import| (import.path.join("::"), import.line, import.test)).collect();
    let expected = [("log::feed", 2, false), ("routes::table", 10, true), ("nats::Link", 12, false)];
    assert_eq!(imports, expected.map(|(path, line, test)| (path.to_owned(), line, test)));
    for module in [&["channel", "hub", "feed_tests"][..], &["channel", "more_tests"]] {
        assert!(source.test_modules.iter().any(|known| known == module), "{module:?}");
    }
    assert_eq!(source.module(), ["channel", "hub"]);
    assert_eq!(Source::new("channel/mod.rs", "").module(), ["channel"]);
    let face = Source::new("channel/mod.rs", "use super::http::app;\nuse crate::{log, nats};\n");
    assert_eq!(
        face.imports.iter().map(|import| import.path.clone()).collect::<Vec<_>>(),
        [vec!["http", "app"], vec![]]
    );
}

#[test]
fn functions_are_measured_to_their_end() {
    let text = "\
impl A {
    fn one(&self) {}

    // long: it is a table
    #[must_use]
    pub async fn two(
        &self,
    ) -> u8 {
        2
    }
}
trait B {
    fn three(&self);
}
";
    let functions = Source::new("a.rs", text).functions;
    let told: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.line, f.lines, f.reason)).collect();
    assert_eq!(told, [("one", 2, 1, false), ("two", 6, 5, true), ("three", 13, 1, false)]);
}
