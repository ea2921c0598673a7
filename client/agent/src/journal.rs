//! What the agent remembers from one process to the next: which checkpoints are stored, and which
//! scheduled runs are done.
//!
//! Losing it loses no data: what is stored says so in its labels, and the agent asks the cluster
//! before it puts anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::listing::{Fingerprint, Version, Witness};

/// Of the file; a newer one is refused.
pub const FORM: u32 = 2;
/// The oldest that is read: its records have no witness, so what they name is compared once more.
pub const FORM_OLDEST: u32 = 1;
/// Records of one job that are kept once their files are gone from the local disk.
pub const RECORDS_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    pub form: u32,
    pub jobs: BTreeMap<String, JobJournal>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { form: FORM, jobs: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobJournal {
    /// By step.
    pub stored: BTreeMap<u64, Record>,
    /// The time of the last run that is over, or of the job's first look at the clock.
    pub done_ms: Option<u64>,
    /// The time of the last run that has begun: after a kill it goes on, and is not missed.
    #[serde(default)]
    pub begun_ms: Option<u64>,
    /// What the last verification or drill found.
    #[serde(default)]
    pub found: Option<Finding>,
}

/// What a verification or a drill found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub at_ms: u64,
    pub step: u64,
    pub good: bool,
    /// One line.
    pub said: String,
    /// Of a drill, in milliseconds: the time taken, and the age of the checkpoint.
    pub rto_ms: Option<u64>,
    pub rpo_ms: Option<u64>,
}

/// A checkpoint that is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of the file or directory; empty for a scheduled run.
    pub name: String,
    /// The listing that was put; none for a scheduled run.
    pub fingerprint: Option<Fingerprint>,
    /// The checkpoint's id in the cluster.
    pub id: u64,
    pub stored_ms: u64,
    pub bytes: u64,
    /// Of the files that were put; none for a scheduled run.
    pub witness: Option<Witness>,
    /// The id of the cluster that has it.
    pub cluster: Option<String>,
}

impl Record {
    /// The files that were put.
    pub fn version(&self) -> Option<Version> {
        Some(Version { fingerprint: self.fingerprint?, witness: self.witness? })
    }
}

impl JobJournal {
    /// Forgets the oldest records beyond [`RECORDS_MAX`] of what is no longer on the local disk.
    pub fn trim(&mut self, is_local: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.stored.keys().copied().filter(|step| !is_local(*step)).collect();
        for step in gone.iter().take(gone.len().saturating_sub(RECORDS_MAX)) {
            self.stored.remove(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let (witness, cluster) = (Some(Witness::new([3; 16])), Some("c".to_owned()));
        let fingerprint = Some(Fingerprint::of([]));
        Record {
            name: "n".to_owned(),
            fingerprint,
            id: 1,
            stored_ms: 2,
            bytes: 3,
            witness,
            cluster,
        }
    }

    fn finding() -> Finding {
        let said = "good".to_owned();
        Finding { at_ms: 1, step: 2, good: true, said, rto_ms: Some(3), rpo_ms: None }
    }

    #[test]
    fn a_journal_is_what_it_was_after_its_file() {
        let stored = BTreeMap::from([(7, record()), (9, Record { fingerprint: None, ..record() })]);
        let job =
            JobJournal { stored, done_ms: Some(5), begun_ms: Some(6), found: Some(finding()) };
        let journal =
            Journal { jobs: BTreeMap::from([("j".to_owned(), job)]), ..Journal::default() };
        let text = serde_json::to_string(&journal).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), journal);
    }

    #[test]
    fn a_record_of_the_first_form_is_read_and_proves_no_version() {
        let text = r#"{"name": "n", "fingerprint": "00000000000000000000000000000001", "id": 1,
            "stored_ms": 2, "bytes": 3, "stamp": {"len": 1, "mtime_ns": 2, "inode": 3}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!((record.id, record.version()), (1, None));
    }

    #[test]
    fn records_of_files_that_are_there_are_never_forgotten() {
        let stored = (0..3_000).map(|step| (step, record())).collect();
        let mut job = JobJournal { stored, ..JobJournal::default() };
        job.trim(|step| step < 500);
        assert_eq!(job.stored.len(), 500 + RECORDS_MAX);
        assert!((0..500).all(|step| job.stored.contains_key(&step)));
        assert!(job.stored.contains_key(&2_999) && !job.stored.contains_key(&600));
    }
}
