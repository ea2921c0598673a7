//! The workspace itself: which crate may use which (DESIGN section 2), and what no tracked file
//! may name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Arrows between crates, build and test dependencies included. A new one is a decision.
const ARROWS: [(&str, &[&str]); 11] = [
    ("cairn-types", &[]),
    ("cairn-host", &["cairn-types"]),
    ("cairn-core", &["cairn-types"]),
    ("cairn-proto", &["cairn-types"]),
    ("cairn-node", &["cairn-core", "cairn-host", "cairn-proto", "cairn-types"]),
    ("cairn-client", &["cairn-host", "cairn-proto", "cairn-types"]),
    ("cairn-agent", &["cairn-client"]),
    ("cairn-python", &["cairn-client"]),
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

/// Such as `x86_64-unknown-linux-gnu`.
fn host() -> String {
    let said = Command::new("rustc").arg("-vV").output().expect("run rustc");
    let said = String::from_utf8(said.stdout).expect("text");
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc says its host").to_owned()
}

fn metadata(flags: &[&str]) -> Value {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(flags)
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    serde_json::from_slice(&metadata.stdout).expect("decode metadata")
}

#[test]
fn crates_use_only_what_the_design_says() {
    let metadata = metadata(&["--no-deps"]);
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

/// The licences that `deny.toml` allows.
fn allowed_licences() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("read deny.toml");
    let (_, list) = text.split_once("allow = [").expect("a list of licences");
    let (list, _) = list.split_once(']').expect("the end of the list");
    let lines = list.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let names = lines.map(|line| line.trim_end_matches(',').trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Issue 15: what is built into the binary comes from one registry, under licences that were read.
#[test]
fn dependencies_have_licences_that_deny_toml_allows_and_one_source() {
    // Only what this machine builds was downloaded.
    let metadata = metadata(&["--filter-platform", &host()]);
    let packages = metadata["packages"].as_array().expect("packages");
    let allowed = allowed_licences();
    let is_allowed = |licence: &str| {
        spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX).is_ok_and(|expression| {
            expression.evaluate(|wanted| {
                // With its exception, if it has one: `Apache-2.0 WITH LLVM-exception`.
                wanted.license.id().is_some() && allowed.contains(&wanted.to_string())
            })
        })
    };
    let mut sources = BTreeSet::new();
    let mut refused = Vec::new();
    for package in packages {
        sources.extend(package["source"].as_str());
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence) {
            refused.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(packages.len() > 100, "{} packages", packages.len());
    assert!(refused.is_empty(), "licences that deny.toml does not allow: {refused:#?}");
    assert!(sources.len() == 1, "more than one source: {sources:?}");
    assert!(sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
    assert!(!is_allowed("GPL-3.0-only") && !is_allowed("MIT AND AGPL-3.0-only"));
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception"));
    assert!(!is_allowed("GPL-2.0-only WITH Classpath-exception-2.0"));
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
