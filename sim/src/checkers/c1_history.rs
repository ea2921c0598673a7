//! C1, D4, D5 over the clients' observations: a history of puts, deletes and reads.
//!
//! Checked at once: a version that no client put is never seen, and read bytes equal the bytes that
//! were put. Checked at the end: the operations of each namespace, with the times of their calls
//! and answers, must be linearizable ([`super::linearizable`]).
//!
//! Most namespaces have one writer that does one thing at a time, so that time orders their
//! versions. For these the history alone tells which versions must exist at the end. The catalogue
//! is not asked.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::linearizable::catalogue::{Catalogue, Input, Output};
use super::linearizable::{self, Operation};
use crate::checkpoint_files::Files;
use crate::trace;

/// Most configurations tried for one namespace: a few hundred megabytes and seconds.
pub(super) const CONFIGURATIONS_MAX: usize = 200_000;

/// A step and the attempt of an upload. A client distinguishes versions of a step by these.
pub type VersionId = (u64, u64);

/// A version that was read, and the note on it.
pub type Seen = (u64, u64, u64);

struct Version {
    step: u64,
    attempt: u64,
    files: Files,
    /// First acknowledged, or seen by a reader.
    visible: Option<Instant>,
    /// The time from which it may be deleted, and the time from which it is.
    maybe_gone: Option<Instant>,
    gone: Option<Instant>,
}

#[derive(Default)]
struct Namespace {
    /// In the order they were begun.
    versions: Vec<Version>,
    keep_last: Option<(usize, Instant)>,
    /// Time does not order its versions.
    many_writers: bool,
    operations: Vec<Operation<Input, Output>>,
    /// For uploads by several writers: the parts that have begun, and their total number.
    parts: BTreeMap<VersionId, (BTreeSet<u64>, u64)>,
}

/// A call that waits for its answer. Without an answer its outcome is unknown.
#[derive(Debug, Clone)]
pub struct Call {
    namespace: String,
    place: usize,
}

/// Bits for the moments within one microsecond: more moments than a run has calls.
const MOMENT_BITS: u32 = 20;

/// The subject of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Step(u64),
    Latest,
}

impl Asked {
    fn input(self) -> Input {
        match self {
            Self::Step(step) => Input::Step(step),
            Self::Latest => Input::Latest,
        }
    }
}

#[derive(Default)]
pub struct History {
    namespaces: BTreeMap<String, Namespace>,
    moments: Moments,
}

/// Orders the events within one microsecond.
#[derive(Default)]
pub(super) struct Moments(u64);

impl Moments {
    /// Returns a new moment. No two moments are equal.
    pub fn now(&mut self) -> u64 {
        self.0 += 1;
        (trace::now_us() << MOMENT_BITS) + self.0 % (1 << MOMENT_BITS)
    }
}

fn earlier(place: &mut Option<Instant>, time: Instant) {
    *place = Some(place.map_or(time, |old| old.min(time)));
}

/// The records for the end of the run.
impl History {
    fn record(&mut self, name: &str, who: &str, input: Input, called: u64) -> Call {
        let operations = &mut self.namespaces.entry(name.to_owned()).or_default().operations;
        operations.push(Operation { who: who.to_owned(), input, called, answer: None });
        Call { namespace: name.to_owned(), place: operations.len() - 1 }
    }

    /// A call of a client begins now.
    pub fn call(&mut self, name: &str, who: &str, input: Input) -> Call {
        let now = self.now();
        self.record(name, who, input, now)
    }

    /// Like [`call`](Self::call), for a call that began at the given time.
    pub fn call_since(&mut self, name: &str, who: &str, input: Input, began: Instant) -> Call {
        self.record(name, who, input, moment(began))
    }

    /// The call is answered now.
    pub fn answer(&mut self, call: &Call, output: Output) {
        let now = self.now();
        let namespace = self.namespaces.get_mut(&call.namespace);
        if let Some(operation) = namespace.and_then(|it| it.operations.get_mut(call.place)) {
            operation.answer = Some((now, output));
        }
    }

    fn now(&mut self) -> u64 {
        self.moments.now()
    }

    /// A writer begins its part of an upload by `parts`. Once all parts have begun, the upload may
    /// commit at any time, and any writer may seal last.
    pub fn part_begins(&mut self, name: &str, version: VersionId, part: u64, parts: u64) {
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        let (begun, _) = namespace.parts.entry(version).or_insert((BTreeSet::new(), parts));
        if begun.insert(part) && begun.len() as u64 == parts {
            self.call(name, "the last part", Input::Put(version));
        }
    }

