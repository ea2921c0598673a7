//! The catalogue of one namespace as a sequential object: which versions are visible, in the
//! order of their commits.
//!
//! A version is a step and an attempt. A checkpoint of one part is put by one operation. A
//! checkpoint of several parts becomes visible when any writer seals the last part. That is a
//! separate operation without an answer ([`Input::Put`], called when the last part first began). A
//! client that learns of the commit records [`Input::Saw`].
//!
//! Retention may remove a version that no rule keeps at any later time, without notice. Such a
//! version is *doomed*, and the first read without it removes it. [`Rules`] is a slow evaluator of
//! its own: it compares each version with all others, and does not ask the product.
//!
//! A version in quarantine exists, but it is not `latest` and does not count as a newer commit for
//! retention.
//!
//! A removed version is in the trash. An undeletion puts it back at its place in the order of
//! commits, with its note, and in quarantine if it was. While there are rules, retention does not
//! take it again.

use super::Model;

/// A step and the attempt of an upload.
pub type Version = (u64, u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Makes this version visible and replaces another version of its step.
    Put(Version),
    /// The version was committed at some time until now.
    Saw(Version),
    /// Removes the version of this step.
    Delete(u64),
    /// Keeps this many newest commits. 0 leaves that to the other rules.
    KeepLast(u32),
    /// Replaces all rules.
    Rules(Rules),
    /// Puts this version back from the trash.
    Undelete(Version),
    /// Puts this note on the version and replaces an older one. 0 removes it.
    Annotate(Version, u64),
    /// Puts the version into quarantine.
    Quarantine(Version),
    /// Takes the version out of quarantine.
    Lift(Version),
    /// Puts all versions of later steps than this one's into quarantine.
    RollBack(Version),
    /// The version of this step.
    Step(u64),
    /// The newest commit that is not in quarantine.
    Latest,
    /// All visible versions.
    List,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Done,
    /// The version that was deleted.
    Version(Version),
    /// The version that was found, and the note on it.
    Found(Version, u64),
    Missing,
    /// It exists and is in quarantine.
    InQuarantine,
    /// Nothing was done.
    Refused,
    /// The listed versions, in any order.
    Versions(Vec<Version>),
}

/// What keeps a good version, besides being the newest good one. 0 switches a rule off. Without a
/// rule all are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rules {
    /// The newest so many commits.
    pub last: u32,
    /// All steps that are a multiple.
    pub every_steps: u64,
    /// So many with the highest notes. Of equal notes the newest commit.
    pub best: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// Oldest commit first.
    visible: Vec<Entry>,
    /// Removed ones, in the order of their commits.
    trash: Vec<Entry>,
    /// All versions that ever existed, in order of version.
    ever: Vec<Version>,
    /// The number of commits so far.
    commits: u32,
    rules: Rules,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Its place in the order of commits.
    commit: u32,
    version: Version,
    note: u64,
    doomed: bool,
    quarantined: bool,
    /// It was undeleted while there were rules. Retention does not take it.
    held: bool,
}

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Catalogue;

impl Model for Catalogue {
    type State = State;
    type Input = Input;
    type Output = Output;

