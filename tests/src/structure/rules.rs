//! What is wrong where, each with the file, the line and the rule.

use std::collections::{BTreeMap, BTreeSet};

use super::rooms::{ROOT, Rooms};
use super::source::Source;

/// Longer functions need a line `// long: …` above them that says why.
const MOST_LINES: usize = 70;

/// All faults of a crate.
pub(super) fn check(table: &Rooms, files: &[Source]) -> Vec<String> {
    let mut faults = order(table);
    faults.extend(files.iter().flat_map(|file| imports(table, files, file)));
    faults.extend(circles(files));
    faults.extend(files.iter().flat_map(long_functions));
    faults
}

/// The table itself: a room may use only those below it, so no two rooms can use each other.
fn order(table: &Rooms) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, room) in table.rooms.iter().enumerate() {
        for used in room.may_use {
            match table.rooms.iter().position(|other| other.name == *used) {
                Some(below) if below > at => {}
                Some(_) => faults.push(format!("{}: the table lets it use {used}, which is not below it", room.name)),
                None => faults.push(format!("{}: the table lets it use {used}, which is no room", room.name)),
            }
        }
    }
    faults
}

/// The room of a module.
fn room(table: &Rooms, files: &[Source], module: &[String]) -> String {
    let is_folder = |name: &str| files.iter().any(|file| file.path.starts_with(&format!("{name}/")));
    let is_room = |name: &str| is_folder(name) && !table.root.contains(&name);
    module.first().filter(|first| is_room(first)).cloned().unwrap_or_else(|| ROOT.to_owned())
}

fn imports(table: &Rooms, files: &[Source], file: &Source) -> Vec<String> {
    // Programs beside the library are not part of its rooms.
    if file.path.starts_with("bin/") {
        return Vec::new();
    }
    let (path, from) = (&file.path, room(table, files, &file.module()));
    let Some(depth) = table.depth(&from) else {
        return vec![format!("{path}:1: the folder {from} is no room: add it to the table")];
    };
    let in_tests = is_test(files, file);
    let mut faults = Vec::new();
    for import in &file.imports {
        let line = import.line;
        if import.path.is_empty() {
            faults.push(format!("{path}:{line}: write one use for each module of the crate"));
            continue;
        }
        let to = room(table, files, &import.path);
        let below = table.depth(&to).is_some_and(|to| to > depth);
        let allowed = if import.test || in_tests { below } else { table.allows(&from, &to) };
        if from != to && !allowed && from != ROOT {
            let what = import.path.join("::");
            let why = if below { "is below it, but not in the table" } else { "is above it" };
            faults.push(format!("{path}:{line}: {from} uses crate::{what}, and {to} {why}"));
        }
    }
    faults
}

/// Whether a file exists for tests alone.
fn is_test(files: &[Source], file: &Source) -> bool {
    let module = file.module();
    files.iter().any(|other| other.test_modules.contains(&module))
}

/// The module in a file that a path leads to, or into.
fn file_of<'p>(modules: &BTreeMap<Vec<String>, &Source>, path: &'p [String]) -> Option<&'p [String]> {
    (1..=path.len()).rev().filter_map(|length| path.get(..length)).find(|module| modules.contains_key(*module))
}

/// Files that use each other, be it by way of others. Tests do not count.
fn circles(files: &[Source]) -> Vec<String> {
    let modules: BTreeMap<Vec<String>, &Source> = files.iter().map(|file| (file.module(), file)).collect();
    let mut uses: BTreeMap<&Vec<String>, BTreeSet<&[String]>> = BTreeMap::new();
    for (module, file) in modules.iter().filter(|(module, file)| !module.is_empty() && !is_test(files, file)) {
        let targets = file
            .imports
            .iter()
            .filter(|import| !import.test && !import.circle)
            .filter_map(|import| file_of(&modules, &import.path));
        uses.insert(module, targets.filter(|target| *target != module.as_slice()).collect());
    }
    let reaches = |from: &Vec<String>, to: &[String]| {
        let (mut open, mut seen) = (vec![from.as_slice()], BTreeSet::new());
        while let Some(next) = open.pop() {
            for target in uses.get(&next.to_vec()).into_iter().flatten() {
                if *target == to {
                    return true;
                }
                if seen.insert(*target) {
                    open.push(target);
                }
            }
        }
        false
    };
    let in_circle: Vec<_> = uses.keys().filter(|module| reaches(module, module)).collect();
    in_circle
        .iter()
        .map(|module| {
            let back = |target: &&&[String]| reaches(&target.to_vec(), module);
            let partner = uses[**module].iter().find(back).map(|target| target.join("::")).unwrap_or_default();
            let line = modules[**module].imports.iter().find(|import| import.path.join("::").starts_with(&partner));
            let line = line.map_or(1, |import| import.line);
            format!("{}:{line}: a circle: {} uses it", modules[**module].path, partner)
        })
        .collect()
}

