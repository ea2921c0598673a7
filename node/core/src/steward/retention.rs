//! Deletions by retention. A namespace is evaluated when what its rules look at has changed, or when
//! time alone may change what they come to; some namespaces a round.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Observations;
use crate::catalogue::{Catalogue, RetentionRun};
use cairn_types::command::{self, Body, DeleteReason};
use cairn_types::ids::Namespace;

/// Checkpoints whose deletion is proposed in a round: keeps upkeep from filling the log before
/// uploads get their turn.
const CHECKPOINTS_ROUND_MAX: usize = 8;
/// Commits evaluated in a round, at a microsecond each; one namespace is evaluated as a whole.
const COMMITS_ROUND_MAX: usize = 65_536;
/// The feature level from which a deletion says what policy was evaluated.
const VERSIONED_LEVEL: u32 = 2;

/// What is known of the namespaces that have rules. Good for one term of one leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evaluated {
    settled: BTreeMap<Namespace, Settled>,
    /// The namespace behind which the next round begins.
    after: Option<Namespace>,
}

/// A run that waits for a confirmation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub namespace: Namespace,
    pub policy_version: u64,
    pub checkpoints: u64,
}

/// A namespace where nothing is to be done until one of these changes or comes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settled {
    inputs: u64,
    policy_version: u64,
    next_wall_ms: Option<u64>,
    next_clock_ms: Option<u64>,
    waiting: u64,
    /// Whether its time zone is none that this build knows: it keeps all.
    is_unknown: bool,
}

impl Evaluated {
    /// Runs that wait, by namespace.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> {
        let waiting = self.settled.iter().filter(|(_, settled)| settled.waiting > 0);
        waiting.map(|(namespace, settled)| Waiting {
            namespace: namespace.clone(),
            policy_version: settled.policy_version,
            checkpoints: settled.waiting,
        })
    }

    /// Namespaces whose time zone this build does not know.
    pub fn in_unknown_zones(&self) -> impl Iterator<Item = &Namespace> {
        self.settled.iter().filter(|(_, settled)| settled.is_unknown).map(|(name, _)| name)
    }

    fn is_settled(&self, catalogue: &Catalogue, name: &Namespace, seen: &Observations) -> bool {
        let clock_ms = catalogue.cluster().clock_ms;
        self.settled.get(name).is_some_and(|known| {
            known.inputs == catalogue.retention_inputs(name)
                && known.policy_version == catalogue.policy_version(name)
                && known.next_wall_ms.is_none_or(|next_ms| seen.wall_ms < next_ms)
                && known.next_clock_ms.is_none_or(|next_ms| clock_ms < next_ms)
        })
    }
}

/// The deletions of one round.
pub(super) fn plan(
    catalogue: &Catalogue,
    seen: &Observations,
    evaluated: &mut Evaluated,
) -> Vec<Body> {
    evaluated.settled.retain(|name, _| catalogue.namespace(name).is_some());
    let mut bodies = Vec::new();
    let mut commits = 0;
    let after = evaluated.after.take();
    let behind =
        catalogue.namespaces_after(after.as_ref().map_or(Bound::Unbounded, Bound::Excluded));
    let first = after.iter().flat_map(|after| catalogue.namespaces_to(after));
    for name in behind.chain(first) {
        if evaluated.is_settled(catalogue, name, seen) {
            continue;
        }
        let room = CHECKPOINTS_ROUND_MAX - bodies.len();
        if room == 0 || commits >= COMMITS_ROUND_MAX {
            break;
        }
        evaluated.after = Some(name.clone());
        commits += catalogue.commit_count(name);
        let run = evaluate(catalogue, name, seen, room, evaluated);
        bodies.extend(deletions(catalogue, name, run));
    }
    bodies
}

/// What to do in one namespace; remembered where that is nothing.
fn evaluate(
    catalogue: &Catalogue,
    name: &Namespace,
    seen: &Observations,
    room: usize,
    evaluated: &mut Evaluated,
) -> RetentionRun {
    let mut settled = Settled {
        inputs: catalogue.retention_inputs(name),
        policy_version: catalogue.policy_version(name),
        next_wall_ms: None,
        next_clock_ms: None,
        waiting: 0,
        is_unknown: false,
    };
    let has_rules = !catalogue.full_policy(name).retention.rules.is_empty();
    let plan = has_rules.then(|| catalogue.retention_plan(name, None, seen.wall_ms));
    let run = match plan {
        None => RetentionRun::default(),
        Some(Ok(plan)) => {
            (settled.next_wall_ms, settled.next_clock_ms) = (plan.next_wall_ms, plan.next_clock_ms);
            plan.run(room)
        }
        Some(Err(_)) => {
            settled.is_unknown = true;
            RetentionRun::default()
        }
    };
    if run.deletes.is_empty() {
        settled.waiting = run.waiting;
        evaluated.settled.insert(name.clone(), settled);
    } else {
        evaluated.settled.remove(name);
    }
    run
}

fn deletions(
    catalogue: &Catalogue,
    name: &Namespace,
    run: RetentionRun,
) -> impl Iterator<Item = Body> + use<> {
    let version = catalogue.retention_version(name);
    let is_versioned = catalogue.cluster().feature_level >= VERSIONED_LEVEL;
    run.deletes.into_iter().map(move |checkpoint| {
        Body::Delete(command::Delete {
            checkpoint,
            reason: DeleteReason::Retention,
            now: false,
            force: false,
            policy_version: is_versioned.then_some(version),
            by: String::new(),
        })
    })
}
