//! C5 and D7 over the answers to clients about refs, holds and quarantine. This model does not ask
//! the catalogue which marks protect a checkpoint.
//!
//! A mark is certain only if a client was told of it and no client has begun to change it since:
//!
//! ```text
//!   AddHold acknowledged ----------- protected ------> ReleaseHold begins, or its time may be over
//!   SetRef acknowledged, alone ----- protected ------> another move of that ref begins
//!   quarantine acknowledged -------- bad ------------> its lift begins
//! ```
//!
//! At every entry a protected checkpoint must be committed. A policy may delete only if a newer
//! checkpoint exists that is not known to be bad. The moves of each ref must be linearizable at the
//! end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_types::ids::CheckpointId;
use cairn_types::model::{CheckpointState, DeletedFor};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::c1_history::{CONFIGURATIONS_MAX, Moments, moment};
use super::linearizable::refs::{Input, Output, Ref};
use super::linearizable::{self, Operation};
use crate::cluster::Cluster;
use crate::monotonic::{RATES, counted};
use crate::trace;

/// Time between the proposal of a hold and its apply.
const SLACK: Duration = Duration::from_secs(2);

/// The state that clients share with the checkers. Cheap to clone. All clones are the same.
#[derive(Clone, Default)]
pub struct Marks {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    moments: Moments,
    refs: BTreeMap<RefKey, KnownRef>,
    /// Holds that certainly last, and until when.
    holds: BTreeMap<(CheckpointId, String), Option<Instant>>,
    /// Commands about holds that were begun and may still take effect.
    under_way: BTreeMap<(CheckpointId, String), u32>,
    /// Checkpoints that are certainly in quarantine, and since when.
    bad: BTreeMap<CheckpointId, Instant>,
    /// The end of the last lift. Without an end, the lift may still take effect at any time.
    lifts: BTreeMap<CheckpointId, Option<Instant>>,
    reports: u32,
}

type RefKey = (String, String);

#[derive(Default)]
struct KnownRef {
    operations: Vec<Operation<Input, Output>>,
    /// Moves that may still take effect, by place, with the generation that each expects.
    pending: BTreeMap<usize, Option<u64>>,
    names: Option<CheckpointId>,
}

/// A move of a ref that waits for its answer.
#[derive(Debug)]
pub struct RefCall {
    key: RefKey,
    place: usize,
    /// No other move was in progress when it began.
    alone: bool,
}

/// Refs.
impl Marks {
    /// A client begins to move a ref.
    pub fn move_begins(
        &self,
        (namespace, name): (&str, &str),
        who: &str,
        to: Option<CheckpointId>,
        expect: Option<u64>,
    ) -> RefCall {
        let mut inner = self.inner.lock();
        let called = inner.moments.now();
        let key = (namespace.to_owned(), name.to_owned());
        let known = inner.refs.entry(key.clone()).or_default();
        let (alone, place) = (known.pending.is_empty(), known.operations.len());
        let input = Input::Move { to, expect };
        known.operations.push(Operation { who: who.to_owned(), input, called, answer: None });
        known.pending.insert(place, expect);
        known.names = None;
        RefCall { key, place, alone }
    }

    /// The client gets the result of the move.
    pub fn moved(&self, call: &RefCall, output: Output) {
        let mut inner = self.inner.lock();
        let now = inner.moments.now();
        let Some(known) = inner.refs.get_mut(&call.key) else { return };
        known.pending.remove(&call.place);
        let is_last = known.pending.is_empty() && call.place + 1 == known.moves_until();
        let Some(operation) = known.operations.get_mut(call.place) else { return };
        if let (Input::Move { to, .. }, Output::Done) = (&operation.input, &output)
            && call.alone
            && is_last
        {
            known.names = *to;
        }
        operation.answer = Some((now, output));
    }

    /// A read of a ref between `began` and now.
    pub fn read(
        &self,
        (namespace, name): (&str, &str),
        who: &str,
        input: Input,
        output: Output,
        began: Instant,
    ) {
        trace::count("checked.refs", 1);
        let mut inner = self.inner.lock();
        let (called, answer) = (moment(began), Some((inner.moments.now(), output.clone())));
        let key = (namespace.to_owned(), name.to_owned());
        let known = inner.refs.entry(key).or_default();
        known.operations.push(Operation { who: who.to_owned(), input, called, answer });
        if let Output::Stands(generation, names) = output {
            // A move that expects another generation than the current one, or an older one, is
            // never made.
            let current = if names.is_some() { generation } else { 0 };
            known.pending.retain(|_, expect| expect.is_none_or(|expect| expect >= current));
            let settled = known
                .operations
                .iter()
                .rev()
                .all(|it| !matches!(it.input, Input::Move { .. }) || it.called < called);
            if known.pending.is_empty() && settled {
                known.names = names;
            }
        }
    }

    /// Refs whose moves and reads fit no order (C5).
    pub fn not_linearizable(&self) -> Vec<String> {
        let inner = self.inner.lock();
        let judge = |((namespace, name), known): (&RefKey, &KnownRef)| {
            trace::count("checked.ref_histories", 1);
            let judged = linearizable::check(&Ref, &known.operations, CONFIGURATIONS_MAX);
            judged.err().map(|failure| format!("ref {name} of {namespace}: {failure}"))
        };
        inner.refs.iter().filter_map(judge).collect()
    }
}

impl KnownRef {
    /// The place after the last move.
    fn moves_until(&self) -> usize {
        let is_move = |it: &Operation<Input, Output>| matches!(it.input, Input::Move { .. });
        self.operations.iter().rposition(is_move).map_or(0, |place| place + 1)
    }
}