fn long_functions(file: &Source) -> Vec<String> {
    let long = file.functions.iter().filter(|function| function.lines > MOST_LINES && !function.reason);
    long.map(|function| {
        let (path, line, name, lines) = (&file.path, function.line, &function.name, function.lines);
        format!("{path}:{line}: {name} has {lines} lines, more than {MOST_LINES}: split it, or say why above it (// long: …)")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::rooms::Room;

    const TABLE: Rooms = Rooms {
        folder: "src",
        root: &["config"],
        rooms: &[
            Room { name: "http", may_use: &["auth"] },
            Room { name: "auth", may_use: &[] },
            Room { name: "log", may_use: &[] },
        ],
    };

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        check(&TABLE, &files.iter().map(|(path, text)| Source::new(*path, text)).collect::<Vec<_>>())
    }

    const REST: [(&str, &str); 4] = [
        ("lib.rs", "use crate::http::app::App;\n"),
        ("http/app.rs", "use crate::auth::jwt;\n"),
        ("auth/jwt.rs", ""),
        ("log/feed.rs", ""),
    ];

    fn with(path: &'static str, text: &'static str) -> Vec<String> {
        faults(&[&REST[..], &[(path, text)]].concat())
    }

    #[test]
    fn rooms_that_use_what_is_below_them_are_fine() {
        assert_eq!(faults(&REST), [""; 0]);
        assert_eq!(with("auth/keys.rs", "//! For [`crate::http::app`].\nuse crate::auth::jwt::Token;\n"), [""; 0]);
    }

    #[test]
    fn an_import_upwards_is_found() {
        let expected = "auth/keys.rs:2: auth uses crate::http::app::App, and http is above it";
        assert_eq!(with("auth/keys.rs", "\nuse crate::http::app::App;\n"), [expected]);
        let expected = "auth/keys.rs:1: auth uses crate::settings::Settings, and root is above it";
        assert_eq!(with("auth/keys.rs", "use crate::settings::Settings;\n"), [expected]);
        assert_eq!(with("auth/mod.rs", "use super::http::app::App;\n").len(), 1);
        assert_eq!(with("auth/mod.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n"), [""; 0]);
    }

    #[test]
    fn a_room_below_that_is_not_in_the_table_is_found() {
        let expected = "http/page.rs:1: http uses crate::log::feed, and log is below it, but not in the table";
        assert_eq!(with("http/page.rs", "use crate::log::feed;\n"), [expected]);
        assert_eq!(with("http/page.rs", "#[cfg(test)]\nmod tests {\n    use crate::log::feed;\n}\n"), [""; 0]);
    }

    #[test]
    fn tests_look_down_as_well_and_never_up() {
        let tests = "#[cfg(test)]\nmod tests {\n    use crate::http::app::App;\n}\n";
        assert_eq!(
            with("auth/keys.rs", tests),
            ["auth/keys.rs:3: auth uses crate::http::app::App, and http is above it"]
        );
    }

    #[test]
    fn a_list_of_modules_is_found() {
        assert_eq!(
            with("http/page.rs", "use crate::{auth, log};\n"),
            ["http/page.rs:1: write one use for each module of the crate"]
        );
    }

    #[test]
    fn a_folder_that_is_no_room_is_found() {
        assert_eq!(with("config/args.rs", "use crate::http::app::App;\n"), [""; 0], "a part of the root");
        assert_eq!(with("misc/helpers.rs", ""), ["misc/helpers.rs:1: the folder misc is no room: add it to the table"]);
    }

    #[test]
    fn a_circle_of_files_is_found_with_both_ends() {
        let files = [
            ("auth/a.rs", "use crate::auth::b::B;\n"),
            ("auth/b.rs", "\nuse crate::auth::c::C;\n"),
            ("auth/c.rs", "use crate::auth::a::A;\n"),
        ];
        let expected = [
            "auth/a.rs:1: a circle: auth::b uses it",
            "auth/b.rs:2: a circle: auth::c uses it",
            "auth/c.rs:1: a circle: auth::a uses it",
        ];
        assert_eq!(faults(&[&REST[..], &files].concat()), expected);
        let files = [
            ("auth/a.rs", "use crate::auth::b::B;\n"),
            ("auth/b.rs", "// circle: a macro needs it here\nuse crate::auth::a::A;\n"),
        ];
        assert_eq!(faults(&[&REST[..], &files].concat()), [""; 0], "with a reason");
    }

    #[test]
    fn a_long_function_is_found_unless_it_says_why() {
        let long = format!("fn table() {{\n{}}}\n", "    line();\n".repeat(69));
        let file = |text: &str| long_functions(&Source::new("auth/a.rs", text));
        let expected = "auth/a.rs:1: table has 71 lines, more than 70: split it, or say why above it (// long: …)";
        assert_eq!(file(&long), [expected]);
        assert_eq!(file(&format!("// long: it is a table.\n{long}")), [""; 0]);
        assert_eq!(file(&format!("// long: \n{long}")).len(), 1);
        assert_eq!(file(&long.replacen("    line();\n", "", 1)), [""; 0]);
    }

    #[test]
    fn a_table_that_points_upwards_is_found() {
        const UP: Rooms = Rooms {
            folder: "src",
            root: &[],
            rooms: &[Room { name: "http", may_use: &["nats"] }, Room { name: "auth", may_use: &["http", "auth"] }],
        };
        let expected = [
            "http: the table lets it use nats, which is no room",
            "auth: the table lets it use http, which is not below it",
            "auth: the table lets it use auth, which is not below it",
        ];
        assert_eq!(check(&UP, &[]), expected);
    }
}
