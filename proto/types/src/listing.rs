//! What a listing of checkpoints shows: states, times and labels. Plain data that client and node read
//! in the same way, so that an answer can be checked against its question.

use std::collections::BTreeMap;

use crate::ids::{CheckpointId, Namespace, Step};
use crate::model::{CheckpointInfo, CheckpointState, Commit};
use crate::retention::LabelRule;

/// A place in a listing, which is ascending by it.
pub type ListPlace = (Namespace, Step, CheckpointId);

/// A checkpoint is listed if it is in any of these states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedStates {
    /// Committed, in quarantine or not.
    pub committed: bool,
    /// Committed and in quarantine.
    pub quarantined: bool,
    /// Uploads in progress.
    pub open: bool,
    /// Deleted, as long as the record is kept.
    pub deleted: bool,
}

impl ListedStates {
    pub const NONE: Self =
        Self { committed: false, quarantined: false, open: false, deleted: false };
    pub const COMMITTED: Self = Self { committed: true, ..Self::NONE };
}

impl Default for ListedStates {
    fn default() -> Self {
        Self::COMMITTED
    }
}

/// A checkpoint is listed if all of this is true of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    pub states: ListedStates,
    /// Committed at this time or before, by its label, milliseconds since the Unix epoch.
    pub as_of_ms: Option<u64>,
    /// It has all of these labels.
    pub labels: Vec<LabelRule>,
}

impl ListFilter {
    pub fn of(states: ListedStates) -> Self {
        Self { states, ..Self::default() }
    }

    /// Whether a checkpoint of this kind is listed.
    pub fn admits(
        &self,
        state: CheckpointState,
        is_quarantined: bool,
        commit: Option<Commit>,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let states = &self.states;
        let is_in_state = match state {
            CheckpointState::Committed => states.committed || states.quarantined && is_quarantined,
            CheckpointState::Open => states.open,
            CheckpointState::Deleted => states.deleted,
        };
        let was_there = self
            .as_of_ms
            .is_none_or(|as_of_ms| commit.is_some_and(|commit| commit.wall_ms <= as_of_ms));
        is_in_state && was_there && self.labels.iter().all(|rule| rule.admits(labels))
    }

    pub fn admits_info(&self, info: &CheckpointInfo) -> bool {
        self.admits(info.state, info.quarantine.is_some(), info.commit, &info.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_the_states_the_time_and_all_labels() {
        let labels: BTreeMap<String, String> =
            [("stage", "sft"), ("eval", "done")].map(|(k, v)| (k.into(), v.into())).into();
        let at = |wall_ms| Some(Commit { index: 1, wall_ms });
        let rule = |key: &str, value: Option<&str>| LabelRule {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        };
        let all = ListedStates { committed: true, quarantined: true, open: true, deleted: true };
        let admits = |filter: &ListFilter, state, quarantined| {
            filter.admits(state, quarantined, at(1000), &labels)
        };
        use CheckpointState::{Committed, Deleted, Open};
        for (states, wanted) in [
            (ListedStates::default(), [true, true, false, false]),
            (ListedStates { quarantined: true, ..ListedStates::NONE }, [false, true, false, false]),
            (ListedStates { open: true, ..ListedStates::NONE }, [false, false, true, false]),
            (ListedStates { deleted: true, ..ListedStates::NONE }, [false, false, false, true]),
            (all, [true; 4]),
        ] {
            let filter = ListFilter::of(states);
            let kinds = [(Committed, false), (Committed, true), (Open, false), (Deleted, false)];
            assert_eq!(kinds.map(|(state, bad)| admits(&filter, state, bad)), wanted, "{states:?}");
        }
        let mut filter = ListFilter { as_of_ms: Some(1000), ..ListFilter::of(all) };
        assert!(admits(&filter, Committed, false));
        assert!(!filter.admits(Open, false, None, &labels), "not committed by then");
        filter.as_of_ms = Some(999);
        assert!(!admits(&filter, Committed, false));
        filter.as_of_ms = None;
        for (rules, wanted) in [
            (vec![rule("stage", None)], true),
            (vec![rule("stage", Some("sft")), rule("eval", Some("done"))], true),
            (vec![rule("stage", Some("sft")), rule("eval", Some("no"))], false),
            (vec![rule("missing", None)], false),
        ] {
            filter.labels = rules;
            assert_eq!(admits(&filter, Committed, false), wanted, "{:?}", filter.labels);
        }
    }
}
