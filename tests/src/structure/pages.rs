//! The tables of rooms in `docs/architecture.md`.

use super::rooms::Rooms;

/// A room and what it may use, as the page has it.
pub(super) type Row = (String, String);

/// The rows of the table below the heading that names this folder.
pub(super) fn rooms(page: &str, folder: &str) -> Vec<Row> {
    let (_, section) = page.split_once(&format!("### {folder}\n")).unwrap_or_default();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let name = cells.first().copied().unwrap_or_default();
            let name = name.strip_prefix('[').and_then(|link| link.split_once(']')).map_or(name, |(name, _)| name);
            (name.to_owned(), cells.last().copied().unwrap_or_default().to_owned())
        })
        .collect()
}

/// What the page should have.
pub(super) fn expected(table: &Rooms) -> Vec<Row> {
    let row = |name: &str, may_use: &[&str]| (name.to_owned(), may_use.join(", "));
    let rooms = table.rooms.iter().map(|room| match room.may_use {
        [] => row(room.name, &["–"]),
        may_use => row(room.name, may_use),
    });
    std::iter::once(row("root", &["all"])).chain(rooms).collect()
}

#[test]
fn a_table_is_read_from_the_page() {
    let page = "### other/src\n| room |\n|---|\n| x |\n\n### a/src\n\nText.\n\n| room | holds | may use |\n|---|---|---|\n\
                | root | all of it | all |\n| [http](../a/src/http) | requests | log |\n\nMore | of | it\n";
    let rows = [("root", "all"), ("http", "log")].map(|(name, uses)| (name.to_owned(), uses.to_owned()));
    assert_eq!(rooms(page, "a/src"), rows);
    assert_eq!(rooms(page, "missing/src"), []);
}