    fn start(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, input: &Input, output: Option<&Output>) -> Vec<State> {
        let next = match (input, output) {
            (Input::Put(version), None | Some(Output::Done)) => return state.put(*version),
            (Input::Saw(version), _) => state.ever.contains(version).then(|| state.clone()),
            (Input::Delete(_), Some(Output::Version(version))) => state.delete(*version),
            (Input::Delete(step), None) => match state.at(*step) {
                Some(version) => state.delete(version),
                None => Some(state.clone()),
            },
            (Input::KeepLast(count), None | Some(Output::Done)) => {
                Some(state.ruled(Rules { last: *count, ..state.rules }))
            }
            (Input::Rules(rules), None | Some(Output::Done)) => Some(state.ruled(*rules)),
            (Input::Undelete(version), None | Some(Output::Done)) => {
                return state.undelete(*version);
            }
            (Input::Undelete(_), Some(Output::Refused)) => Some(state.clone()),
            (Input::Annotate(version, note), Some(Output::Done)) => state.annotate(*version, *note),
            (Input::Annotate(version, note), None) => {
                Some(state.annotate(*version, *note).unwrap_or_else(|| state.clone()))
            }
            (
                Input::Annotate(version, _)
                | Input::Quarantine(version)
                | Input::Lift(version)
                | Input::RollBack(version),
                Some(Output::Missing),
            ) => state.without(|entry| entry.version == *version),
            (Input::Quarantine(version), None | Some(Output::Done)) => {
                state.judged(*version, true).or_else(|| state.unless(output))
            }
            (Input::Lift(version), None | Some(Output::Done)) => {
                state.judged(*version, false).or_else(|| state.unless(output))
            }
            (Input::RollBack(version), None | Some(Output::Done)) => {
                state.rolled_back(*version).or_else(|| state.unless(output))
            }
            (Input::RollBack(version), Some(Output::InQuarantine)) => {
                state.is_quarantined(*version).then(|| state.clone())
            }
            (Input::Step(step), Some(Output::InQuarantine)) => {
                let there = state.at(*step).is_some_and(|version| state.is_quarantined(version));
                there.then(|| state.clone())
            }
            (Input::Step(step), Some(Output::Found(version, note))) => {
                (version.0 == *step && state.has(*version, *note)).then(|| state.clone())
            }
            (Input::Step(step) | Input::Delete(step), Some(Output::Missing)) => {
                state.without(|entry| entry.version.0 == *step)
            }
            (Input::Latest, Some(Output::Found(version, note))) => {
                state.has(*version, *note).then(|| state.with_latest(*version)).flatten()
            }
            (Input::Latest, Some(Output::Missing)) => state.without(|entry| !entry.quarantined),
            (Input::List, Some(Output::Versions(listed))) => state.listed(listed),
            // An unanswered question gives no information. Every other answer is impossible.
            (Input::Step(_) | Input::Latest | Input::List, None) => Some(state.clone()),
            _ => None,
        };
        next.into_iter().collect()
    }

    fn is_read(&self, input: &Input, output: Option<&Output>) -> bool {
        match input {
            Input::Saw(_) | Input::Step(_) | Input::Latest | Input::List => true,
            Input::Delete(_)
            | Input::Annotate(..)
            | Input::Quarantine(_)
            | Input::Lift(_)
            | Input::RollBack(_) => {
                matches!(output, Some(Output::Missing | Output::InQuarantine))
            }
            Input::Undelete(_) => matches!(output, Some(Output::Refused)),
            Input::Put(_) | Input::KeepLast(_) | Input::Rules(_) => false,
        }
    }
}

impl State {
    fn at(&self, step: u64) -> Option<Version> {
        self.visible.iter().map(|entry| entry.version).find(|version| version.0 == step)
    }

    /// The same attempt again changes nothing. An attempt below the existing one is fenced. A
    /// doomed version may exist or not.
    fn put(&self, version: Version) -> Vec<Self> {
        let there = self.visible.iter().find(|entry| entry.version.0 == version.0);
        let stays = there.is_some_and(|there| there.version == version);
        let fenced = there.is_some_and(|there| there.version.1 >= version.1);
        let doomed = there.is_some_and(|there| there.doomed);
        let mut states = Vec::new();
        if stays {
            states.push(self.clone());
        }
        if !fenced || doomed {
            states.push(self.committed(version));
        }
        states
    }

    fn committed(&self, version: Version) -> Self {
        let mut state = self.clone();
        state.throw_away(|entry| entry.version.0 == version.0);
        state.commits += 1;
        let commit = state.commits;
        let (note, doomed, quarantined, held) = (0, false, false, false);
        state.visible.push(Entry { commit, version, note, doomed, quarantined, held });
        if let Err(at) = state.ever.binary_search(&version) {
            state.ever.insert(at, version);
        }
        state.doom();
        state
    }

    /// A deletion names the checkpoint that it found. A version that has replaced it stays.
    fn delete(&self, version: Version) -> Option<Self> {
        let mut state = self.clone();
        state.throw_away(|entry| entry.version == version);
        self.ever.contains(&version).then_some(state)
    }

    fn throw_away(&mut self, gone: impl Fn(&Entry) -> bool) {
        let (gone, left) = std::mem::take(&mut self.visible).into_iter().partition(gone);
        self.visible = left;
        self.trash.extend::<Vec<Entry>>(gone);
        self.trash.sort();
    }

    /// Each state in which a removed record of this version is back. None if another version has its
    /// step.
    fn undelete(&self, version: Version) -> Vec<Self> {
        let mut state = self.clone();
        // What has the step may have been removed by retention.
        state.throw_away(|entry| entry.version.0 == version.0 && entry.doomed);
        if state.at(version.0).is_some() {
            return Vec::new();
        }
        let records = state.trash.iter().enumerate();
        let of_it = records.filter(|(_, entry)| entry.version == version);
        of_it.map(|(place, _)| state.brought_back(place)).collect()
    }

