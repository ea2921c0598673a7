//! `cairn ref set`, `rm`, `ls`, `log`

use cairn_client::RefList;
use cairn_types::ids::{Address, Namespace, RefName, Selector};
use cairn_types::marks::{NamedRef, RefMove};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::ls::CheckpointRecord;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{table, wall_time};
use crate::session::Session;
use crate::{address, foreign, whoami};

#[derive(Debug, Args)]
pub struct RefArgs {
    #[command(subcommand)]
    verb: RefVerb,
}

#[derive(Debug, Subcommand)]
enum RefVerb {
    /// Point a ref at a checkpoint, such as `cairn ref set llama/pretrain@production 1000`
    Set(SetArgs),
    /// Remove a ref; the checkpoint stays
    Rm(RmArgs),
    /// List the refs of a namespace
    Ls(LsArgs),
    /// Show where a ref pointed: its last 32 moves
    Log(LogArgs),
}

#[derive(Debug, Args)]
struct SetArgs {
    /// NAMESPACE@NAME: a letter, then letters, digits, '.', '_', '-'
    #[arg(value_name = "REF")]
    name: String,
    /// The checkpoint, as behind the @ of an address: a step, latest, another ref
    #[arg(value_name = "SELECTOR")]
    selector: String,
    /// Only if the ref is at this generation (`cairn ref ls`); 0: only if there is none
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// NAMESPACE@NAME
    #[arg(value_name = "REF")]
    name: String,
    /// Only if the ref is at this generation (`cairn ref ls`)
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// The namespace, such as llama/pretrain
    namespace: Namespace,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// NAMESPACE@NAME
    #[arg(value_name = "REF")]
    name: String,
}

pub fn run(session: &Session, args: RefArgs) -> Outcome {
    match args.verb {
        RefVerb::Set(args) => set(session, &args),
        RefVerb::Rm(args) => rm(session, &args),
        RefVerb::Ls(args) => list(session, &args.namespace),
        RefVerb::Log(args) => log(session, &args.name),
    }
}

fn set(session: &Session, args: &SetArgs) -> Outcome {
    let (namespace, name) = parse(&args.name)?;
    let address = address::parse(&format!("{namespace}@{}", args.selector))?;
    let by = whoami::user();
    let info = session.with_client_about(&address, async |client| {
        client.set_ref(&name, &address, args.expect, &by).await
    })?;
    let document = SetDocument { checkpoint: CheckpointRecord::new(&info), name: name.as_str() };
    session.output.result(&document, || format!("{namespace}@{name} is step {}\n", info.step))?;
    Ok(Exit::Ok)
}

fn rm(session: &Session, args: &RmArgs) -> Outcome {
    let (namespace, name) = parse(&args.name)?;
    let by = whoami::user();
    session
        .with_client(async |client| client.remove_ref(&namespace, &name, args.expect, &by).await)?;
    let document = RmDocument { namespace: namespace.as_str(), name: name.as_str(), removed: true };
    session.output.result(&document, || format!("removed {namespace}@{name}\n"))?;
    Ok(Exit::Ok)
}

fn list(session: &Session, namespace: &Namespace) -> Outcome {
    let mut found = session.with_client(async |client| client.refs(namespace).await)?;
    found.refs.retain(|named| named.target.checkpoint.is_some());
    let refs = found.refs.iter().map(|named| document(&found, named)).collect();
    session.output.result(&LsDocument { namespace: namespace.as_str(), refs }, || {
        if found.refs.is_empty() { String::new() } else { ref_table(&found) }
    })?;
    if found.refs.is_empty() {
        session.output.say(format!("no refs in {namespace}"));
    }
    Ok(Exit::Ok)
}

fn log(session: &Session, name: &str) -> Outcome {
    let (namespace, name) = parse(name)?;
    let found = session.with_client(async |client| client.refs(&namespace).await)?;
    let Some(named) = found.refs.iter().find(|named| named.name == name) else {
        let error = anyhow::anyhow!("no ref {name} in {namespace}, now or before");
        return Err(Failure::new(Exit::NotFound, error)
            .with_hint(format!("`cairn ref ls {namespace}` lists the refs")));
    };
    session.output.result(&document(&found, named), || move_table(&found, named))?;
    Ok(Exit::Ok)
}