/// Holds and quarantine.
impl Marks {
    /// A client begins to hold a checkpoint. An existing hold of this owner may end when the new
    /// one does.
    pub fn hold_begins(&self, id: CheckpointId, owner: &str, lasts: Option<Duration>) {
        let (mut inner, key) = (self.inner.lock(), (id, owner.to_owned()));
        let ends = lasts.map(|lasts| Instant::now() + at_least(lasts));
        if let (Some(ends), Some(until)) = (ends, inner.holds.get_mut(&key)) {
            *until = Some(until.map_or(ends, |until| until.min(ends)));
        }
        *inner.under_way.entry(key).or_default() += 1;
    }

    /// The hold that was requested at `began` exists and lasts this long.
    pub fn held(&self, id: CheckpointId, owner: &str, began: Instant, lasts: Option<Duration>) {
        self.hold_ended(id, owner);
        let (mut inner, key) = (self.inner.lock(), (id, owner.to_owned()));
        if !inner.under_way.contains_key(&key) {
            inner.holds.insert(key, lasts.map(|lasts| began + at_least(lasts)));
        }
    }

    /// An owner begins to end a hold. Returns whether the hold certainly exists at this time.
    pub fn release_begins(&self, id: CheckpointId, owner: &str) -> bool {
        let (mut inner, key) = (self.inner.lock(), (id, owner.to_owned()));
        let is_held = inner.holds.remove(&key).is_some_and(lasts);
        let under_way = inner.under_way.entry(key).or_default();
        *under_way += 1;
        is_held && *under_way == 1
    }

    /// A command about a hold got its answer.
    pub fn hold_ended(&self, id: CheckpointId, owner: &str) {
        let (mut inner, key) = (self.inner.lock(), (id, owner.to_owned()));
        if let Some(under_way) = inner.under_way.get_mut(&key) {
            *under_way -= 1;
            if *under_way == 0 {
                inner.under_way.remove(&key);
            }
        }
    }

    /// The checkpoints that this owner holds.
    pub fn held_by(&self, owner: &str) -> Vec<CheckpointId> {
        let inner = self.inner.lock();
        inner.holds.keys().filter(|(_, of)| of == owner).map(|(id, _)| *id).collect()
    }

    /// The quarantine that was requested at `began` is in force.
    pub fn quarantined(&self, id: CheckpointId, began: Instant) {
        let mut inner = self.inner.lock();
        let lifted = inner.lifts.get(&id);
        if lifted.is_none_or(|ended| ended.is_some_and(|ended| ended < began)) {
            inner.bad.entry(id).or_insert_with(Instant::now);
        }
    }

    pub fn lift_begins(&self, id: CheckpointId) {
        let mut inner = self.inner.lock();
        inner.bad.remove(&id);
        inner.lifts.insert(id, None);
    }

    /// The lift has taken effect.
    pub fn lifted(&self, id: CheckpointId) {
        self.inner.lock().lifts.insert(id, Some(Instant::now()));
    }

    /// Whether it was in quarantine from `began` until now.
    pub fn is_bad_since(&self, id: CheckpointId, began: Instant) -> bool {
        trace::count("checked.latest", 1);
        self.inner.lock().bad.get(&id).is_some_and(|since| *since < began)
    }
}

/// The shortest real time that a hold of this cluster time lasts, if a fast clock counts it.
fn at_least(lasts: Duration) -> Duration {
    lasts
        .mul_f64(counted(Duration::from_secs(1), *RATES.end()).as_secs_f64().recip())
        .saturating_sub(SLACK)
}

fn lasts(until: Option<Instant>) -> bool {
    until.is_none_or(|until| Instant::now() < until)
}

impl Marks {
    /// Call this with the catalogues before and after the entry at `index`.
    pub fn entry(&self, cluster: &Cluster, index: u64, before: &Catalogue, after: &Catalogue) {
        let mut inner = self.inner.lock();
        let deleted = |id: CheckpointId| {
            let was = before.checkpoint(id).is_some_and(|it| it.is_committed());
            was && !after.checkpoint(id).is_some_and(|it| it.is_committed())
        };
        let refs = inner
            .refs
            .iter()
            .filter_map(|((_, name), known)| Some((known.names?, format!("ref {name}"))));
        let holds = inner.holds.iter().filter(|(_, until)| lasts(**until));
        let holds = holds.map(|((id, owner), _)| (*id, format!("a hold of {owner}")));
        let kept: Vec<(CheckpointId, String)> = refs.chain(holds).collect();
        trace::count("checked.kept", kept.len() as u64);
        let gone = kept.into_iter().find(|(id, _)| deleted(*id));
        let mut broken: Vec<String> = Vec::new();
        broken.extend(gone.map(|(id, by)| format!("checkpoint {id} is gone, kept by {by}")));
        for record in before.checkpoints().filter(|it| it.is_committed() && deleted(it.id)) {
            let new = after.checkpoint(record.id);
            if !new.is_some_and(|new| new.deleted_for == Some(DeletedFor::Retention)) {
                continue;
            }
            trace::count("checked.let_go", 1);
            trace::count("retention.deleted", 1);
            let mut newer = before.commits(&record.namespace).take_while(|it| it.id != record.id);
            if newer.all(|it| inner.bad.contains_key(&it.id)) {
                let (id, namespace) = (record.id, &record.namespace);
                broken.push(format!("policy let {id} go, the newest good one of {namespace}"));
            }
        }
        let back = before.checkpoints().filter(|it| it.state == CheckpointState::Deleted);
        let back = back.filter(|it| after.checkpoint(it.id).is_some_and(|new| new.is_committed()));
        trace::count("undelete.restored", back.count() as u64);
        for text in broken {
            if inner.reports < super::REPORTS_MAX {
                inner.reports += 1;
                cluster.world().violation("D7", format!("entry {index}: {text}"));
            }
        }
    }
}
