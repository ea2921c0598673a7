//! Canaries: tiny deliberate defects that the simulator must find (S3).
//!
//! A defect sits in product code behind `canary!("name")`, which is constant false unless the
//! feature `canary` is on, and so compiles to nothing. With the feature it is true for the one
//! name that [`activate`] was given, for as long as the process lives. Only the canary step of the
//! simulator is built with the feature.
//!
//! A name that is not in [`CANARIES`] does not compile; one that stands in no source fails a test.

/// A known-bad variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    pub name: &'static str,
    /// What goes wrong, in one line.
    pub breaks: &'static str,
    /// The invariants it breaks: a violation of one of them is what must be reported.
    pub caught_by: &'static [&'static str],
}

/// Every canary.
pub const CANARIES: [Canary; 83] = [
    Canary {
        name: "put_before_sync",
        breaks: "a segment counts as stored before its bytes are synced",
        caught_by: &["D1"],
    },
    Canary {
        name: "skip_directory_sync",
        breaks: "the directory is not synced after a segment file's rename",
        caught_by: &["D1"],
    },
    Canary {
        name: "report_before_durable",
        breaks: "a replica is reported durable before its sync and rename",
        caught_by: &["D1"],
    },
    Canary {
        name: "destroy_beside_live_slot",
        breaks: "a file is destroyed for a released slot while a newer slot lives on the node",
        caught_by: &["D3", "D1"],
    },
    Canary {
        name: "count_uninventoried",
        breaks: "replicas count on a node that has not taken inventory",
        caught_by: &["D2", "D3"],
    },
    Canary {
        name: "release_counts_itself",
        breaks: "a replica is released when R count with itself among them",
        caught_by: &["D3"],
    },
    Canary {
        name: "commit_without_part",
        breaks: "the first sealed part commits the whole checkpoint",
        caught_by: &["C2"],
    },
    Canary {
        name: "seal_unread",
        breaks: "a part is sealed without its manifest being read when the leader did not know its upload",
        caught_by: &["C2"],
    },
    Canary {
        name: "scrub_without_reading",
        breaks: "the scrub notes a replica as read that it did not read",
        caught_by: &["L3"],
    },
    Canary {
        name: "drained_takes_slots",
        breaks: "a draining node gets new replicas",
        caught_by: &["L3"],
    },
    Canary {
        name: "drained_is_waited_for",
        breaks: "nobody makes the replicas of a draining node",
        caught_by: &["L3"],
    },
    Canary {
        name: "drained_lets_go",
        breaks: "a draining node gives a replica up as soon as one other counts",
        caught_by: &["D3"],
    },
    Canary {
        name: "no_maintenance",
        breaks: "the replicas of a node in maintenance are made anew",
        caught_by: &["L3"],
    },
    Canary {
        name: "voided_part_stays",
        breaks: "a file that is written again in an open-ended upload is committed twice",
        caught_by: &["C2"],
    },
    Canary {
        name: "voided_keeps_references",
        breaks: "a voided or dropped part keeps its references until the commit",
        caught_by: &["D6"],
    },
    Canary {
        name: "close_takes_unsealed",
        breaks: "Close commits segments of parts that were not sealed",
        caught_by: &["C2"],
    },
    Canary {
        name: "keep_last_at_begin",
        breaks: "a put changes what its namespace keeps before it is committed",
        caught_by: &["D7"],
    },
    Canary {
        name: "stale_read",
        breaks: "reads are answered from what this node has applied, without ReadIndex",
        caught_by: &["C1"],
    },
    Canary {
        name: "latest_by_step",
        breaks: "latest is the highest step instead of the newest commit",
        caught_by: &["C1"],
    },
    Canary {
        name: "vote_not_durable",
        breaks: "a vote is given before it is durable",
        caught_by: &["D2"],
    },
    Canary {
        name: "old_directory_votes",
        breaks: "a vote counts though its directory is older than its registration",
        caught_by: &["D2", "L2"],
    },
    Canary {
        name: "append_not_durable",
        breaks: "log entries are acknowledged before they are durable",
        caught_by: &["D2"],
    },
    Canary {
        name: "snapshot_not_durable",
        breaks: "a snapshot takes the log's place before its bytes are synced",
        caught_by: &["D2"],
    },
    Canary {
        name: "snapshot_without_tail",
        breaks: "a snapshot lacks its last record",
        caught_by: &["C3"],
    },
    Canary {
        name: "map_order",
        breaks: "apply mints segment ids in the order of a hash map",
        caught_by: &["C3"],
    },
    Canary {
        name: "unverified_recovery",
        breaks: "catch-up takes a copy from quarantine whose bytes are wrong",
        caught_by: &["D1"],
    },
    Canary {
        name: "unverified_read",
        breaks: "a reader does not check blocks against the digest",
        caught_by: &["D5"],
    },
    Canary {
        name: "quorum_ignores_racks",
        breaks: "W replicas of one rack are enough for placement and commit",
        caught_by: &["D2"],
    },
    Canary {
        name: "reap_before_grace",
        breaks: "unreferenced segments are reaped before their grace is over",
        caught_by: &["D3"],
    },
    Canary {
        name: "expire_before_lease",
        breaks: "an upload is given up while its lease runs",
        caught_by: &["L2"],
    },
    Canary {
        name: "wait_for_the_dead",
        breaks: "replicas of a node that stays down are never made elsewhere",
        caught_by: &["L1"],
    },
    Canary {
        name: "trust_the_declined",
        breaks: "a replica that its node cannot make is waited for, and not made elsewhere",
        caught_by: &["L1", "L2"],
    },
    Canary {
        name: "uncounted_reference",
        breaks: "staging a segment that others refer to takes no reference",
        caught_by: &["D6"],
    },
    Canary {
        name: "stale_epoch",
        breaks: "a report counts though its slot has a newer epoch",
        caught_by: &["D4"],
    },
    Canary {
        name: "remove_before_the_vote",
        breaks: "a node is removed, and ends, while the group still needs its vote",
        caught_by: &["L2"],
    },
    Canary {
        name: "hung_disk_is_healthy",
        breaks: "a node does not look at how long its disk has not answered",
        caught_by: &["stop"],
    },
    Canary {
        name: "label_by_own_clock",
        breaks: "a leader labels commits by its own wall clock, whatever the voters' clocks say",
        caught_by: &["C5"],
    },
    Canary {
        name: "propose_above_level",
        breaks: "a leader proposes commands that a node of an older build does not understand",
        // The older node takes none of that leader's entries, and so nothing more.
        caught_by: &["fatal", "L1", "L2"],
    },
    Canary {
        name: "holds_keep_nothing",
        breaks: "a checkpoint under a hold is deleted",
        caught_by: &["D7"],
    },
    Canary {
        name: "refs_keep_nothing",
        breaks: "a checkpoint that a ref names is deleted",
        caught_by: &["D7"],
    },
    Canary {
        name: "rollback_spares_newest",
        breaks: "a rollback leaves the newest commit out of quarantine",
        caught_by: &["C1", "C5"],
    },
    Canary {
        name: "latest_in_quarantine",
        breaks: "latest names the newest commit though it is in quarantine",
        caught_by: &["C5", "C1"],
    },
    Canary {
        name: "best_in_quarantine",
        breaks: "best names a checkpoint that is in quarantine",
        caught_by: &["C5"],
    },
    Canary {
        name: "ref_moves_blindly",
        breaks: "a ref moves though its generation is not the expected one",
        caught_by: &["C5"],
    },
    Canary {
        name: "rollback_leaves_uploads",
        breaks: "uploads of later steps outlive a rollback",
        caught_by: &["C5"],
    },
    Canary {
        name: "rolled_back_begins_again",
        breaks: "an upload that a rollback aborted begins again under the same attempt",
        caught_by: &["C5"],
    },
    Canary {
        name: "clock_falls",
        breaks: "cluster time is what the last entry says, and may fall",
        caught_by: &["time"],
    },
    Canary {
        name: "lost_keeps_its_epoch",
        breaks: "a lost replica is assigned again under the epoch it had",
        caught_by: &["D4"],
    },
    Canary {
        name: "least_replicas_wanted",
        breaks: "a segment of two checkpoints has as many replicas as the modest one wants",
        caught_by: &["D3", "L1"],
    },
    Canary {
        name: "trust_what_is_there",
        breaks: "a get keeps files of the right length without comparing them",
        caught_by: &["D5"],
    },
    Canary {
        name: "keep_reservation",
        breaks: "an upload that was cut short does not give its reserved space back",
        caught_by: &["room"],
    },
    Canary {
        name: "renewal_is_forgotten",
        breaks: "a renewed lease stays as it was",
        caught_by: &["lease", "L2"],
    },
    Canary {
        name: "expire_without_grace",
        breaks: "an upload is given up when its lease is over, without its grace",
        caught_by: &["lease"],
    },
    Canary {
        name: "taken_over_as_counted",
        breaks: "an upload that a higher attempt takes over counts its segments under the old R",
        caught_by: &["D6"],
    },
    Canary {
        name: "lower_attempt_replaces",
        breaks: "a lower attempt replaces what a higher one has committed",
        caught_by: &["C1"],
    },
    Canary {
        name: "replaced_without_grace",
        breaks: "segments of a replaced checkpoint have no grace",
        caught_by: &["D3"],
    },
    Canary {
        name: "quorum_of_namespace",
        breaks: "a commit needs what its namespace asks for, not what its upload asked for",
        caught_by: &["D2"],
    },
    Canary {
        name: "count_the_down",
        breaks: "replicas count on a node that is down",
        caught_by: &["D2", "D3"],
    },
    Canary {
        name: "clock_runs_fast",
        breaks: "a leader's cluster time runs twice as fast as its clock",
        caught_by: &["time"],
    },
    Canary {
        name: "list_of_this_node",
        breaks: "a listing is what this node has applied, without ReadIndex",
        caught_by: &["C1"],
    },
    Canary {
        name: "read_before_applied",
        breaks: "a read is answered before its node has applied the index that the leader gave",
        caught_by: &["C1", "C5"],
    },
    Canary {
        name: "truncation_stays",
        breaks: "entries that were cut off stay in the log's file",
        caught_by: &["D2"],
    },
    Canary {
        name: "keep_permit",
        breaks: "an upload that is finished keeps its permit",
        caught_by: &["permits", "L2"],
    },
    Canary {
        name: "lost_goes_unsaid",
        breaks: "a node does not say that it lost a replica",
        caught_by: &["D1", "L1", "L2"],
    },
    Canary {
        name: "range_a_block_early",
        breaks: "a range that begins beyond the first block of a segment is of the block before",
        caught_by: &["D5"],
    },
    Canary {
        name: "oldest_of_bucket",
        breaks: "retention keeps the oldest checkpoint of a day instead of the newest",
        caught_by: &["D7"],
    },
    Canary {
        name: "retention_ignores_holds",
        breaks: "retention deletes a checkpoint that is on hold",
        caught_by: &["D7"],
    },
    Canary {
        name: "confirmation_ignored",
        breaks: "a large run of retention does not wait for its confirmation",
        caught_by: &["D7"],
    },
    Canary {
        name: "trash_drops_references",
        breaks: "what is in the trash gives its references back at once",
        caught_by: &["D7"],
    },
    Canary {
        name: "undelete_from_nowhere",
        breaks: "a checkpoint is undeleted after its time in the trash",
        caught_by: &["D4", "D7"],
    },
    Canary {
        name: "undelete_beside_another",
        breaks: "a checkpoint is undeleted though another one has its step",
        caught_by: &["C2", "C1"],
    },
    Canary {
        name: "undelete_without_hold",
        breaks: "retention deletes again what was undeleted from it",
        caught_by: &["C1"],
    },
    Canary {
        name: "undelete_loses_notes",
        breaks: "an undeleted checkpoint has lost its labels and metrics",
        caught_by: &["C1"],
    },
    Canary {
        name: "undelete_lifts_quarantine",
        breaks: "an undeleted checkpoint is not in quarantine any more",
        caught_by: &["C1", "C5"],
    },
    Canary {
        name: "undelete_goes_unsaid",
        breaks: "watchers are not told that a checkpoint was undeleted",
        caught_by: &["C5"],
    },
    Canary {
        name: "retention_counts_bad",
        breaks: "checkpoints in quarantine count among the newest that are kept",
        caught_by: &["D7", "C1"],
    },
    Canary {
        name: "retention_keeps_worst",
        breaks: "retention keeps the checkpoints with the worst metric instead of the best",
        caught_by: &["C1"],
    },
    Canary {
        name: "write_deletes",
        breaks: "a token that may write deletes what is committed",
        caught_by: &["T1"],
    },
    Canary {
        name: "uploads_are_anyones",
        breaks: "an upload is worked on by another subject than the one that began it",
        caught_by: &["T1"],
    },
    Canary {
        name: "revoked_is_taken",
        breaks: "a token that was revoked is taken",
        caught_by: &["T1"],
    },
    Canary {
        name: "reply_authorizes",
        breaks: "a command is allowed because its request id has a reply already",
        caught_by: &["T1"],
    },
    Canary {
        name: "audit_skips_after_restart",
        breaks: "a node that starts again leaves its first records out of its audit file",
        caught_by: &["T2"],
    },
    Canary {
        name: "purge_before_audit",
        breaks: "a snapshot covers entries whose records of the audit are not durable",
        caught_by: &["T2"],
    },
];

