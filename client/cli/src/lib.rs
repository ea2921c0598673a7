//! The binary `cairn`: server, client and operator's tool.
//!
//! # Layout
//! | module | owns |
//! |---|---|
//! | [`args`], [`global`] | the command line as clap reads it; flags of every verb |
//! | [`verb`] | one file per verb |
//! | [`session`] | runtime, client and logging of one run |
//! | [`output`], [`progress`] | results, words, bars |
//! | [`repeats`] | few of each warning that consensus repeats |
//! | [`pin`] | which cluster a key belongs to |
//! | [`address`] | checkpoint addresses as people write them |
//! | [`foreign`] | text of others, made fit for a terminal |
//! | [`exit`] | exit codes and failures |
//! | [`children`], [`own_cluster`] | the nodes that `dev`, `demo` and `bench` start, and their cluster |
//! | `capacity` | the arithmetic of `plan` |
//! | [`generate`] | a safetensors checkpoint of random numbers |
//!
//! Data goes to stdout, words to stderr. Errors end in `hint:` where we know the fix.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

pub mod address;
pub mod args;
mod capacity;
pub mod children;
mod credentials;
pub mod exit;
pub mod foreign;
pub mod generate;
pub mod global;
mod hints;
pub mod output;
pub mod own_cluster;
pub mod pin;
pub mod progress;
pub mod repeats;
mod secret_file;
pub mod session;
pub mod verb;
mod whoami;

use args::Cli;
use exit::{Exit, Failure, Outcome};
use session::Session;

/// Parses the process's arguments, runs the verb, reports how it ended.
pub fn main() -> ExitCode {
    let (json, outcome) = match Cli::try_parse() {
        Ok(cli) => (cli.global.json, run(cli)),
        Err(error) if error.use_stderr() => {
            let json = json_is_wanted();
            if !json {
                // In colour, and with the usage.
                let _ = error.print();
                return Exit::Usage.into();
            }
            (json, Err(usage_failure(&error)))
        }
        // Help and version.
        Err(error) => (json_is_wanted(), print_help(&error)),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            report(&failure, json);
            failure.exit.into()
        }
    }
}

/// Whether arguments that clap could not take ask for JSON.
fn json_is_wanted() -> bool {
    let set =
        |value: std::ffi::OsString| !matches!(value.to_str(), Some("" | "0" | "false" | "no"));
    std::env::args_os().any(|argument| argument == "--json")
        || std::env::var_os("CAIRN_JSON").is_some_and(set)
}

/// The first paragraph of clap's words as the error, its tip as the hint.
pub(crate) fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let first = paragraphs.next().unwrap_or_default();
    let failure = Failure::usage(first.strip_prefix("error: ").unwrap_or(first));
    match paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: ")) {
        Some(tip) => failure.with_hint(tip),
        None => failure,
    }
}

pub(crate) fn print_help(error: &clap::Error) -> Outcome {
    output::written(error.print().and_then(|()| std::io::stdout().flush()))?;
    Ok(Exit::Ok)
}

fn run(cli: Cli) -> Outcome {
    cli.verb.run(&Session::new(cli.global))
}

/// An error, on stderr.
#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: &'a str,
    exit_code: u8,
    hint: Option<&'a str>,
}

fn report(failure: &Failure, json: bool) {
    let text = chain(&failure.error);
    // A reader that has gone away changes nothing about the exit code.
    let mut err = std::io::stderr();
    if json {
        let exit_code = failure.exit as u8;
        let document = ErrorDocument { error: &text, exit_code, hint: failure.hint.as_deref() };
        // Texts and a number: this does not fail.
        let document = serde_json::to_string(&document).unwrap_or(text);
        let _ = writeln!(err, "{}", foreign::json(&document));
        return;
    }
    // Further lines are indented, so that no file's name can pass for a hint.
    let _ = writeln!(err, "error: {}", foreign::lines(&text).replace('\n', "\n  "));
    if let Some(hint) = &failure.hint {
        let _ = writeln!(err, "hint: {}", foreign::text(hint));
    }
}

/// An error and its causes, each text once: many errors quote their cause already.
fn chain(error: &anyhow::Error) -> String {
    let mut whole = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if whole.is_empty() {
            whole = text;
        } else if !whole.ends_with(&text) {
            whole = format!("{whole}: {text}");
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot listen on x: {source}")]
        struct Listen {
            source: std::io::Error,
        }
        let source = std::io::Error::other("in use");
        let error = anyhow::Error::new(Listen { source }).context("start");
        assert_eq!(chain(&error), "start: cannot listen on x: in use");
    }
}
