//! Taking back the time labels of a namespace that a wrong clock made.

use std::time::Duration;

use cairn_proto::wire;
use cairn_types::command::{self, Body, Reply};
use cairn_types::ids::{Namespace, Step};

use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// What a repair would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRepairPlan {
    /// Labels later than this get this; milliseconds since the Unix epoch, as all times here.
    pub to_ms: u64,
    /// What time it is by the voters' median clock.
    pub now_ms: u64,
    /// The newest label of the namespace, whose commit may be deleted by now.
    pub newest_ms: u64,
    /// Commits that are labelled later, and the newest of them with their labels.
    pub commits: u64,
    pub newest: Vec<(Step, u64)>,
    /// Of these commits, those whose labels a right clock may have made.
    pub commits_right: u64,
}

impl TimeRepairPlan {
    /// Whether there is something to repair.
    pub fn changes(&self) -> bool {
        self.newest_ms > self.to_ms
    }
}

impl Client {
    /// What [`Client::repair_time`] would change now; without a time, up to now by the voters'
    /// median clock.
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

    /// Gives commits of a namespace that are labelled later than `to_ms` this label, and lets the
    /// next commits be labelled by the clock again. How many were changed.
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
                // Each entry gets further in the log.
                Reply::TimeRepaired { changed: now, next: Some(next) } if next > after => {
                    changed += u64::from(now);
                    after = next;
                }
                other => return Err(malformed("time repair", format!("{other:?}"))),
            }
        }
    }
}
