//! `cairn hold add`, `rm`, `ls`

use std::time::Duration;

use cairn_client::ListedHold;
use cairn_types::ids::Namespace;
use cairn_types::marks::Hold;
use cairn_types::model::CheckpointInfo;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::ls::CheckpointRecord;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{table, wall_time};
use crate::session::Session;
use crate::{address, foreign, whoami};

#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(subcommand)]
    verb: HoldVerb,
}

#[derive(Debug, Subcommand)]
enum HoldVerb {
    /// Keep a checkpoint from deletion, such as
    /// `cairn hold add llama/pretrain@1000 --reason evaluation --for 7d`
    Add(AddArgs),
    /// End a hold
    Rm(RmArgs),
    /// List holds
    Ls(LsArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// NAMESPACE@SELECTOR, such as run1@1000 (`cairn help selectors`)
    address: String,
    /// Why it is kept
    #[arg(long)]
    reason: String,
    /// Who keeps it; a second hold of the same owner takes the place of the first [default: this
    /// user and host]
    #[arg(long)]
    owner: Option<String>,
    /// How long, such as 12h or 7d [default: until `cairn hold rm`]
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<humantime::Duration>,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// NAMESPACE@SELECTOR, such as run1@1000 (`cairn help selectors`)
    address: String,
    /// Whose hold [default: this user and host]
    #[arg(long)]
    owner: Option<String>,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Of this namespace and those below it [default: all]
    #[arg(value_name = "NAMESPACE")]
    prefix: Option<Namespace>,
}

pub fn run(session: &Session, args: HoldArgs) -> Outcome {
    match args.verb {
        HoldVerb::Add(args) => add(session, args),
        HoldVerb::Rm(args) => rm(session, args),
        HoldVerb::Ls(args) => list(session, args.prefix.as_ref()),
    }
}

fn add(session: &Session, args: AddArgs) -> Outcome {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty").with_hint("say why it is kept"));
    }
    let address = address::parse(&args.address)?;
    let owner = args.owner.unwrap_or_else(whoami::user);
    let lasts = args.lasts.map(Duration::from);
    let info = session.with_client_about(&address, async |client| {
        client.add_hold(&address, &owner, &args.reason, lasts).await
    })?;
    session.output.result(&CheckpointRecord::new(&info), || said(&info, &owner))?;
    Ok(Exit::Ok)
}

fn rm(session: &Session, args: RmArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let owner = args.owner.unwrap_or_else(whoami::user);
    let info = session
        .with_client_about(&address, async |client| client.release_hold(&address, &owner).await)?;
    session.output.result(&CheckpointRecord::new(&info), || {
        let (name, owner) = (format!("{}@{}", info.namespace, info.step), foreign::text(&owner));
        format!("{owner} no longer holds {name}; {}\n", count(&info))
    })?;
    Ok(Exit::Ok)
}

fn list(session: &Session, prefix: Option<&Namespace>) -> Outcome {
    let found = session.with_client(async |client| client.holds(prefix).await)?;
    session.output.result(&document(&found), || {
        if found.is_empty() { String::new() } else { hold_table(&found) }
    })?;
    if found.is_empty() {
        session.output.say("no holds");
    }
    Ok(Exit::Ok)
}

fn said(info: &CheckpointInfo, owner: &str) -> String {
    let name = format!("{}@{}", info.namespace, info.step);
    let own = info.holds.iter().find(|hold| hold.owner == owner);
    let until = own.map_or("-".to_owned(), end);
    format!("{} holds {name} until {until}; {}\n", foreign::text(owner), count(info))
}

fn count(info: &CheckpointInfo) -> String {
    format!("it has {}", crate::output::plural(info.holds.len() as u64, "hold"))
}

/// When a hold ends, for people.
fn end(hold: &Hold) -> String {
    hold.until_wall_ms.map_or("it is removed".to_owned(), wall_time)
}

/// A hold: in a checkpoint record, and in `hold ls`.
#[derive(Serialize)]
pub struct HoldRecord<'a> {
    owner: &'a str,
    reason: &'a str,
    since_ms: u64,
    /// Null: until it is removed.
    until_ms: Option<u64>,
}

impl<'a> HoldRecord<'a> {
    pub fn new(hold: &'a Hold) -> Self {
        Self {
            owner: &hold.owner,
            reason: &hold.reason,
            since_ms: hold.wall_ms,
            until_ms: hold.until_wall_ms,
        }
    }
}

/// `hold ls`.
#[derive(Serialize)]
struct HoldsDocument<'a> {
    holds: Vec<ListedRecord<'a>>,
}

/// A hold, and the checkpoint that it is on.
#[derive(Serialize)]
struct ListedRecord<'a> {
    namespace: &'a str,
    step: u64,
    id: u64,
    #[serde(flatten)]
    hold: HoldRecord<'a>,
}

fn document(found: &[ListedHold]) -> HoldsDocument<'_> {
    let record = found.iter().map(|listed| ListedRecord {
        namespace: listed.namespace.as_str(),
        step: listed.step.0,
        id: listed.checkpoint.0,
        hold: HoldRecord::new(&listed.hold),
    });
    HoldsDocument { holds: record.collect() }
}

pub(super) fn hold_table(found: &[ListedHold]) -> String {
    let mut rows = vec![["CHECKPOINT", "OWNER", "UNTIL", "REASON"].map(str::to_owned).to_vec()];
    for listed in found {
        let hold = &listed.hold;
        rows.push(vec![
            format!("{}@{}", listed.namespace, listed.step),
            foreign::text(&hold.owner),
            hold.until_wall_ms.map_or("-".to_owned(), wall_time),
            foreign::text(&hold.reason),
        ]);
    }
    table(&rows)
}

/// A line for each ref, each hold and the quarantine of a checkpoint.
pub fn marks(info: &CheckpointInfo) -> String {
    let mut text = String::new();
    if let Some(quarantine) = &info.quarantine {
        let (reason, by) = (foreign::text(&quarantine.reason), foreign::text(&quarantine.by));
        let since = wall_time(quarantine.wall_ms);
        text.push_str(&format!("quarantine: {reason} (by {by}, {since})\n"));
    }
    for name in &info.refs {
        text.push_str(&format!("ref {name}\n"));
    }
    for hold in &info.holds {
        let (owner, reason) = (foreign::text(&hold.owner), foreign::text(&hold.reason));
        text.push_str(&format!("hold of {owner} until {}: {reason}\n", end(hold)));
    }
    text
}
