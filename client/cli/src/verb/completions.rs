//! `cairn completions SHELL`: for a package to install beside the binary.

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::{Exit, Outcome};
use crate::output::print;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to print completions for
    shell: Shell,
}

pub fn run(_: &Session, args: CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cairn", &mut script);
    print(&String::from_utf8(script).context("completions are text")?)?;
    Ok(Exit::Ok)
}