/// Whether this build can activate a canary.
pub const BUILT_IN: bool = cfg!(feature = "canary");

/// Why a canary was not activated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    #[error("no canary {0:?}")]
    Unknown(String),
    #[error("this build has no canaries")]
    NotBuilt,
    #[error("canary {0:?} is active, and stays so until the process ends")]
    Another(&'static str),
}

/// The canary of that name.
pub fn find(name: &str) -> Option<&'static Canary> {
    static ALL: [Canary; CANARIES.len()] = CANARIES;
    ALL.iter().find(|canary| canary.name == name)
}

/// Puts a defect into this process, for good. To be called before anything else runs.
pub fn activate(name: &str) -> Result<&'static Canary, ActivateError> {
    let canary = find(name).ok_or_else(|| ActivateError::Unknown(name.to_owned()))?;
    if !BUILT_IN {
        return Err(ActivateError::NotBuilt);
    }
    set_active(canary.name)?;
    Ok(canary)
}

#[cfg(feature = "canary")]
static ACTIVE: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();

#[cfg(feature = "canary")]
fn set_active(name: &'static str) -> Result<(), ActivateError> {
    match *ACTIVE.get_or_init(|| name) {
        active if active == name => Ok(()),
        other => Err(ActivateError::Another(other)),
    }
}

