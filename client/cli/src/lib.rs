//! The binary `cairn`: server, client and operator's tool.
//!
//! # Layout
//! | module | owns |
//! |---|---|
//! | [`args`] | the command line as clap reads it |
//! | [`verb`] | one file per verb |
//! | [`session`] | runtime, client and logging of one run |
//! | [`output`], [`progress`] | results, words, bars |
//! | [`exit`] | exit codes and failures |
//! | [`children`] | node processes that `dev`, `demo` and `bench` start |
//! | [`generate`] | a safetensors checkpoint of random numbers |
//!
//! Data goes to stdout, words to stderr. Errors end in `hint:` where we know the fix.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub mod args;
pub mod children;
pub mod exit;
pub mod generate;
pub mod output;
pub mod progress;
pub mod session;
pub mod verb;

use args::{Cli, HelpArgs, Verb};
use exit::{Exit, Failure, Outcome};
use session::Session;

/// Parses the process's arguments, runs the verb, reports how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            report(&failure, json);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Outcome {
    let session = Session::new(cli.global)?;
    match cli.verb {
        Verb::Put(args) => verb::put::run(&session, args),
        Verb::Get(args) => verb::get::run(&session, args),
        Verb::Ls(args) => verb::ls::run(&session, args),
        Verb::Show(args) => verb::show::run(&session, args),
        Verb::Rm(args) => verb::rm::run(&session, args),
        Verb::Status(args) => verb::status::run(&session, args),
        Verb::Node(args) => verb::node::run(&session, args),
        Verb::Key(args) => verb::key::run(&session, args),
        Verb::Dev(args) => verb::dev::run(&session, args),
        Verb::Demo(args) => verb::demo::run(&session, args),
        Verb::Bench(args) => verb::bench::run(&session, args),
        Verb::Version => verb::version::run(&session),
        Verb::Help(args) => help(&args),
    }
}

fn help(args: &HelpArgs) -> Outcome {
    if let [topic] = args.topic.as_slice()
        && let Some(text) = args::topic(topic)
    {
        // Whoever reads only the first line has what they wanted.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return Ok(Exit::Ok);
    }
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for name in &args.topic {
        found = match found.find_subcommand_mut(name) {
            Some(subcommand) => subcommand,
            None => {
                return Err(Failure::usage(format!("no verb or topic {name:?}"))
                    .with_hint("`cairn --help` lists the verbs; exit-codes is the one topic"));
            }
        };
    }
    let _ = found.print_help();
    Ok(Exit::Ok)
}

fn report(failure: &Failure, json: bool) {
    let text = format!("{:#}", failure.error);
    // A reader that has gone away changes nothing about the exit code.
    let mut err = std::io::stderr();
    if json {
        let document = serde_json::json!({
            "error": text,
            "exit_code": failure.exit as u8,
            "hint": failure.hint,
        });
        let _ = writeln!(err, "{document}");
        return;
    }
    let _ = writeln!(err, "error: {text}");
    if let Some(hint) = &failure.hint {
        let _ = writeln!(err, "hint: {hint}");
    }
}
