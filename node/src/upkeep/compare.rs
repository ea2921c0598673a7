//! A slow comparison of the catalogue's Durable slots, the store's index and the files, for as
//! long as the node runs. Nobody may read a segment for months; that its file has gone must not
//! stay unknown until the next start.

use std::sync::Arc;

use cairn_core::work;
use cairn_types::ids::{SegmentDigest, SegmentId};

use super::suspect;
use crate::shared::{Member, Replicas};

/// Files looked for in a round (a second): on a disk that gives 150 of them a second it takes a
/// fraction of its time, and half a million files are through in two hours and a half.
const FILES_ROUND_MAX: usize = 64;
/// Records looked at in a round, in memory.
const RECORDS_ROUND_MAX: usize = 4096;
/// Replicas given up in a round: the rest of a directory that has gone follows in the next ones.
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
fn is_inventoried(member: &Member) -> bool {
    let (node, incarnation) = (member.this.id, member.this.incarnation());
    member.read(|catalogue| {
        let record = catalogue.node(node);
        record.is_some_and(|it| it.inventoried && Some(it.incarnation) == incarnation)
    })
}

/// Durable slots of this node that the store does not hold, of the next stretch of segments.
fn slots_not_in_store(replicas: &Replicas, cursor: &mut SegmentId) -> Vec<SegmentDigest> {
    let (node, from) = (replicas.this.id, *cursor);
    let (durable, next) = replicas
        .member
        .read(|catalogue| work::durable_from(catalogue, node, from, RECORDS_ROUND_MAX));
    let lacking: Vec<_> =
        durable.into_iter().filter(|(_, it)| !replicas.store.holds(*it)).collect();
    // What this round leaves over begins the next.
    *cursor = lacking.get(CHECKS_ROUND_MAX).map_or(next, |(segment, _)| *segment);
    lacking.into_iter().take(CHECKS_ROUND_MAX).map(|(_, digest)| digest).collect()
}

/// Segments of the index without a file, of the next few.
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
