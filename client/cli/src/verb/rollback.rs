//! `cairn rollback`

use cairn_client::{Client, ClientError, Refusal, RollbackReport};
use cairn_types::ids::{Address, Selector, Step};
use cairn_types::model::CheckpointState;
use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;

use super::ls::CheckpointRecord;
use crate::exit::{Exit, Outcome};
use crate::output::plural;
use crate::session::Session;
use crate::{address, foreign, whoami};

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// NAMESPACE@SELECTOR of the good checkpoint, such as run1@1000 (`cairn help selectors`)
    address: String,
    /// Why later steps must not be used, such as "loss spike"
    #[arg(long)]
    reason: String,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

pub fn run(session: &Session, args: RollbackArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let by = whoami::user();
    let done = session.with_client_about(&address, async |client| {
        let plan = plan(client, &address).await?;
        if args.dry_run {
            return Ok(plan);
        }
        let report = client.roll_back(&address, &args.reason, &by).await?;
        let RollbackReport { checkpoint, quarantined, aborted, .. } = report;
        let kept = plan.kept;
        let selector = Selector::Latest;
        let latest = Address { namespace: address.namespace.clone(), selector };
        let latest = client.resolve(&latest).await.ok().map(|info| info.step);
        Ok(Done { checkpoint, quarantined, aborted, kept, latest })
    })?;
    session.output.result(&document(&done, args.dry_run), || text(&done, args.dry_run))?;
    Ok(Exit::Ok)
}

/// What a rollback did, or would do.
pub(super) struct Done {
    pub checkpoint: cairn_types::model::CheckpointInfo,
    pub quarantined: u64,
    pub aborted: u64,
    /// Later steps that a ref or a hold keeps, and what keeps them: they cannot be written again.
    pub kept: Vec<(Step, String)>,
    /// What `latest` is now; `None` in a dry run, and where no node says so.
    pub latest: Option<Step>,
}

async fn plan(client: &Client, address: &Address) -> Result<Done, ClientError> {
    let checkpoint = client.resolve(address).await?;
    if let Some(quarantine) = &checkpoint.quarantine {
        let (checkpoint, reason) = (checkpoint.id, quarantine.reason.clone());
        return Err(ClientError::Refused(Refusal::Quarantined { checkpoint, reason }));
    }
    let found: Vec<_> = client.list(Some(&checkpoint.namespace), true).try_collect().await?;
    let later = found
        .iter()
        .filter(|info| info.namespace == checkpoint.namespace && info.step > checkpoint.step);
    let (mut quarantined, mut aborted, mut kept) = (0, 0, Vec::new());
    for info in later {
        let by = info.kept_by();
        if !by.is_empty() && info.state == CheckpointState::Committed {
            kept.push((info.step, by));
        }
        match info.state {
            CheckpointState::Committed if info.quarantine.is_none() => quarantined += 1,
            CheckpointState::Open => aborted += 1,
            CheckpointState::Committed | CheckpointState::Deleted => {}
        }
    }
    Ok(Done { checkpoint, quarantined, aborted, kept, latest: None })
}

/// `rollback`: the good checkpoint, and what became or would become of later ones.
#[derive(Serialize)]
struct RollbackDocument<'a> {
    #[serde(flatten)]
    checkpoint: CheckpointRecord<'a>,
    dry_run: bool,
    /// Number of checkpoints that are in quarantine now.
    quarantined: u64,
    /// Number of uploads that were ended.
    aborted: u64,
    /// What `latest` is now; null in a dry run.
    latest_step: Option<u64>,
    /// Later steps that cannot be written again.
    kept: Vec<KeptRecord<'a>>,
}

#[derive(Serialize)]
struct KeptRecord<'a> {
    step: u64,
    /// What keeps it.
    by: &'a str,
}

fn document(done: &Done, dry_run: bool) -> RollbackDocument<'_> {
    let kept = done.kept.iter().map(|(step, by)| KeptRecord { step: step.0, by });
    RollbackDocument {
        checkpoint: CheckpointRecord::new(&done.checkpoint),
        dry_run,
        quarantined: done.quarantined,
        aborted: done.aborted,
        latest_step: done.latest.map(|step| step.0),
        kept: kept.collect(),
    }
}

pub(super) fn text(done: &Done, dry_run: bool) -> String {
    let info = &done.checkpoint;
    let name = format!("{}@{}", info.namespace, info.step);
    let (later, open) =
        (plural(done.quarantined, "later checkpoint"), plural(done.aborted, "upload"));
    let mut text = match dry_run {
        true => format!("would go back to {name}: quarantine {later}, abort {open}\n"),
        false => format!("back to {name}: {later} in quarantine, {open} aborted\n"),
    };
    if let Some(latest) = done.latest.filter(|latest| *latest != info.step) {
        let why = "it was committed later";
        text.push_str(&format!("latest is {}@{latest}: {why}\n", info.namespace));
    }
    for (step, by) in &done.kept {
        let by = foreign::text(by);
        text.push_str(&format!("step {step} cannot be written again: it is kept by {by}\n"));
    }
    text
}
