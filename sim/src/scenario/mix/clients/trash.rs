//! Rules of retention that change during a run, and the way back out of the trash: of what retention
//! let go, what a client deleted, and what another version replaced.
//!
//! These are commands of a newer build: they are not sent while a node has an older one.

use std::time::Duration;

use cairn_client::stream::TryStreamExt;
use cairn_client::{ClientError, DeletedFor, ListFilter, ListOptions, ListedStates, PolicyEdit};
use cairn_types::command::{ConfirmRetention, Undelete};
use cairn_types::model::{CheckpointInfo, PolicyChange};
use cairn_types::retention::{BestRule, Extreme, RetentionChange};
use tokio::time::sleep;

use super::notes::{NOTE, seen};
use super::writes::namespace;
use super::{AGAINST, Acting};
use crate::checkers::c1_history::{Asked, VersionId};
use crate::checkers::linearizable::catalogue::{Input, Output, Rules};
use crate::trace;

/// So many undeletions are in the namespace that all write.
const IN_AGAINST: f64 = 0.25;
/// So many ask for any deleted record, also for one whose time in the trash is over.
const ANY_RECORD: f64 = 0.2;
/// After a change of the rules, a large run of retention is confirmed this often.
const CONFIRMED: f64 = 0.7;
/// Longest pause between a deletion and the undeletion of the same, at the usual pace.
const THINKS_MS: u64 = 3_000;

impl Acting {
    /// Other rules for the own namespace: some are switched on, and the rest off.
    pub(super) async fn rules(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let rules = self.script.draw(|chance| {
            let last = if chance.chance(0.5) { chance.range(1..4) as u32 } else { 0 };
            let every_steps = if chance.chance(0.4) { chance.range(2..5) } else { 0 };
            let best = if chance.chance(0.4) { chance.range(1..3) as u32 } else { 0 };
            Rules { last, every_steps, best }
        });
        self.note(format!("set {rules:?} of {name}"));
        let call = {
            let mut history = self.shared.history.lock();
            if rules != Rules::default() {
                // What only other rules keep is not counted on.
                history.keep_last(&name, rules.last.max(1) as usize);
            }
            history.call(&name, &self.script.name, Input::Rules(rules))
        };
        let set = self.sdk.edit_policy(&namespace(&name)?, edit(rules)).await;
        set.map_err(|error| format!("set rules of {name}: {error}"))?;
        self.shared.history.lock().answer(&call, Output::Done);
        trace::count("client.rules", 1);
        if self.script.draw(|chance| chance.chance(CONFIRMED)) {
            self.confirm(&name).await?;
        }
        self.look_elsewhere(&name, Asked::Latest).await
    }

    /// Confirms a large run of retention that waits.
    async fn confirm(&self, name: &str) -> Result<(), String> {
        let plan = self.sdk.plan_retention(&namespace(name)?, &Default::default()).await;
        let plan = plan.map_err(|error| format!("plan retention of {name}: {error}"))?;
        if !plan.waits() {
            return Ok(());
        }
        let body = ConfirmRetention {
            namespace: namespace(name)?,
            policy_version: plan.policy_version,
            checkpoints: plan.let_go,
        };
        match self.sdk.execute(body.into(), Duration::ZERO).await {
            Ok(_) => trace::count("client.confirmations", 1),
            // Others have changed the policy meanwhile.
            Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(format!("confirm retention of {name}: {error}")),
        }
        Ok(())
    }

    /// Something comes back from the trash. Where nothing is in it, something goes there first.
    pub(super) async fn undelete(&self) -> Result<(), String> {
        let own = self.script.namespace();
        let (name, any) = self.script.draw(|chance| {
            let name = if chance.chance(IN_AGAINST) { AGAINST.to_owned() } else { own.clone() };
            (name, chance.chance(ANY_RECORD))
        });
        let mut deleted = self.in_trash(&name, any).await?;
        if deleted.is_empty() && name == own {
            let Some((step, ..)) = self.script.state.lock().last.clone() else { return Ok(()) };
            self.delete_at(&name, step, false).await?;
            let pause_ms = self.script.draw(|chance| chance.below(THINKS_MS));
            sleep(self.shared.plan.paced(Duration::from_millis(pause_ms))).await;
            deleted = self.in_trash(&name, any).await?;
        }
        let picked = self.script.draw(|chance| chance.pick(&deleted).cloned());
        let Some(info) = picked else { return Ok(()) };
        match self.bring_back(&name, &info).await? {
            // It is whole.
            true => self.get(&name, Asked::Step(info.step.0)).await.map(drop),
            false => self.look_elsewhere(&name, Asked::Step(info.step.0)).await,
        }
    }

