//! What `--help` says of each verb, word by word: a change of wording shows in the diff. Set
//! CAIRN_GOLDEN=write to take over what the binary says now.

use std::fmt::Write;
use std::path::PathBuf;

use cairn_cli::args::Cli;
use clap::{Command, CommandFactory};

/// Options that every verb has; shown once, with the binary itself.
const GLOBAL: &str = "Global options";

fn check(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/help/{name}.txt"));
    if std::env::var_os("CAIRN_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("write a golden file");
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "the help of {name} is not tests/help/{name}.txt; if that is meant, run this test with \
         CAIRN_GOLDEN=write\n{text}"
    );
}

/// A verb's own help: what is in the environment of the test is not part of it.
fn own_help(command: &Command) -> String {
    let mut command = command.clone().term_width(100).mut_args(|argument| {
        let global = argument.get_help_heading() == Some(GLOBAL);
        argument.hide_env_values(true).hide(global)
    });
    command.render_long_help().to_string()
}

fn walk(command: &Command, name: &str, seen: &mut Vec<String>) {
    check(name, &own_help(command));
    seen.push(name.to_owned());
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        walk(sub, &format!("{name}-{}", sub.get_name()), seen);
    }
}

#[test]
fn the_help_of_each_verb_is_as_written_down() {
    let mut command = Cli::command();
    command.build();
    let mut seen = vec!["global".to_owned(), "topics".to_owned()];
    walk(&command, "cairn", &mut seen);
    let mut plain = command.clone().term_width(100).mut_args(|argument| {
        let own = argument.get_help_heading() != Some(GLOBAL);
        argument.hide_env_values(true).hide(own)
    });
    check("global", &plain.render_long_help().to_string());
    let mut topics = String::new();
    for topic in ["selectors", "exit-codes"] {
        let text = cairn_cli::args::topic(topic).expect("a topic");
        writeln!(topics, "== {topic}\n{text}").expect("write to a string");
    }
    check("topics", &topics);
    // And no file is left of a verb that is gone.
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    for entry in std::fs::read_dir(directory).expect("list goldens").flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".txt").to_owned();
        assert!(seen.contains(&name), "tests/help/{name}.txt is no verb's");
    }
}
