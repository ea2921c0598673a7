//! `cairn rm`

use cairn_core::ids::Address;
use clap::Args;

use super::ls;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::bytes;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct RmArgs {
    /// NAMESPACE@SELECTOR, such as run1@1000
    address: String,
    /// Give the space back at once instead of after the grace
    #[arg(long)]
    now: bool,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

pub fn run(session: &Session, args: RmArgs) -> Outcome {
    let address: Address = args.address.parse().map_err(Failure::usage)?;
    let info = session.with_client(async |client| {
        if args.dry_run {
            client.resolve(&address).await
        } else {
            client.delete(&address, args.now).await
        }
    })?;
    let mut document = ls::document(&info);
    document["deleted"] = (!args.dry_run).into();
    session.output.result(&document, || {
        let name = format!("{}@{}", info.namespace, info.step);
        let size = bytes(info.bytes);
        match (args.dry_run, args.now) {
            (true, _) => format!("would delete {name}, {size}\n"),
            (false, true) => format!("deleted {name}; its space is given back now\n"),
            (false, false) => format!("deleted {name}; its space is given back after the grace\n"),
        }
    });
    Ok(Exit::Ok)
}
