//! `cairn key new`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use cairn_proto::tls::ClusterKey;
use clap::{Args, Subcommand};

use crate::exit::{Exit, Outcome};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// Write a new random key to FILE, readable by its owner only
    New {
        /// A file that does not exist yet
        file: PathBuf,
    },
}

pub fn run(session: &Session, args: KeyArgs) -> Outcome {
    let KeyVerb::New { file } = args.verb;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(&file).with_context(|| format!("create {}", file.display()))?;
    writeln!(out, "{}", ClusterKey::generate()).context("write key")?;
    out.sync_all().context("sync key")?;
    session.output.say(format!("wrote {}: copy it to every node and client", file.display()));
    Ok(Exit::Ok)
}
