//! The command line as clap reads it. Raw arguments only: each verb checks and turns them into
//! what the libraries take.

use clap::Parser;

use crate::address::SELECTORS;
use crate::exit::EXIT_CODES;
use crate::global::Global;
use crate::verb::Verb;

/// Stores the checkpoints of large-model training: replicates them over nodes and racks, publishes
/// each one atomically, and verifies it on restore.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(
    after_help = "Topics: `cairn help selectors`, `cairn help json`, `cairn help exit-codes`."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Texts of `cairn help TOPIC` that are not verbs.
pub fn topic(name: &str) -> Option<&'static str> {
    match name {
        "exit-codes" => Some(EXIT_CODES),
        "selectors" => Some(SELECTORS),
        "json" => Some(include_str!("../JSON.md")),
        _ => None,
    }
}
