//! `cairn help [VERB|TOPIC]`

use clap::{Args, CommandFactory};

use crate::args::{self, Cli};
use crate::exit::{Exit, Outcome};
use crate::session::Session;
use crate::{output, print_help, usage_failure};

#[derive(Debug, Args)]
pub struct HelpArgs {
    /// A verb, or selectors, json, exit-codes
    pub topic: Vec<String>,
}

pub fn run(_: &Session, args: HelpArgs) -> Outcome {
    if let [topic] = args.topic.as_slice()
        && let Some(text) = args::topic(topic)
    {
        output::print(text)?;
        return Ok(Exit::Ok);
    }
    // As if `--help` were given to the verb; clap knows aliases and what is nearly a verb.
    let words = ["cairn"].into_iter().chain(args.topic.iter().map(String::as_str));
    match Cli::command().try_get_matches_from(words.chain(["--help"])) {
        Err(error) if !error.use_stderr() => print_help(&error),
        Err(error) => {
            let failure = usage_failure(&error);
            let hint = failure.hint.clone().unwrap_or_else(|| {
                "`cairn --help` lists the verbs; topics are selectors, json and exit-codes".into()
            });
            Err(failure.with_hint(hint))
        }
        Ok(_) => Ok(Exit::Ok),
    }
}
