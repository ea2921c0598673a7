//! `cairn rm`

use cairn_client::{ClientError, DeleteOptions};
use cairn_types::command::Refusal;
use cairn_types::ids::{Address, Selector, Step};
use cairn_types::model::{CheckpointInfo, CheckpointState};
use clap::Args;
use serde::Serialize;

use super::ls::CheckpointRecord;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::bytes;
use crate::session::Session;
use crate::{address, whoami};

#[derive(Debug, Args)]
pub struct RmArgs {
    /// NAMESPACE@SELECTOR, such as run1@1000 (`cairn help selectors`). Deletes the committed
    /// checkpoint; if the step has none, aborts its open upload
    address: String,
    /// Only abort the open upload of the step; keep its committed checkpoint
    #[arg(long, conflicts_with = "deleted")]
    open: bool,
    /// Only free, at once, the space of all checkpoints of the step that are already deleted and wait
    /// for their grace; keep its committed checkpoint and its open upload
    #[arg(long)]
    deleted: bool,
    /// Free the space at once instead of after the grace
    #[arg(long)]
    now: bool,
    /// Delete it also where refs or holds keep it
    #[arg(long, conflicts_with_all = ["open", "deleted"])]
    force: bool,
    /// Print what would be deleted without deleting it
    #[arg(long)]
    dry_run: bool,
}

pub fn run(session: &Session, args: RmArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    if args.deleted {
        return free_deleted(session, &address, &args);
    }
    let step = if args.open { Some(step_of(&address, "--open")?) } else { None };
    let options = DeleteOptions { now: args.now, force: args.force };
    let mut is_missing = false;
    let found = session.with_client_about(&address, async |client| {
        let found = match (step, args.dry_run) {
            (Some(step), true) => client.open_upload(&address.namespace, step).await,
            (Some(step), false) => client.abort_upload(&address.namespace, step, args.now).await,
            (None, true) => client.deletable_with(&address, options).await,
            (None, false) => client.delete_as(&address, options, &whoami::user()).await,
        };
        let missing = ClientError::refusal;
        is_missing = found
            .as_ref()
            .err()
            .and_then(missing)
            .is_some_and(|refusal| matches!(refusal, Refusal::NoSuchCheckpoint { .. }));
        found
    });
    let info =
        found.map_err(|failure| if is_missing { failure.with_hint(HINT) } else { failure })?;
    session.output.result(&document(&info, &args), || text(&info, &args))?;
    Ok(Exit::Ok)
}

const HINT: &str = "`cairn ls --open` lists checkpoints and open uploads; `cairn rm --deleted` frees \
    the space of a step that is already deleted";

fn free_deleted(session: &Session, address: &Address, args: &RmArgs) -> Outcome {
    let (namespace, step) = (&address.namespace, step_of(address, "--deleted")?);
    let found = session.with_client(async |client| match args.dry_run {
        true => client.deleted(namespace, step).await,
        false => client.free_deleted(namespace, step).await,
    })?;
    let checkpoints = found.iter().map(|info| document(info, args)).collect();
    session.output.result(&FreedDocument { checkpoints }, || {
        found.iter().map(|info| text(info, args)).collect::<String>()
    })?;
    Ok(Exit::Ok)
}

fn step_of(address: &Address, flag: &str) -> Result<Step, Failure> {
    match address.selector {
        Selector::Step(step) => Ok(step),
        _ => Err(Failure::usage(format!("{address} names no step"))
            .with_hint(format!("{flag} needs a number after the @, such as run1@1000"))),
    }
}

/// `rm`.
#[derive(Serialize)]
pub(super) struct RmDocument<'a> {
    #[serde(flatten)]
    checkpoint: CheckpointRecord<'a>,
    /// False with `--dry-run`.
    deleted: bool,
}

/// `rm --deleted`: there may be several of one step.
#[derive(Serialize)]
struct FreedDocument<'a> {
    checkpoints: Vec<RmDocument<'a>>,
}

pub(super) fn document<'a>(info: &'a CheckpointInfo, args: &RmArgs) -> RmDocument<'a> {
    RmDocument { checkpoint: CheckpointRecord::new(info), deleted: !args.dry_run }
}

pub(super) fn text(info: &CheckpointInfo, args: &RmArgs) -> String {
    let name = format!("{}@{}", info.namespace, info.step);
    let open = info.state == CheckpointState::Open;
    let size = bytes(if open { info.segment_bytes } else { info.bytes });
    let (will, done) = match info.state {
        CheckpointState::Open => ("abort the upload of", "aborted the upload of"),
        CheckpointState::Committed => ("delete", "deleted"),
        CheckpointState::Deleted => ("free the space of the deleted", "already deleted:"),
    };
    match (args.dry_run, args.now || args.deleted) {
        (true, _) => format!("would {will} {name}, {size}\n"),
        (false, true) => format!("{done} {name}; its space is freed now\n"),
        (false, false) if info.state == CheckpointState::Committed => format!(
            "{done} {name}; its space is freed after the grace, `cairn undelete {name}` brings it \
             back until then\n"
        ),
        (false, false) => format!("{done} {name}; its space is freed after the grace\n"),
    }
}
