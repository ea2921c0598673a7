//! What each namespace takes: the sum of its checkpoints, the distinct bytes behind them, how much of
//! these no other namespace names, and what its trash keeps.
//!
//! ```text
//!   segments that committed checkpoints of a namespace name: stored
//!      unique    no checkpoint of another namespace names them, also none in its trash
//!      shared    the rest
//!   trash        only its deleted checkpoints name them, until their grace is over
//! ```
//!
//! This is a walk over all references of a namespace: for a copy of the catalogue, beside the async
//! threads. Uploads in progress are left out.
//!
//! Unique bytes say what others have stored: a reader who may not read everything could put bytes and
//! ask whether they are still unique. Such a reader is told the other numbers, which follow from
//! checkpoints that it may read.

use super::Catalogue;
use crate::segment_set::{SegmentCounts, SegmentSet};
use cairn_types::ids::{Namespace, SegmentId};
use cairn_types::limits::{USAGE_PAGE_MAX, USAGE_REFERENCES_MAX};
use cairn_types::rights::{Grant, Right};

/// Which namespaces are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// This namespace and those below it. Empty means all.
    pub prefix: String,
    /// Continue after this one.
    pub after: Option<Namespace>,
    /// Only what this grant allows to read.
    pub grant: Option<Grant>,
}

/// What one namespace takes, without those below it. Bytes are of one replica of each segment, before
/// compression.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Committed checkpoints, and the size of their files.
    pub checkpoints: u64,
    pub logical_bytes: u64,
    /// Of the segments that these name, each counted once.
    pub stored_bytes: u64,
    /// Of these, what no other namespace names; `None` for a reader who may not read everything.
    pub unique_bytes: Option<u64>,
    /// Deleted checkpoints that still name segments, and the bytes that no committed checkpoint of the
    /// namespace names.
    pub trash_checkpoints: u64,
    pub trash_bytes: u64,
}

/// Some of the namespaces, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsagePage {
    pub namespaces: Vec<(Namespace, Usage)>,
    /// There are more after the last one.
    pub more: bool,
}

impl Catalogue {
    /// What the namespaces that have checkpoints or trash take. A page ends after
    /// `USAGE_REFERENCES_MAX`, but has one namespace at least if there is one.
    pub fn usage(&self, query: &UsageQuery) -> UsagePage {
        let UsageQuery { prefix, after, grant } = query;
        let reads_everything =
            grant.as_ref().is_none_or(|grant| grant.allows_everywhere(Right::Read));
        let is_shown =
            |name: &Namespace| grant.as_ref().is_none_or(|it| it.allows(Right::Read, name));
        let from = after.as_ref().map_or("", Namespace::as_str);
        let names = self.namespaces_below(prefix, from).map(|(name, _)| name);
        let mut page = UsagePage::default();
        let mut walked = 0;
        for name in names.filter(|name| after.as_ref() != Some(*name) && is_shown(name)) {
            if walked >= USAGE_REFERENCES_MAX || page.namespaces.len() == USAGE_PAGE_MAX {
                page.more = true;
                break;
            }
            let (usage, references) = self.usage_of(name, reads_everything);
            walked += references;
            if usage.checkpoints > 0 || usage.trash_checkpoints > 0 {
                page.namespaces.push((name.clone(), usage));
            }
        }
        page
    }

    /// The second number is that of the references that were walked.
    fn usage_of(&self, namespace: &Namespace, with_unique: bool) -> (Usage, u64) {
        let (mut usage, mut walked) = (Usage::default(), 0);
        let (mut committed, mut trash) = (SegmentSet::default(), SegmentSet::default());
        // Where as many checkpoints of the cluster as of the namespace name a segment, it is unique.
        let mut own = SegmentCounts::default();
        for record in self.records_of(namespace) {
            let is_committed = record.is_committed();
            if is_committed {
                usage.checkpoints += 1;
                usage.logical_bytes = usage.logical_bytes.saturating_add(record.bytes);
            } else if !record.segments.is_empty() {
                usage.trash_checkpoints += 1;
            }
            walked += record.segments.len();
            for id in record.segments.iter() {
                if is_committed {
                    committed.insert(id)
                } else {
                    trash.insert(id)
                };
                if with_unique {
                    own.add(id);
                }
            }
        }
        usage.stored_bytes = committed.iter().map(|id| self.raw_len(id)).sum();
        usage.unique_bytes = with_unique.then(|| {
            let unique =
                committed.iter().filter(|id| own.get(*id) == self.index.committed.get(*id));
            unique.map(|id| self.raw_len(id)).sum()
        });
        trash.subtract(&committed);
        usage.trash_bytes = trash.iter().map(|id| self.raw_len(id)).sum();
        (usage, walked)
    }

    pub(super) fn raw_len(&self, id: SegmentId) -> u64 {
        self.segments.get(id).map_or(0, |segment| segment.form.raw_len().into())
    }
}
