//! `cairn version`

use cairn_proto::envelope::{FEATURE_LEVEL, PROTOCOL_VERSION};
use serde_json::json;

use crate::exit::{Exit, Outcome};
use crate::session::Session;

pub fn run(session: &Session) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let document =
        json!({"version": version, "protocol": PROTOCOL_VERSION, "feature_level": FEATURE_LEVEL});
    session.output.result(&document, || {
        format!("cairn {version}\nprotocol {PROTOCOL_VERSION}\nfeature level {FEATURE_LEVEL}\n")
    });
    Ok(Exit::Ok)
}
