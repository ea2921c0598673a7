//! `cairn wait`: until a checkpoint is there.

use std::time::Duration;

use anyhow::anyhow;
use cairn_client::Selector;
use clap::{Args, ValueEnum};
use tokio::time::{Instant, timeout_at};

use super::ls::{self, CheckpointRecord};
use crate::address;
use crate::exit::{Exit, Failure, Outcome};
use crate::session::{Session, interruptible, named_failure};

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// NAMESPACE@STEP, such as run1@1000, which need not be there yet; or NAMESPACE@REF
    address: String,
    /// Wait until it is committed, or until all R replicas of it are durable
    #[arg(long = "for", value_name = "STATE", default_value = "committed")]
    wanted: Wanted,
    /// Exit with code 8 after this long [default: wait for ever]
    #[arg(long, value_name = "TIME")]
    wait_timeout: Option<humantime::Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Committed,
    Full,
}

/// For ever, as far as a clock can count it.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

pub fn run(session: &Session, args: WaitArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    if !matches!(address.selector, Selector::Step(_) | Selector::Ref(_)) {
        return Err(Failure::usage(format!("{address} names no step and no ref"))
            .with_hint("wait needs a number or a ref after the @, such as run1@1000"));
    }
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let lasts = args.wait_timeout.map_or(FOR_EVER, Duration::from);
            let end = Instant::now() + lasts;
            let mut last = format!("{address} is not committed");
            let full = args.wanted == Wanted::Full;
            let waiting = client.wait_for(&address, full, |committed| {
                last = match committed {
                    Some(info) => format!("{address} is committed: {}", ls::durability(info)),
                    None => format!("{address} is not committed"),
                };
            });
            let waited = timeout_at(end, waiting).await;
            session.remember(&client)?;
            let info = match waited {
                Ok(found) => found.map_err(|error| named_failure(error, &address))?,
                Err(_) => {
                    let text = format!(
                        "waiting timed out after {}: {last}",
                        humantime::format_duration(lasts)
                    );
                    return Err(Failure::new(Exit::BelowPolicy, anyhow!(text)));
                }
            };
            session.output.result(&CheckpointRecord::new(&info), || {
                let replicas = ls::durability(&info);
                format!("{}@{} is committed: {replicas}\n", info.namespace, info.step)
            })?;
            Ok(Exit::Ok)
        })
        .await
    })
}