    fn brought_back(&self, place: usize) -> Self {
        let mut state = self.clone();
        let entry = state.trash.remove(place);
        let held = state.rules != Rules::default();
        state.visible.push(Entry { doomed: false, held, ..entry });
        state.visible.sort();
        state.doom();
        state
    }

    fn has(&self, version: Version, note: u64) -> bool {
        self.visible.iter().any(|entry| (entry.version, entry.note) == (version, note))
    }

    /// `None` if the version does not exist.
    fn annotate(&self, version: Version, note: u64) -> Option<Self> {
        let mut state = self.clone();
        let entry = state.visible.iter_mut().find(|entry| entry.version == version)?;
        entry.note = note;
        state.doom();
        Some(state)
    }

    fn is_quarantined(&self, version: Version) -> bool {
        self.visible.iter().any(|entry| entry.version == version && entry.quarantined)
    }

    /// The unchanged state, if no client was told that the operation succeeded.
    fn unless(&self, output: Option<&Output>) -> Option<Self> {
        output.is_none().then(|| self.clone())
    }

    /// `None` if the version does not exist, or if a lift finds it outside quarantine.
    fn judged(&self, version: Version, quarantined: bool) -> Option<Self> {
        let mut state = self.clone();
        let entry = state.visible.iter_mut().find(|entry| entry.version == version)?;
        if !quarantined && !entry.quarantined {
            return None;
        }
        entry.quarantined = quarantined;
        state.doom();
        Some(state)
    }

    /// `None` if the version does not exist or is not good.
    fn rolled_back(&self, version: Version) -> Option<Self> {
        let is_good = self.at(version.0) == Some(version) && !self.is_quarantined(version);
        let mut state = self.clone();
        let later = state.visible.iter_mut().filter(|entry| entry.version.0 > version.0);
        later.for_each(|entry| entry.quarantined = true);
        is_good.then_some(state)
    }

    fn ruled(&self, rules: Rules) -> Self {
        let mut state = self.clone();
        state.rules = rules;
        state.doom();
        state
    }

    /// A version that no rule keeps may be removed from now on, even if a rule would keep it later.
    fn doom(&mut self) {
        if self.rules == Rules::default() {
            return;
        }
        let let_go: Vec<bool> = self.visible.iter().map(|entry| !self.keeps(entry)).collect();
        for (entry, let_go) in self.visible.iter_mut().zip(let_go) {
            entry.doomed |= let_go;
        }
    }

    fn keeps(&self, entry: &Entry) -> bool {
        let Rules { last, every_steps, best } = self.rules;
        let good = |it: &&Entry| !it.quarantined;
        let newer = self.visible.iter().filter(good).filter(|it| it.commit > entry.commit).count();
        // The newest good one is kept without a rule.
        if entry.held || newer < (last as usize).max(1) {
            return true;
        }
        let is_better = |it: &&Entry| (it.note, it.commit) > (entry.note, entry.commit);
        let better = self.visible.iter().filter(good).filter(is_better).count();
        let is_best = entry.note > 0 && better < best as usize;
        let is_multiple = every_steps > 0 && entry.version.0 % every_steps == 0;
        !entry.quarantined && (is_best || is_multiple)
    }

    /// The state in which exactly these versions exist.
    fn listed(&self, listed: &[Version]) -> Option<Self> {
        let is_there = |version: &Version| self.at(version.0) == Some(*version);
        let shown = |entry: &Entry| listed.contains(&entry.version);
        listed.iter().all(is_there).then(|| self.without(|entry| !shown(entry)))?
    }

    /// The state in which this version is the newest good one: newer good ones have been removed.
    fn with_latest(&self, version: Version) -> Option<Self> {
        let is_it = |entry: &Entry| entry.version == version && !entry.quarantined;
        let at = self.visible.iter().position(is_it)?;
        let newer = self.visible[at + 1..].iter().filter(|entry| !entry.quarantined);
        let newer: Vec<Version> = newer.map(|entry| entry.version).collect();
        self.without(|entry| newer.contains(&entry.version))
    }

    /// The state without these, all of which must be doomed.
    fn without(&self, gone: impl Fn(&Entry) -> bool) -> Option<Self> {
        let mut state = self.clone();
        state.throw_away(&gone);
        self.visible.iter().filter(|entry| gone(entry)).all(|entry| entry.doomed).then_some(state)
    }
}