/// A ref is addressed as the checkpoint it names.
fn parse(text: &str) -> Result<(Namespace, RefName), Failure> {
    let address: Result<Address, _> = text.parse();
    match address {
        Ok(Address { namespace, selector: Selector::Ref(name) }) => Ok((namespace, name)),
        _ => Err(Failure::usage(format!("malformed ref {text:?}"))
            .with_hint("expected NAMESPACE@NAME, such as llama/pretrain@production; a name begins with a letter; latest, best, time and id are reserved")),
    }
}

/// `ref set`.
#[derive(Serialize)]
struct SetDocument<'a> {
    #[serde(flatten)]
    checkpoint: CheckpointRecord<'a>,
    #[serde(rename = "ref")]
    name: &'a str,
}

/// `ref rm`.
#[derive(Serialize)]
struct RmDocument<'a> {
    namespace: &'a str,
    #[serde(rename = "ref")]
    name: &'a str,
    removed: bool,
}

/// `ref ls`.
#[derive(Serialize)]
struct LsDocument<'a> {
    namespace: &'a str,
    refs: Vec<RefRecord<'a>>,
}

/// A ref: in `ref ls` and `ref log`.
#[derive(Serialize)]
pub(super) struct RefRecord<'a> {
    #[serde(rename = "ref")]
    name: &'a str,
    /// Rises by one with each move.
    generation: u64,
    /// Of what it names: null where it was removed.
    id: Option<u64>,
    /// Null also where the checkpoint is gone.
    step: Option<u64>,
    /// The last 32, oldest first.
    moves: Vec<MoveRecord<'a>>,
}

#[derive(Serialize)]
struct MoveRecord<'a> {
    generation: u64,
    id: Option<u64>,
    step: Option<u64>,
    by: &'a str,
    moved_ms: u64,
}

pub(super) fn document<'a>(found: &RefList, named: &'a NamedRef) -> RefRecord<'a> {
    let step = |moved: &RefMove| {
        let id = moved.checkpoint?;
        found.steps.get(&id).map(|step| step.0)
    };
    let target = &named.target;
    let moves = target.history.iter().map(|moved| MoveRecord {
        generation: moved.generation,
        id: moved.checkpoint.map(|id| id.0),
        step: step(moved),
        by: &moved.by,
        moved_ms: moved.wall_ms,
    });
    RefRecord {
        name: named.name.as_str(),
        generation: target.generation,
        id: target.checkpoint.map(|id| id.0),
        step: target.history.last().and_then(step),
        moves: moves.collect(),
    }
}

/// Where a move went, for people.
fn place(found: &RefList, moved: &RefMove) -> String {
    match moved.checkpoint {
        None => "removed".to_owned(),
        Some(id) => found.steps.get(&id).map_or("deleted".to_owned(), ToString::to_string),
    }
}

fn by(moved: &RefMove) -> String {
    if moved.by.is_empty() { "-".to_owned() } else { foreign::text(&moved.by) }
}

pub(super) fn ref_table(found: &RefList) -> String {
    let heads = ["REF", "STEP", "GENERATION", "MOVED", "BY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for named in &found.refs {
        let Some(last) = named.target.history.last() else { continue };
        rows.push(vec![
            named.name.to_string(),
            place(found, last),
            named.target.generation.to_string(),
            wall_time(last.wall_ms),
            by(last),
        ]);
    }
    table(&rows)
}

pub(super) fn move_table(found: &RefList, named: &NamedRef) -> String {
    let heads = ["GENERATION", "STEP", "MOVED", "BY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for moved in named.target.history.iter().rev() {
        rows.push(vec![
            moved.generation.to_string(),
            place(found, moved),
            wall_time(moved.wall_ms),
            by(moved),
        ]);
    }
    table(&rows)
}