#[cfg(not(feature = "canary"))]
fn set_active(_: &'static str) -> Result<(), ActivateError> {
    Err(ActivateError::NotBuilt)
}

/// For [`canary!`](crate::canary!).
#[doc(hidden)]
#[cfg(feature = "canary")]
pub fn is_active(name: &str) -> bool {
    ACTIVE.get().is_some_and(|active| *active == name)
}

/// For [`canary!`](crate::canary!).
#[doc(hidden)]
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub const fn is_active(_: &str) -> bool {
    false
}

/// For [`canary!`](crate::canary!), while compiling.
#[doc(hidden)]
pub const fn is_known(name: &str) -> bool {
    let mut at = 0;
    while at < CANARIES.len() {
        if is_same(CANARIES[at].name.as_bytes(), name.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Whether the defect of this name is to show: constant false without the feature `canary`.
#[macro_export]
macro_rules! canary {
    ($name:literal) => {{
        const { assert!($crate::canary::is_known($name), "this name is not in CANARIES") };
        $crate::canary::is_active($name)
    }};
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// That each use is in the list, the compiler sees.
    #[test]
    fn every_canary_stands_in_the_sources_and_in_the_list_once() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut used = BTreeSet::new();
        for folder in ["proto/types/src", "proto/src", "node/core/src", "node/src", "client/src"] {
            collect(&crates.join(folder), &mut used);
        }
        let listed: BTreeSet<String> = CANARIES.iter().map(|it| it.name.to_owned()).collect();
        assert_eq!(used, listed);
        assert_eq!(listed.len(), CANARIES.len(), "two canaries of one name");
        assert!(CANARIES.iter().all(|it| !it.caught_by.is_empty() && !it.breaks.is_empty()));
    }

    fn collect(folder: &Path, used: &mut BTreeSet<String>) {
        let entries = std::fs::read_dir(folder).unwrap();
        for path in entries.map(|entry| -> PathBuf { entry.unwrap().path() }) {
            if path.is_dir() {
                collect(&path, used);
            } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("canary.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text.split("canary!(\"").skip(1);
                used.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(is_known("put_before_sync") && !is_known("put") && !is_known("put_before_sync2"));
        assert_eq!(activate("nothing"), Err(ActivateError::Unknown("nothing".to_owned())));
    }

    #[test]
    #[cfg(not(feature = "canary"))]
    fn without_the_feature_nothing_is_ever_active() {
        const NEVER: bool = is_active("put_before_sync");
        assert_eq!((NEVER, activate("put_before_sync")), (false, Err(ActivateError::NotBuilt)));
    }
}
