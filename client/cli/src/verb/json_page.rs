//! `cairn help json` and the structs that it describes: each field that a document may have is named
//! there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("list sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|it| it == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Names of the fields of all structs and enums that derive `Serialize`, as they are printed.
fn fields(source: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for item in source.split("#[derive(Serialize)]").skip(1) {
        let item = item.split("\n}\n").next().unwrap_or_default();
        let mut lines = item.lines();
        while let Some(line) = lines.next() {
            let line = line.trim_start();
            let name = match line.strip_prefix("#[serde(rename = \"") {
                Some(renamed) => {
                    lines.next();
                    renamed.split('"').next()
                }
                None if line == "#[serde(flatten)]" => {
                    lines.next();
                    None
                }
                None if line.starts_with("//") || line.starts_with('#') => None,
                None => line.split_once(": ").and_then(|(name, _)| name.rsplit(' ').next()),
            };
            fields.extend(name.map(str::to_owned));
        }
    }
    fields
}

#[test]
fn the_page_about_json_names_every_field() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let page = include_str!("../../JSON.md");
    let known: BTreeSet<&str> = page.split(|c| !is_part(c)).collect();
    let mut count = 0;
    for file in files.iter().filter(|it| !it.ends_with("json_page.rs")) {
        for field in fields(&std::fs::read_to_string(file).expect("read a source")) {
            let place = file.display();
            assert!(known.contains(&*field), "JSON.md does not name {field} ({place})");
            count += 1;
        }
    }
    assert!(count > 150, "fields found: {count}");
}

#[test]
fn topics_fit_a_terminal() {
    for name in ["json", "selectors", "exit-codes"] {
        let text = crate::args::topic(name).expect("a topic");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: wider than a terminal: {line}");
        }
    }
}
