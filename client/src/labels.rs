//! Repairs time labels of a namespace that a wrong clock made.

use std::time::Duration;

use cairn_proto::wire;
use cairn_types::command::{self, Body, Reply};
use cairn_types::ids::{Namespace, Step};

use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// The changes that a repair would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRepairPlan {
    /// Labels later than this are set to this. Milliseconds since the Unix epoch, like all times
    /// here.
    pub to_ms: u64,
    /// The time now by the voters' median clock.
    pub now_ms: u64,
    /// The newest label of the namespace. Its commit may be deleted by now.
    pub newest_ms: u64,
    /// The number of commits with later labels, and the newest of them with their labels.
    pub commits: u64,
    pub newest: Vec<(Step, u64)>,
    /// The number of those commits whose labels a right clock may have made.
    pub commits_right: u64,
}

impl TimeRepairPlan {
    /// Whether the repair would change anything.
    pub fn changes(&self) -> bool {
        self.newest_ms > self.to_ms
    }
}

impl Client {
    /// The changes that [`Client::repair_time`] would make now. Without a time, the limit is now by
    /// the voters' median clock.
    pub fn plan_time_repair<'a>(
        &'a self,
        namespace: &'a Namespace,
        to_ms: Option<u64>,
    ) -> Answer<'a, TimeRepairPlan> {
        Box::pin(async move {
            let message = wire::PlanTimeRepairRequest { namespace: namespace.to_string(), to_ms };
            let reply = self
                .read("plan time repair", |mut stub, identity, _| {
                    let request = with_identity(message.clone(), &identity);
                    Box::pin(async move { stub.plan_time_repair(request).await })
                })
                .await?;
            let newest = reply.newest.iter().map(|commit| (Step(commit.step), commit.wall_ms));
            Ok(TimeRepairPlan {
                to_ms: reply.to_ms,
                now_ms: reply.now_ms,
                newest_ms: reply.newest_ms,
                commits: reply.commits,
                newest: newest.collect(),
                commits_right: reply.commits_right,
            })
        })
    }

    /// Sets labels of a namespace that are later than `to_ms` to `to_ms`. The next commits then get
    /// their labels from the clock again. Returns the number of changed commits.
    pub async fn repair_time(&self, namespace: &Namespace, to_ms: u64) -> Result<u64, ClientError> {
        let (mut changed, mut after) = (0, 0);
        loop {
            let body = Body::RepairTime(command::RepairTime {
                namespace: namespace.clone(),
                to_ms,
                after,
            });
            match self.execute(body, Duration::ZERO).await? {
                Reply::TimeRepaired { changed: now, next: None } => {
                    return Ok(changed + u64::from(now));
                }
                // Each entry must make progress in the log.
                Reply::TimeRepaired { changed: now, next: Some(next) } if next > after => {
                    changed += u64::from(now);
                    after = next;
                }
                other => return Err(malformed("time repair", format!("{other:?}"))),
            }
        }
    }
}
