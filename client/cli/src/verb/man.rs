//! `cairn man DIR`: for a package to install beside the binary.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::exit::{Exit, Outcome};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for the pages; created if missing
    directory: PathBuf,
}

pub fn run(_: &Session, args: ManArgs) -> Outcome {
    let directory = &args.directory;
    let context = || format!("write man pages to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(context)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(context)?;
    Ok(Exit::Ok)
}
