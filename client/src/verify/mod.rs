//! Verification of one checkpoint: what the catalogue says of it, each replica on its own node, or
//! a whole restore.
//!
//! | level | what is compared | who reads |
//! |---|---|---|
//! | metadata | parts, manifests and sets of segments; replicas and racks against the policy | nobody |
//! | replicas | every durable replica against its digest | its own node, past the page cache |
//! | restore | every byte of every file, from whichever replica a restore would take | this client |
//!
//! A node that finds its replica bad keeps the file as evidence and gives the slot up; the cluster
//! makes another replica from good ones. So a verification also starts the repair.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::Reason;
use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::{Address, NodeId, SegmentDigest};
use cairn_types::manifest::Manifest;
use cairn_types::model::{CheckpointInfo, ManifestPlace, SlotState};
use cairn_types::set_digest;
use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep, timeout};

pub use self::lost::{Lost, LostFile};

use crate::catalogue::LocatedSegment;
use crate::cluster::{Answer, Client, with_identity};
use crate::download::{GetOptions, GetProgress};
use crate::error::ClientError;
use crate::sink::MemorySink;

/// Replicas that are read at the same time, on all nodes together: each node takes four at a time of
/// each client, which leaves it to its readers.
const REPLICAS_PARALLEL: usize = 16;
/// Of one node.
const NODE_PARALLEL: usize = 4;
/// A node reads at most 32 MiB for one answer; a disk that takes longer is not well.
const REPLICA_DEADLINE: Duration = Duration::from_secs(60);
/// Pause before a node that has too much to do is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// The last millisecond that has four digits for its year.
const WALL_MS_MAX: u64 = 253_402_300_799_999;

/// How much is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerifyLevel {
    Metadata,
    Replicas,
    Restore,
}

/// A replica that was found bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadReplica {
    pub node: NodeId,
    pub segment: SegmentDigest,
    /// Names of files that have bytes in it, and of manifests.
    pub files: Vec<String>,
}

/// What a verification found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifyReport {
    pub checkpoint: CheckpointInfo,
    pub level: VerifyLevel,
    /// What the catalogue has wrong, and where it is below the policy.
    pub problems: Vec<String>,
    /// Distinct segments, manifests' included.
    pub segments: u64,
    pub replicas_verified: u64,
    pub bytes_verified: u64,
    pub bad: Vec<BadReplica>,
    /// Nodes whose replicas could not all be verified: how many were not, and why.
    pub unverified: BTreeMap<NodeId, (u64, String)>,
    /// Files that cannot be restored now.
    pub lost: Vec<LostFile>,
}

impl VerifyReport {
    /// Nothing is wrong, and everything that was to be verified was.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
            && self.bad.is_empty()
            && self.unverified.is_empty()
            && self.lost.is_empty()
    }

    /// The result as a label: one for each level, with its time.
    pub fn label(&self, wall_ms: u64) -> (String, String) {
        let level = match self.level {
            VerifyLevel::Metadata => "metadata",
            VerifyLevel::Replicas => "replicas",
            VerifyLevel::Restore => "restore",
        };
        let result = match (self.is_damaged(), self.is_good(), self.unverified.is_empty()) {
            (true, ..) => "damaged",
            (_, true, _) => "good",
            (_, _, false) => "incomplete",
            _ => "below policy",
        };
        let at = std::time::UNIX_EPOCH + Duration::from_millis(wall_ms.min(WALL_MS_MAX));
        let at = humantime::format_rfc3339_seconds(at);
        (format!("cairn.verified.{level}"), format!("{result} {at}"))
    }

    /// Bytes of the checkpoint are bad or lost somewhere.
    pub fn is_damaged(&self) -> bool {
        !self.bad.is_empty() || !self.lost.is_empty()
    }
}

/// A replica to be read.
struct Replica {
    node: NodeId,
    segment: SegmentDigest,
    len: u32,
}

