//! `cairn version`

use cairn_host::envelope::PROTOCOL_VERSION;
use cairn_types::command::FEATURE_LEVEL;
use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Outcome};
use crate::session::Session;

/// Raised when a field of `--json` is renamed, removed or changes its meaning.
const JSON_FORM: u32 = 1;

#[derive(Debug, Args)]
pub struct VersionArgs {}

/// `version`.
#[derive(Serialize)]
struct VersionDocument {
    version: &'static str,
    protocol: u32,
    feature_level: u32,
    json_form: u32,
}

pub fn run(session: &Session, _: VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let document = VersionDocument {
        version,
        protocol: PROTOCOL_VERSION,
        feature_level: FEATURE_LEVEL,
        json_form: JSON_FORM,
    };
    session.output.result(&document, || {
        format!("cairn {version}\nprotocol {PROTOCOL_VERSION}\nfeature level {FEATURE_LEVEL}\n")
    })?;
    Ok(Exit::Ok)
}