    /// A client whose call began at that time learns of the commit now.
    pub fn saw(&mut self, name: &str, who: &str, version: VersionId, began: Instant) {
        let call = self.record(name, who, Input::Saw(version), moment(began));
        self.answer(&call, Output::Done);
    }

    /// This namespace has many writers.
    pub fn many_writers(&mut self, name: &str) {
        self.namespaces.entry(name.to_owned()).or_default().many_writers = true;
    }

    /// The namespaces whose operations fit no order, with the reason (C1).
    pub fn not_linearizable(&self) -> Vec<String> {
        let judge = |(name, namespace): (&String, &Namespace)| {
            trace::count("checked.histories", 1);
            trace::count("checked.operations", namespace.operations.len() as u64);
            match linearizable::check(&Catalogue, &namespace.operations, CONFIGURATIONS_MAX) {
                Ok(looked) => {
                    trace::count("checked.configurations", looked as u64);
                    None
                }
                Err(failure) => Some(format!("{name}: {failure}")),
            }
        };
        self.namespaces.iter().filter_map(judge).collect()
    }
}

/// The first moment of a microsecond of the run's clock.
pub(super) fn moment(time: Instant) -> u64 {
    let ago = u64::try_from(time.elapsed().as_micros()).unwrap_or(u64::MAX);
    trace::now_us().saturating_sub(ago) << MOMENT_BITS
}

impl History {
    pub fn put_begins(&mut self, name: &str, (step, attempt): VersionId, files: &Files) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        if let Some(again) =
            versions.iter_mut().find(|old| (old.step, old.attempt) == (step, attempt))
        {
            // A deleted version may come back now.
            again.maybe_gone = again.maybe_gone.or(again.gone.take());
            return;
        }
        for old in versions.iter_mut().filter(|old| old.step == step) {
            earlier(&mut old.maybe_gone, now);
        }
        let files = files.clone();
        let (visible, maybe_gone, gone) = (None, None, None);
        versions.push(Version { step, attempt, files, visible, maybe_gone, gone });
    }

    /// The version is committed, now at the latest.
    pub fn visible(&mut self, name: &str, (step, attempt): VersionId) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        let place = versions.iter().position(|it| (it.step, it.attempt) == (step, attempt));
        let Some(place) = place else { return };
        earlier(&mut versions[place].visible, now);
        for old in versions[..place].iter_mut().filter(|old| old.step == step) {
            earlier(&mut old.gone, now);
        }
    }

    pub fn delete_begins(&mut self, name: &str, step: u64) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        for version in versions.iter_mut().filter(|version| version.step == step) {
            earlier(&mut version.maybe_gone, now);
        }
    }

    pub fn deleted(&mut self, name: &str, (step, attempt): VersionId) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        let meant = |it: &&mut Version| (it.step, it.attempt) == (step, attempt);
        for version in versions.iter_mut().filter(meant) {
            earlier(&mut version.visible, now);
            earlier(&mut version.gone, now);
        }
    }

    pub fn keep_last(&mut self, name: &str, count: usize) {
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        let keep = namespace.keep_last.map_or(count, |(old, _)| old.min(count));
        let since = namespace.keep_last.map_or(Instant::now(), |(_, since)| since);
        namespace.keep_last = Some((keep, since));
    }

    /// A read between `began` and now found this version, and these files if it read them.
    pub fn found(
        &mut self,
        name: &str,
        asked: Asked,
        (step, attempt, note): Seen,
        began: Instant,
        files: Option<&Files>,
    ) -> Result<(), (&'static str, String)> {
        trace::count("checked.reads", 1);
        let call = self.record(name, "reader", asked.input(), moment(began));
        self.answer(&call, Output::Found((step, attempt), note));
        let what = format!("{name}@{step} attempt {attempt}");
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        if matches!(asked, Asked::Step(asked) if asked != step) {
            return Err(("C1", format!("{asked:?} gave {what}")));
        }
        let place = namespace
            .versions
            .iter()
            .position(|it| (it.step, it.attempt) == (step, attempt))
            .ok_or_else(|| ("C2", format!("{what} is visible and nobody put it")))?;
        let version = &namespace.versions[place];
        if let Some(files) = files
            && *files != version.files
        {
            return Err(("D5", format!("{what} read as other bytes than were put")));
        }
        self.visible(name, (step, attempt));
        Ok(())
    }

    /// A read that began at that time found nothing.
    pub fn missing(&mut self, name: &str, asked: Asked, began: Instant) {
        trace::count("checked.reads", 1);
        let call = self.record(name, "reader", asked.input(), moment(began));
        self.answer(&call, Output::Missing);
    }

    /// A read of a step that began at that time was refused because of quarantine.
    pub fn in_quarantine(&mut self, name: &str, step: u64, began: Instant) {
        trace::count("checked.reads", 1);
        let call = self.record(name, "reader", Input::Step(step), moment(began));
        self.answer(&call, Output::InQuarantine);
    }

    /// A listing between `began` and now showed these versions, each once.
    pub fn listed(
        &mut self,
        name: &str,
        versions: Vec<VersionId>,
        began: Instant,
    ) -> Result<(), (&'static str, String)> {
        trace::count("checked.listings", 1);
        let known = self.namespaces.get(name).map_or(&[][..], |namespace| &namespace.versions);
        let is_known = |id: &VersionId| known.iter().any(|it| (it.step, it.attempt) == *id);
        if let Some((step, attempt)) = versions.iter().find(|id| !is_known(id)) {
            let text = format!("{name}@{step} attempt {attempt} is listed and nobody put it");
            return Err(("C2", text));
        }
        let steps: BTreeSet<u64> = versions.iter().map(|(step, _)| *step).collect();
        if steps.len() < versions.len() {
            return Err(("C1", format!("{name} is listed with a step twice: {versions:?}")));
        }
        let call = self.record(name, "lister", Input::List, moment(began));
        self.answer(&call, Output::Versions(versions));
        Ok(())
    }

    /// The versions that must exist now.
    pub fn committed(&self) -> Vec<(String, VersionId)> {
        let now = Instant::now();
        let of = |(name, namespace): (&String, &Namespace)| -> Vec<(String, VersionId)> {
            let versions = namespace.versions.iter().enumerate();
            versions
                .filter(|(place, _)| namespace.must_be_there(*place, now))
                .map(|(_, version)| (name.clone(), (version.step, version.attempt)))
                .collect()
        };
        self.namespaces.iter().flat_map(of).collect()
    }

    /// Files of all versions of a namespace.
    pub fn all_contents(&self, name: &str) -> Vec<Files> {
        let versions = self.namespaces.get(name).into_iter().flat_map(|it| &it.versions);
        versions.map(|it| it.files.clone()).collect()
    }

    /// Files of the versions of a step, to compare ranges with.
    pub fn contents(&self, name: &str, step: u64) -> Vec<Files> {
        let versions = self.namespaces.get(name).into_iter().flat_map(|it| &it.versions);
        versions.filter(|it| it.step == step).map(|it| it.files.clone()).collect()
    }
}

