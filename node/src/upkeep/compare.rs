//! A slow comparison of the catalogue's Durable slots, the store's index and the files, for as long
//! as the node runs. A segment may have no reader for months. Without this, the loss of its file
//! would stay unknown until the next start.

use std::sync::Arc;

use cairn_core::work;
use cairn_types::ids::{SegmentDigest, SegmentId};

use super::suspect;
use crate::shared::{Member, Replicas};

/// Files looked for in a round (a second). A disk that does 150 lookups a second spends less than
/// half of its time on this. Half a million files take more than two hours.
const FILES_ROUND_MAX: usize = 64;
/// Records looked at in a round, in memory.
const RECORDS_ROUND_MAX: usize = 4096;
/// Replicas given up in a round. After the loss of a directory, the rest follows in the next
/// rounds.
const CHECKS_ROUND_MAX: usize = 64;

pub async fn run(replicas: Arc<Replicas>) {
    let mut slots = SegmentId(0);
    let mut files: Option<SegmentDigest> = None;
    loop {
        tokio::time::sleep(replicas.this.upkeep_period()).await;
        if !is_inventoried(&replicas.member) {
            continue;
        }
        for digest in slots_not_in_store(&replicas, &mut slots) {
            check(&replicas, digest).await;
        }
        for digest in held_without_file(&replicas, &mut files).await {
            check(&replicas, digest).await;
        }
    }
}

/// Before its inventory is taken, a process does not know which slots it has promised.
pub(super) fn is_inventoried(member: &Member) -> bool {
    let (node, incarnation) = (member.this.id, member.this.incarnation());
    member.read(|catalogue| {
        let record = catalogue.node(node);
        record.is_some_and(|it| it.inventoried && Some(it.incarnation) == incarnation)
    })
}

/// Durable slots of this node that the store does not hold, in the next range of segments.
fn slots_not_in_store(replicas: &Replicas, cursor: &mut SegmentId) -> Vec<SegmentDigest> {
    let (node, from) = (replicas.this.id, *cursor);
    let (durable, next) = replicas
        .member
        .read(|catalogue| work::durable_from(catalogue, node, from, RECORDS_ROUND_MAX));
    let lacking: Vec<_> =
        durable.into_iter().filter(|(_, it)| !replicas.store.holds(*it)).collect();
    // The next round begins with the rest of this one.
    *cursor = lacking.get(CHECKS_ROUND_MAX).map_or(next, |(segment, _)| *segment);
    lacking.into_iter().take(CHECKS_ROUND_MAX).map(|(_, digest)| digest).collect()
}

/// Segments in the index that have no file, in the next range.
async fn held_without_file(
    replicas: &Replicas,
    cursor: &mut Option<SegmentDigest>,
) -> Vec<SegmentDigest> {
    let held = replicas.store.held_after(*cursor, FILES_ROUND_MAX);
    *cursor = held.last().map(|(digest, _)| *digest);
    match held.is_empty() {
        true => Vec::new(),
        false => {
            let digests = held.into_iter().map(|(digest, _)| digest).collect();
            replicas.store.without_file(digests).await
        }
    }
}

async fn check(replicas: &Arc<Replicas>, digest: SegmentDigest) {
    if let Err(error) = suspect::check(replicas, digest).await {
        tracing::warn!(%digest, %error, "cannot check a replica whose file is missing");
    }
}
