//! `cairn du`

use cairn_client::{Namespace, NamespaceUsage};
use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Outcome};
use crate::output::{bytes, table};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct DuArgs {
    /// This namespace and those below it, such as llama [default: all]
    #[arg(value_name = "NAMESPACE")]
    prefix: Option<Namespace>,
}

pub fn run(session: &Session, args: DuArgs) -> Outcome {
    let found = session.with_client(async |client| client.usage(args.prefix.as_ref()).await)?;
    session.output.result(&document(&found), || {
        if found.is_empty() { String::new() } else { usage_table(&found) }
    })?;
    if found.is_empty() {
        session.output.say("no checkpoints");
    }
    Ok(Exit::Ok)
}

/// `du`.
#[derive(Serialize)]
pub(super) struct DuDocument<'a> {
    namespaces: Vec<UsageRecord<'a>>,
}

#[derive(Serialize)]
struct UsageRecord<'a> {
    namespace: &'a str,
    checkpoints: u64,
    logical_bytes: u64,
    stored_bytes: u64,
    /// Null for a token that may not read everything.
    unique_bytes: Option<u64>,
    shared_bytes: Option<u64>,
    trash_checkpoints: u64,
    trash_bytes: u64,
}

pub(super) fn document(found: &[NamespaceUsage]) -> DuDocument<'_> {
    fn record(usage: &NamespaceUsage) -> UsageRecord<'_> {
        UsageRecord {
            namespace: usage.namespace.as_str(),
            checkpoints: usage.checkpoints,
            logical_bytes: usage.logical_bytes,
            stored_bytes: usage.stored_bytes,
            unique_bytes: usage.unique_bytes,
            shared_bytes: usage.shared_bytes(),
            trash_checkpoints: usage.trash_checkpoints,
            trash_bytes: usage.trash_bytes,
        }
    }
    DuDocument { namespaces: found.iter().map(record).collect() }
}

pub(super) fn usage_table(found: &[NamespaceUsage]) -> String {
    let known = |number: Option<u64>| number.map_or("-".to_owned(), bytes);
    let heads = ["NAMESPACE", "CHECKPOINTS", "FILES", "STORED", "UNIQUE", "SHARED", "TRASH"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for usage in found {
        rows.push(vec![
            usage.namespace.to_string(),
            usage.checkpoints.to_string(),
            bytes(usage.logical_bytes),
            bytes(usage.stored_bytes),
            known(usage.unique_bytes),
            known(usage.shared_bytes()),
            bytes(usage.trash_bytes),
        ]);
    }
    table(&rows)
}
