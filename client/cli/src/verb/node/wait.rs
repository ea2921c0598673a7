//! `cairn node wait`: until a node is in a state, as its leader sees it.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep};

use super::{NodeRecord, named, state};
use crate::exit::{Exit, Failure, Outcome};
use crate::session::{Session, client_failure, interruptible};

/// How often the cluster is asked.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// State to wait for
    #[arg(long, value_name = "STATE", default_value = "up")]
    state: Wanted,
    /// Exit with code 8 after this long
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait_timeout: humantime::Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Up,
    Down,
    Removed,
}

impl Wanted {
    fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }
}

pub fn run(session: &Session, args: &WaitArgs) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let end = Instant::now() + Duration::from(args.wait_timeout);
            loop {
                let last = match client.status().await.map_err(client_failure) {
                    Ok(status) => match named::find(&status.nodes, &args.node) {
                        Ok(node) if state(node) == args.state.word() => {
                            let shown = NodeRecord::new(node, status.leader);
                            session.output.result(&shown, || {
                                format!("node {} ({}) is {}\n", node.id, node.host, state(node))
                            })?;
                            return Ok(Exit::Ok);
                        }
                        Ok(node) => format!("node {} ({}) is {}", node.id, node.host, state(node)),
                        // A node that joins has no name yet.
                        Err(failure) if failure.exit == Exit::NotFound => failure.error.to_string(),
                        Err(failure) => return Err(failure),
                    },
                    // A leader may be lost on the way.
                    Err(failure) if failure.exit == Exit::Unreachable => failure.error.to_string(),
                    Err(failure) => return Err(failure),
                };
                if Instant::now() >= end {
                    let wanted = args.state.word();
                    let text = format!(
                        "waiting for {wanted} timed out after {}: {last}",
                        args.wait_timeout
                    );
                    return Err(Failure::new(Exit::BelowPolicy, anyhow!(text)));
                }
                sleep(LOOK).await;
            }
        })
        .await
    })
}
