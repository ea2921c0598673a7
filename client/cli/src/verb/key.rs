//! `cairn key new|ca`

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use cairn_host::tls::ClusterKey;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::secret_file;
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
    /// Print the authority of the cluster's certificates as PEM. A client that trusts it can read
    /// /healthz and /metrics over HTTPS, under the name `cairn`
    Ca,
}

/// `key new`.
#[derive(Serialize)]
struct NewDocument<'a> {
    file: Cow<'a, str>,
}

/// `key ca`.
#[derive(Serialize)]
struct CaDocument<'a> {
    pem: &'a str,
}

pub fn run(session: &Session, args: KeyArgs) -> Outcome {
    match args.verb {
        KeyVerb::New { file } => new(session, &file),
        KeyVerb::Ca => authority(session),
    }
}

fn authority(session: &Session) -> Outcome {
    let key = session.key()?.ok_or_else(|| Failure::usage("no key is given"));
    let key = key.map_err(|failure| failure.with_hint("give --cluster-key FILE"))?;
    let pem = key.authority_pem();
    session.output.result(&CaDocument { pem }, || pem.to_owned())?;
    Ok(Exit::Ok)
}

fn new(session: &Session, file: &Path) -> Outcome {
    secret_file::write(file, &ClusterKey::generate())?;
    session.output.result(&NewDocument { file: file.to_string_lossy() }, String::new)?;
    session.output.say(format!(
        "wrote {}: copy it to every node, and to clients without tokens; `cairn key ca` is for clients with a token",
        file.display()
    ));
    Ok(Exit::Ok)
}
