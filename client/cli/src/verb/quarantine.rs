//! `cairn quarantine`

use cairn_types::model::CheckpointInfo;
use clap::Args;
use serde::Serialize;

use super::ls::CheckpointRecord;
use crate::exit::{Exit, Outcome};
use crate::session::Session;
use crate::{address, whoami};

#[derive(Debug, Args)]
pub struct QuarantineArgs {
    /// NAMESPACE@SELECTOR, such as run1@1000 (`cairn help selectors`)
    address: String,
    /// Why it must not be used, such as "loss is NaN"
    #[arg(long, required_unless_present = "lift")]
    reason: Option<String>,
    /// Take it out of quarantine
    #[arg(long, conflicts_with = "reason")]
    lift: bool,
}

/// `quarantine`.
#[derive(Serialize)]
struct QuarantineDocument<'a> {
    #[serde(flatten)]
    checkpoint: CheckpointRecord<'a>,
    /// False with `--lift`.
    quarantined: bool,
}

pub fn run(session: &Session, args: QuarantineArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let by = whoami::user();
    let reason = args.reason.unwrap_or_default();
    let info = session.with_client_about(&address, async |client| match args.lift {
        true => client.lift_quarantine(&address, &by).await,
        false => client.quarantine(&address, &reason, &by).await,
    })?;
    let checkpoint = CheckpointRecord::new(&info);
    let document = QuarantineDocument { checkpoint, quarantined: !args.lift };
    session.output.result(&document, || text(&info, args.lift))?;
    Ok(Exit::Ok)
}

pub(super) fn text(info: &CheckpointInfo, lift: bool) -> String {
    let name = format!("{}@{}", info.namespace, info.step);
    match lift {
        true => format!("{name} is out of quarantine\n"),
        false => format!("{name} is in quarantine: `latest` and times pass it over\n"),
    }
}
