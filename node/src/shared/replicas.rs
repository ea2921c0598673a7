//! The replicas on this node: their files, the reports about them, and counters.

use std::sync::Arc;

use cairn_core::scrub::Known;
use cairn_types::ids::{Epoch, SegmentDigest, SegmentId};
use parking_lot::Mutex;

use super::{Member, ThisNode};
use crate::counters::Counters;
use crate::ledger::Ledger;
use crate::reporter::{Reporter, Said};
use crate::scrub::Scrub;
use crate::store::SegmentStore;
use crate::wake::Wake;

pub struct Replicas {
    pub this: Arc<ThisNode>,
    /// Knows which replicas are wanted here.
    pub member: Arc<Member>,
    pub store: SegmentStore,
    pub ledger: Arc<dyn Ledger>,
    pub reporter: Reporter,
    pub counters: Arc<Counters>,
    pub scrub: Scrub,
    /// Wakes this node's own work: fetch, destroy, report.
    pub work: Wake,
    /// The result of the last look at the disk. See [`Replicas::room`].
    room: Mutex<(u64, u64)>,
}

impl Replicas {
    pub fn new(
        member: Arc<Member>,
        store: SegmentStore,
        ledger: Arc<dyn Ledger>,
        counters: Arc<Counters>,
    ) -> Self {
        let this = Arc::clone(&member.this);
        let room = Mutex::new((this.config.capacity_bytes, 0));
        let (reporter, scrub, work) = Default::default();
        Self { this, member, store, ledger, reporter, counters, scrub, work, room }
    }

    /// This node has written the segment's file, and synced it.
    pub fn note_written(&self, digest: SegmentDigest) {
        self.ledger.record(digest, Known::Written(self.this.env.wall_ms()));
    }

    /// Reports a replica as durable, if the file here has the length of the segment's record. Such a
    /// report proves the length. So a record with a false one, which any client may claim, gets none.
    pub fn say_durable(&self, segment: SegmentId, epoch: Epoch, digest: SegmentDigest) {
        let claimed = self.member.read(|catalogue| {
            catalogue.segment(segment).map(|record| u64::from(record.form.raw_len()))
        });
        match self.store.len_of(digest) {
            Some(len) if claimed.is_some_and(|claimed| claimed != len) => {
                tracing::warn!(%segment, %digest, len, ?claimed, "a length is claimed that is false");
            }
            _ => self.reporter.say(Said::Durable, segment, epoch),
        }
    }

    /// Bytes that new segments may take, and bytes of segments being received. The values are of
    /// now, or of the last time that the disk answered quickly. A node with a long disk queue must
    /// not look dead.
    pub async fn room(&self) -> (u64, u64) {
        let patience = self.this.heartbeat_period() / 2;
        match tokio::time::timeout(patience, self.store.room()).await {
            Ok(Ok(room)) => *self.room.lock() = (room.available, room.reserved),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot tell how much room there is");
                *self.room.lock() = (0, 0);
            }
            Err(_) => {}
        }
        *self.room.lock()
    }
}
