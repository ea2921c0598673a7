//! `cairn wait`: until a checkpoint is there. Built on a watch: it hears of it at once, from any node.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::anyhow;
use cairn_client::stream::StreamExt;
use cairn_client::{
    Address, CheckpointInfo, Client, ClientError, Refusal, Selector, WatchOptions, Watched,
};
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
            let waited = timeout_at(end, until(&client, &address, args.wanted, &mut last)).await;
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

/// Looks again whenever something happens in the namespace, and at each heartbeat: a node that comes
/// back makes replicas count without an event.
async fn until(
    client: &Client,
    address: &Address,
    wanted: Wanted,
    last: &mut String,
) -> Result<CheckpointInfo, ClientError> {
    loop {
        let prefix = Some(address.namespace.clone());
        let mut watch = client.watch(WatchOptions { prefix, from: None });
        while let Some(told) = watch.next().await {
            match told {
                Ok(Watched::Seam(_) | Watched::Event(_) | Watched::Cursor(_)) => {
                    if let ControlFlow::Break(info) = look(client, address, wanted, last).await? {
                        return Ok(info);
                    }
                }
                Ok(_) => {}
                Err(ClientError::Refused(
                    Refusal::CursorTooOld { .. } | Refusal::WatcherTooSlow,
                )) => break,
                Err(error) => return Err(error),
            }
        }
    }
}

async fn look(
    client: &Client,
    address: &Address,
    wanted: Wanted,
    last: &mut String,
) -> Result<ControlFlow<CheckpointInfo>, ClientError> {
    let info = match client.resolve(address).await {
        Ok(info) => info,
        Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. })) => {
            *last = format!("{address} is not committed");
            return Ok(ControlFlow::Continue(()));
        }
        Err(error) => return Err(error),
    };
    if let Some(quarantine) = &info.quarantine {
        let (checkpoint, reason) = (info.id, quarantine.reason.clone());
        return Err(ClientError::Refused(Refusal::Quarantined { checkpoint, reason }));
    }
    let durability = &info.durability;
    let is_full =
        durability.segments_below == 0 && durability.replicas_min >= durability.replicas_wanted;
    if wanted == Wanted::Committed || is_full {
        return Ok(ControlFlow::Break(info));
    }
    *last = format!("{address} is committed: {}", ls::durability(&info));
    Ok(ControlFlow::Continue(()))
}
