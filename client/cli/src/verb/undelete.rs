//! `cairn undelete`

use cairn_types::ids::Selector;
use clap::Args;

use super::ls::CheckpointRecord;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::bytes;
use crate::session::Session;
use crate::{address, whoami};

#[derive(Debug, Args)]
pub struct UndeleteArgs {
    /// NAMESPACE@STEP, such as run1@1000; `cairn ls --deleted` lists what can be undeleted
    address: String,
    /// Print what would come back without undeleting it
    #[arg(long)]
    dry_run: bool,
}

pub fn run(session: &Session, args: UndeleteArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let Selector::Step(step) = address.selector else {
        return Err(Failure::usage(format!("{address} names no step"))
            .with_hint("undelete needs a number after the @, such as run1@1000"));
    };
    let namespace = &address.namespace;
    let info = session.with_client_about(&address, async |client| match args.dry_run {
        true => client.undeletable(namespace, step).await,
        false => client.undelete(namespace, step, &whoami::user()).await,
    })?;
    session.output.result(&CheckpointRecord::new(&info), || {
        let done = if args.dry_run { "would undelete" } else { "undeleted" };
        let size = bytes(info.bytes);
        let mut text = format!("{done} {}@{}, {size}\n", info.namespace, info.step);
        let hold = info.holds.iter().find(|hold| hold.owner == "undelete");
        if hold.is_some() {
            text.push_str("retention had let it go: a hold keeps it for a day\n");
        }
        text
    })?;
    Ok(Exit::Ok)
}