impl Namespace {
    fn must_be_there(&self, place: usize, began: Instant) -> bool {
        let version = &self.versions[place];
        let retired = self.keep_last.is_some_and(|(count, _)| {
            self.versions[place + 1..].iter().filter(|it| it.step != version.step).count() >= count
        });
        if self.many_writers {
            return false;
        }
        // A removal that began at any earlier time may have happened before the answer.
        version.visible.is_some_and(|visible| visible < began)
            && version.maybe_gone.is_none()
            && version.gone.is_none()
            && !retired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Options, run};

    /// Judges the answer of a fake catalogue at the end of a run.
    fn judged((step, attempt): VersionId, note: u64) -> (Option<&'static str>, usize) {
        let mut found = (None, 0);
        let told = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let tell = told.clone();
        run(&Options::new(1), |_| async move {
            let mut history = History::default();
            history.many_writers("n");
            let pause = || tokio::time::sleep(std::time::Duration::from_millis(10));
            for attempt in 1..=3 {
                history.put_begins("n", (attempt, attempt), &Files::new());
                let call = history.call("n", "c1", Input::Put((attempt, attempt)));
                pause().await;
                history.answer(&call, Output::Done);
            }
            let call = history.call("n", "c1", Input::Annotate((3, 3), 7));
            pause().await;
            history.answer(&call, Output::Done);
            pause().await;
            let began = Instant::now();
            pause().await;
            let latest = (step, attempt, note);
            let early = history.found("n", Asked::Latest, latest, began, None);
            *tell.lock() = Some((early.err().map(|it| it.0), history.not_linearizable().len()));
        })
        .unwrap();
        if let Some(told) = told.lock().take() {
            found = told;
        }
        found
    }

    #[test]
    fn stale_answer_of_a_fake_catalogue_is_caught() {
        assert_eq!(judged((3, 3), 7), (None, 0));
        assert_eq!(judged((3, 3), 0), (None, 1), "the note is lost");
        assert_eq!(judged((2, 2), 0), (None, 1));
        assert_eq!(judged((9, 9), 0), (Some("C2"), 1));
    }
}