impl Client {
    /// Verifies the checkpoint that `address` names, in quarantine or not.
    pub fn verify<'a>(
        &'a self,
        address: &'a Address,
        level: VerifyLevel,
        progress: Arc<GetProgress>,
    ) -> Answer<'a, VerifyReport> {
        Box::pin(async move {
            let status = self.status().await?;
            let info = self.resolve(address).await?;
            let manifests = match self.part_manifests(&info, None).await {
                Ok(manifests) => manifests,
                // A manifest that cannot be read: all files of its part are lost.
                Err(error @ ClientError::Damaged { .. }) => {
                    let mut report = report(info, level);
                    report.problems.push(error.to_string());
                    return Ok(report);
                }
                Err(error) => return Err(error),
            };
            let mut report = report(info, level);
            let names = names(&report.checkpoint, &manifests);
            let digests: Vec<SegmentDigest> = names.keys().copied().collect();
            // A node says something of its segments to those who may read the checkpoint.
            let reader = self.about(report.checkpoint.id);
            let located = reader.locate(&digests).await?;
            report.segments = located.len() as u64;
            let racks: BTreeSet<&str> = status
                .nodes
                .iter()
                .filter(|node| !node.removed)
                .map(|node| node.rack.as_str())
                .collect();
            report.problems = problems(&report.checkpoint, &manifests, &located, racks.len());
            match level {
                VerifyLevel::Metadata => {}
                VerifyLevel::Replicas => {
                    reader.verify_replicas(&mut report, &located, &names, &progress).await;
                }
                VerifyLevel::Restore => self.verify_restore(&mut report, progress).await?,
            }
            Ok(report)
        })
    }

    async fn verify_replicas(
        &self,
        report: &mut VerifyReport,
        located: &[LocatedSegment],
        names: &BTreeMap<SegmentDigest, BTreeSet<String>>,
        progress: &Arc<GetProgress>,
    ) {
        let durable = |segment: &LocatedSegment| {
            let slots = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let (segment, len) = (segment.digest, segment.len);
            slots.map(move |slot| Replica { node: slot.node, segment, len }).collect::<Vec<_>>()
        };
        let mut by_node: BTreeMap<NodeId, Vec<Replica>> = BTreeMap::new();
        for replica in located.iter().flat_map(durable) {
            by_node.entry(replica.node).or_default().push(replica);
        }
        let total = by_node.values().flatten().map(|it| u64::from(it.len)).sum();
        progress.bytes_total.store(total, std::sync::atomic::Ordering::Relaxed);
        let of_nodes = by_node.into_values().map(|replicas| async move {
            let ask = |replica: Replica| async move {
                let found = self.verify_replica(&replica).await;
                progress.add(&progress.bytes_done, u64::from(replica.len));
                (replica, found)
            };
            stream::iter(replicas)
                .map(ask)
                .buffer_unordered(NODE_PARALLEL)
                .collect::<Vec<_>>()
                .await
        });
        // Nodes beside each other, some at a time.
        let nodes_parallel = REPLICAS_PARALLEL / NODE_PARALLEL;
        let found: Vec<_> = stream::iter(of_nodes.collect::<Vec<_>>())
            .buffer_unordered(nodes_parallel)
            .collect()
            .await;
        for (replica, found) in found.into_iter().flatten() {
            let Replica { node, segment, len } = replica;
            match found {
                Ok(is_bad) => {
                    report.replicas_verified += 1;
                    report.bytes_verified += u64::from(len);
                    if is_bad {
                        let files = names.get(&segment).into_iter().flatten().cloned().collect();
                        report.bad.push(BadReplica { node, segment, files });
                    }
                }
                Err(why) => report.unverified.entry(node).or_insert((0, why)).0 += 1,
            }
        }
        report.bad.sort_by_key(|bad| (bad.node, bad.segment));
    }

    /// Asks a node to read its replica; true where it was bad, and why it could not be read.
    async fn verify_replica(&self, replica: &Replica) -> Result<bool, String> {
        let started = Instant::now();
        let message = wire::SuspectRequest { digest: convert::digest_to_wire(&replica.segment) };
        loop {
            let (mut stub, identity) =
                self.segments(replica.node).await.map_err(|error| error.to_string())?;
            let call = stub.suspect(with_identity(message.clone(), &identity));
            let status = match timeout(REPLICA_DEADLINE, call).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner().bad),
                Ok(Err(status)) => status,
                Err(_) => return Err(format!("no answer within {REPLICA_DEADLINE:?}")),
            };
            let may_pass = matches!(Reason::of(&status), Some(Reason::Busy | Reason::NotYet));
            if !may_pass || started.elapsed() > REPLICA_DEADLINE {
                return Err(status.message().to_owned());
            }
            sleep(self.env.jitter(BUSY_PAUSE)).await;
        }
    }

    async fn verify_restore(
        &self,
        report: &mut VerifyReport,
        progress: Arc<GetProgress>,
    ) -> Result<(), ClientError> {
        let address = lost::address(&report.checkpoint);
        let options =
            GetOptions { verify_only: true, quarantined: true, progress, ..GetOptions::default() };
        match self.get(&address, Arc::new(MemorySink::default()), options).await {
            Ok(got) => {
                report.bytes_verified = got.bytes_fetched;
                Ok(())
            }
            Err(ClientError::Damaged { .. }) => {
                report.lost = self.lost_files(&report.checkpoint).await?;
                if report.lost.is_empty() {
                    // It came back meanwhile, but the restore had failed.
                    report.problems.push("a restore failed, and a second one did not".to_owned());
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn report(checkpoint: CheckpointInfo, level: VerifyLevel) -> VerifyReport {
    VerifyReport {
        checkpoint,
        level,
        problems: Vec::new(),
        segments: 0,
        replicas_verified: 0,
        bytes_verified: 0,
        bad: Vec::new(),
        unverified: BTreeMap::new(),
        lost: Vec::new(),
    }
}

/// All segments of a checkpoint, with the names of what lies in them.
fn names(
    info: &CheckpointInfo,
    manifests: &[(u32, Manifest)],
) -> BTreeMap<SegmentDigest, BTreeSet<String>> {
    let mut names: BTreeMap<SegmentDigest, BTreeSet<String>> = BTreeMap::new();
    for (part, manifest) in manifests {
        for (digest, _) in &manifest.segments {
            names.entry(*digest).or_default();
        }
        for file in &manifest.files {
            for extent in &file.extents {
                let segment = manifest.segments.get(extent.segment as usize);
                if let Some((digest, _)) = segment {
                    names.entry(*digest).or_default().insert(crate::sink::shown(&file.name));
                }
            }
        }
        let place = info.parts.get(*part as usize).map(|sealed| &sealed.manifest);
        if let Some(ManifestPlace::Segments(digests)) = place {
            for digest in digests {
                names.entry(*digest).or_default().insert(format!("the manifest of part {part}"));
            }
        }
    }
    names
}

/// What is wrong in the catalogue, and where the checkpoint is below its policy.
fn problems(
    info: &CheckpointInfo,
    manifests: &[(u32, Manifest)],
    located: &[LocatedSegment],
    racks: usize,
) -> Vec<String> {
    let mut problems = Vec::new();
    let lens: BTreeMap<SegmentDigest, u32> =
        located.iter().map(|segment| (segment.digest, segment.len)).collect();
    for (part, manifest) in manifests {
        let Some(sealed) = info.parts.get(*part as usize) else { continue };
        let mut set: BTreeMap<SegmentDigest, u32> = manifest.segments.iter().copied().collect();
        if let ManifestPlace::Segments(digests) = &sealed.manifest {
            set.extend(digests.iter().map(|it| (*it, lens.get(it).copied().unwrap_or(0))));
        }
        if set_digest(set) != sealed.set_digest {
            problems.push(format!("part {part}: its segments are not those that were sealed"));
        }
        let bytes: u64 = manifest.files.iter().map(|file| file.len).sum();
        if (manifest.files.len() as u64, bytes) != (sealed.files, sealed.bytes) {
            problems.push(format!("part {part}: its files are not those that were sealed"));
        }
        let other = |(digest, len): &&(SegmentDigest, u32)| lens.get(digest) != Some(len);
        if let Some((digest, _)) = manifest.segments.iter().find(other) {
            problems.push(format!("part {part}: segment {digest} has another length"));
        }
    }
    if let Some(unknown) = located.iter().find(|segment| segment.id.is_none()) {
        problems.push(format!("segment {} has no record", unknown.digest));
    }
    let (now, policy) = (&info.durability, &info.policy);
    if now.segments_unavailable > 0 {
        problems.push(format!("{} segments have no replica that counts", now.segments_unavailable));
    }
    if now.segments_below > 0 {
        let (below, wanted) = (now.segments_below, now.replicas_wanted);
        problems.push(format!("{below} segments have fewer than {wanted} replicas"));
    }
    let racks = policy.min_racks.min(u32::try_from(racks).unwrap_or(u32::MAX));
    if now.racks_min < racks.min(policy.replicas) && now.segments_unavailable == 0 {
        problems.push(format!("a segment is in {} of {racks} racks", now.racks_min));
    }
    problems
}