    /// In calm, what was deleted just now comes back, and is whole.
    pub(super) async fn comes_back(&self, step: u64) -> Result<(), String> {
        if self.shared.plan.older != 0 {
            return Ok(());
        }
        let name = self.script.namespace();
        self.delete_at(&name, step, false).await?;
        let deleted = self.in_trash(&name, false).await?;
        let Some(info) = deleted.into_iter().find(|info| info.step.0 == step) else {
            // Another client's ref or hold keeps it from deletion.
            return match self.get(&name, Asked::Step(step)).await? {
                true => Ok(()),
                false => Err(format!("{name}@{step} is neither there nor in the trash")),
            };
        };
        if !self.bring_back(&name, &info).await? {
            return Err(format!("{name}@{step} does not come back from the trash"));
        }
        match self.get(&name, Asked::Step(step)).await? {
            true => Ok(()),
            false => Err(format!("{name}@{step} is not found after its undeletion")),
        }
    }

    /// Deleted checkpoints of this namespace that can be undeleted, or all.
    async fn in_trash(&self, name: &str, any: bool) -> Result<Vec<CheckpointInfo>, String> {
        let prefix = namespace(name)?;
        let states = ListedStates { deleted: true, ..ListedStates::NONE };
        let options = ListOptions { prefix: Some(prefix.clone()), filter: ListFilter::of(states) };
        let all = self.sdk.list_by(options).try_collect::<Vec<_>>().await;
        let mut all = all.map_err(|error| format!("list the trash of {name}: {error}"))?;
        all.retain(|info| {
            let restorable = info.deletion.as_ref().is_some_and(|it| it.restorable_ms > 0);
            info.namespace == prefix && info.commit.is_some() && (any || restorable)
        });
        Ok(all)
    }

    /// Whether it came back. Otherwise it was refused.
    async fn bring_back(&self, name: &str, info: &CheckpointInfo) -> Result<bool, String> {
        self.note(format!("undelete {} of {name}", info.id));
        let id: VersionId = match seen(info) {
            Ok((step, attempt, _)) => (step, attempt),
            Err(broken) => {
                self.broken(broken);
                return Ok(false);
            }
        };
        let call = {
            let mut history = self.shared.history.lock();
            history.call(name, &self.script.name, Input::Undelete(id))
        };
        let body = Undelete { checkpoint: info.id, by: self.script.name.clone() };
        let output = match self.sdk.execute(body.into(), Duration::ZERO).await {
            Ok(_) => Output::Done,
            // Its time is over, another version has the step, or another client was faster.
            Err(ClientError::Refused(_)) => Output::Refused,
            Err(error) => return Err(format!("undelete {name}@{id:?}: {error}")),
        };
        let is_back = output == Output::Done;
        self.shared.history.lock().answer(&call, output);
        trace::count(if is_back { "client.undeleted" } else { "client.undeletes_refused" }, 1);
        let reason = info.deletion.as_ref().map(|it| it.reason);
        let by_retention = reason == Some(DeletedFor::Retention);
        trace::count("client.undeleted_of_retention", u64::from(is_back && by_retention));
        Ok(is_back)
    }
}

/// Says each of the rules, so that nothing of earlier ones is left.
fn edit(rules: Rules) -> PolicyEdit {
    let best = BestRule { metric: NOTE.to_owned(), extreme: Extreme::Max, count: rules.best };
    let retention = RetentionChange {
        every_steps: Some(rules.every_steps),
        best: Some(Vec::from_iter((rules.best > 0).then_some(best))),
        ..RetentionChange::default()
    };
    let change = PolicyChange { keep_last: Some(rules.last), ..PolicyChange::default() };
    PolicyEdit { change, retention, unset: Vec::new() }
}
