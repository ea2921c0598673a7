//! The workspace itself: which crate may use which (DESIGN section 2), and what no tracked file
//! may name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Arrows between crates, build and test dependencies included. A new one is a decision.
const ARROWS: [(&str, &[&str]); 10] = [
    ("cairn-types", &[]),
    ("cairn-host", &["cairn-types"]),
    ("cairn-core", &["cairn-types"]),
    ("cairn-proto", &["cairn-types"]),
    ("cairn-node", &["cairn-core", "cairn-host", "cairn-proto", "cairn-types"]),
    ("cairn-client", &["cairn-host", "cairn-proto", "cairn-types"]),
    ("cairn-agent", &["cairn-client"]),
    ("cairn-cli", &["cairn-agent", "cairn-client", "cairn-host", "cairn-node", "cairn-types"]),
    (
        "cairn-sim",
        &["cairn-client", "cairn-core", "cairn-host", "cairn-node", "cairn-proto", "cairn-types"],
    ),
    (
        "cairn-tests",
        &["cairn-cli", "cairn-client", "cairn-core", "cairn-host", "cairn-proto", "cairn-types"],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

#[test]
fn crates_use_only_what_the_design_says() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("decode metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().filter_map(|one| one["name"].as_str()).collect();
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "crates of the workspace");
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let (_, allowed) = ARROWS.iter().find(|(known, _)| *known == name).expect("a known crate");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let target = dependency["name"].as_str().expect("a name");
            let is_ours = names.contains(target);
            assert!(!is_ours || allowed.contains(&target), "new arrow: {name} -> {target}");
        }
    }
    let default = metadata["workspace_default_members"].as_array().expect("default members");
    assert!(
        default.len() == 1
            && default[0]
                .as_str()
                .is_some_and(|id| id.contains("cairn-cli") || id.contains("client/cli")),
        "`cargo run` is not `cairn`: {default:?}"
    );
}

/// Directories of one machine, and hosts that packages come from. Written in pieces, so that
/// this file does not name them.
fn forbidden() -> Vec<String> {
    let paths = ["work", "home", "root", "Users"].map(|name| format!("/{name}/"));
    let hosts = [
        ["crates", ".io"],
        ["index.crates", ".io"],
        ["pypi", ".org"],
        ["npmjs", ".org"],
        ["docker", ".io/"],
        ["ghcr", ".io"],
    ]
    .map(|pieces| pieces.concat());
    paths.into_iter().chain(hosts).collect()
}

#[test]
fn no_tracked_file_names_a_machine_path_or_a_package_host() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        eprintln!("skipped: not a git checkout");
        return;
    };
    let forbidden = forbidden();
    let mut found = Vec::new();
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        // Cargo writes the registry into every entry of the lock file.
        if name.ends_with("Cargo.lock") {
            continue;
        }
        // Deleted but not yet committed, or not text.
        let Ok(text) = std::fs::read_to_string(root().join(&name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let says = |word: &String| {
                line.match_indices(word.as_str()).any(|(at, _)| starts_there(line, at, word))
            };
            if forbidden.iter().any(says) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// An absolute path begins after no name: `target/home/x` is relative.
fn starts_there(line: &str, at: usize, word: &str) -> bool {
    let before = line[..at].chars().next_back();
    !word.starts_with('/') || !before.is_some_and(|c| c.is_alphanumeric() || "._-/}".contains(c))
}

/// tokio's `select!` polls its branches in random order unless it is biased, which would make a
/// simulated run differ from its replay. Clippy cannot tell the two apart.
#[test]
fn every_select_is_biased() {
    let mut found = Vec::new();
    for folder in ["node", "client", "proto", "sim"] {
        look_for_selects(&root().join(folder), &mut found);
    }
    assert!(found.is_empty(), "select! without `biased;`:\n{}", found.join("\n"));
}

fn look_for_selects(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("read an entry").path();
        if path.is_dir() {
            look_for_selects(&path, found);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("read a source file");
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let next = lines.get(number + 1).map_or("", |next| next.trim());
            if line.contains("select! {") && next != "biased;" {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
}
