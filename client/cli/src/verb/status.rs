//! `cairn status`: the cluster at a glance; exit code 8 when something is below its policy.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_client::{Client, ClientError, ClusterId, ClusterStatus};
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::node::NodeRecord;
use super::survey::Survey;
use super::{clock, node, retention, room};
use crate::exit::{Exit, Outcome};
use crate::output::{bytes, plural};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Wait until all data meets its policy, all nodes are up and a voter can be lost
    #[arg(long)]
    wait_healthy: bool,
    /// With --wait-healthy: exit with code 8 after this long
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait_timeout: humantime::Duration,
}

/// How often --wait-healthy asks.
const LOOK: Duration = Duration::from_millis(500);
/// A leader is waited for so long: more than an election takes, and little enough for somebody who
/// looks because something is wrong.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Each node's own answer is waited for so long.
const NODE_PATIENCE: Duration = Duration::from_millis(1_500);

enum Seen {
    Whole(Box<ClusterStatus>),
    EachForItself(Survey),
}

impl Seen {
    fn is_healthy(&self) -> bool {
        matches!(self, Self::Whole(status) if problems(status).is_empty())
    }
}

/// The cluster's status; without a leader, what each node says itself.
async fn look(client: &Client, patience: Duration) -> Result<Seen, ClientError> {
    let error = match client.full_status_within(Some(patience)).await {
        Ok(status) => return Ok(Seen::Whole(Box::new(status))),
        Err(error @ (ClientError::Timeout { .. } | ClientError::Unreachable { .. })) => error,
        Err(error) => return Err(error),
    };
    let survey = Survey(client.views(NODE_PATIENCE).await);
    if survey.is_empty() { Err(error) } else { Ok(Seen::EachForItself(survey)) }
}

pub fn run(session: &Session, args: StatusArgs) -> Outcome {
    let end = Instant::now() + Duration::from(args.wait_timeout);
    let patience = LEADER_PATIENCE.min(session.global.timeout.into());
    let seen = session.with_client(async |client| {
        loop {
            let waits = args.wait_healthy && Instant::now() < end;
            match look(client, patience).await {
                Ok(seen) if !waits || seen.is_healthy() => return Ok(seen),
                Err(error) if !waits => return Err(error),
                // A leader may be lost on the way.
                Ok(_) | Err(ClientError::Unreachable { .. } | ClientError::Timeout { .. }) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK).await;
        }
    })?;
    let status = match seen {
        Seen::Whole(status) => status,
        Seen::EachForItself(survey) => {
            session.output.result(&survey.document(), || survey.text())?;
            return Ok(Exit::Unreachable);
        }
    };
    session.output.result(&document(&status), || text(&status))?;
    Ok(if problems(&status).is_empty() { Exit::Ok } else { Exit::BelowPolicy })
}

/// Voters that may still be lost with the catalogue writable: those that are down already count.
fn voters_can_be_lost(status: &ClusterStatus) -> u32 {
    let down = status.nodes.iter().filter(|node| node.voter && !node.up).count();
    (status.voters.saturating_sub(1) / 2).saturating_sub(u32::try_from(down).unwrap_or(u32::MAX))
}

/// With so many nodes one voter can be lost; with fewer, none can.
const MEMBERS_SAFE: usize = 3;
/// Racks that may still be lost with the catalogue writable: the largest ones go first.
fn voter_racks_can_be_lost(status: &ClusterStatus) -> u32 {
    let mut by_rack: BTreeMap<&str, u32> = BTreeMap::new();
    for node in status.nodes.iter().filter(|node| node.voter && node.up) {
        *by_rack.entry(&node.rack).or_default() += 1;
    }
    let mut left: u32 = by_rack.values().sum();
    let mut racks: Vec<u32> = by_rack.into_values().collect();
    racks.sort_unstable();
    let mut count = 0;
    while let Some(voters) = racks.pop() {
        left -= voters;
        if left * 2 <= status.voters {
            break;
        }
        count += 1;
    }
    count
}

/// Nodes and racks that can be lost with all data within reach. The catalogue says where data is, and
/// no lost majority of voters can be recovered yet: the lesser of replicas and voters counts.
fn can_be_lost(status: &ClusterStatus) -> (u32, u32) {
    (
        status.nodes_can_be_lost.min(voters_can_be_lost(status)),
        status.racks_can_be_lost.min(voter_racks_can_be_lost(status)),
    )
}

/// What is not as policy wants it, in words.
pub fn problems(status: &ClusterStatus) -> Vec<String> {
    let mut problems = Vec::new();
    let down =
        status.nodes.iter().filter(|node| !node.up && !node.removed && node.incarnation.0 > 0);
    for node in down {
        problems.push(format!("node {} ({}, {}) is down", node.id, node.host, node.rack));
    }
    for node in status.nodes.iter().filter(|node| node.up && !node.removed) {
        if let Some(trouble) = node.trouble {
            problems.push(format!("node {} ({}, {}): {trouble}", node.id, node.host, node.rack));
        }
    }
    for node in status.nodes.iter().filter(|node| node.audit_damaged && !node.removed) {
        let (id, host, rack) = (node.id, &node.host, &node.rack);
        problems.push(format!("node {id} ({host}, {rack}): its audit file is damaged"));
    }
    for info in status.nodes.iter().filter(|info| info.outside.is_some()) {
        if let Some(why) = node::outside(info) {
            problems.push(format!("node {} ({}, {}) {why}", info.id, info.host, info.rack));
        }
    }
    let members =
        status.nodes.iter().filter(|node| !node.removed && node.incarnation.0 > 0).count();
    if members >= MEMBERS_SAFE && voters_can_be_lost(status) == 0 {
        problems.push(format!(
            "no voter can be lost without stopping writes: {} of {} up",
            status.nodes.iter().filter(|node| node.voter && node.up).count(),
            status.voters
        ));
    }
    if status.segments_lost > 0 {
        let count = plural(status.segments_lost, "segment");
        problems.push(format!("{count} cannot be read: all replicas are rotten or lost"));
    }
    let waiting = status.segments_unavailable.saturating_sub(status.segments_lost);
    if waiting > 0 {
        let count = plural(waiting, "segment");
        problems.push(format!("{count} cannot be read: no node that holds a replica is up"));
    }
    if status.segments_below > 0 {
        problems.push(format!(
            "{} ({}) below the wanted number of replicas",
            plural(status.segments_below, "segment"),
            bytes(status.bytes_below)
        ));
    }
    if status.segments_short_of_racks > 0 {
        let count = plural(status.segments_short_of_racks, "segment");
        problems.push(format!("{count} in fewer racks than policy asks for"));
    }
    problems.extend(room::problems(&status.nodes));
    problems.extend(clock::problems(status));
    problems.extend(retention::problems(status));
    problems
}

/// A cluster's id as text.
pub fn cluster_text(id: Option<ClusterId>) -> String {
    id.map_or("?".to_owned(), |id| id.to_string())
}

/// Id and address; 0 and nothing where no leader is known.
fn leader_of(status: &ClusterStatus) -> (u64, &str) {
    let address = status.leader_address.as_deref().unwrap_or_default();
    (status.leader.map_or(0, |id| id.0), address)
}

/// `status`.
#[derive(Serialize)]
pub(super) struct StatusDocument<'a> {
    cluster: String,
    lineage: u32,
    /// 0 where none is known.
    leader: u64,
    leader_address: &'a str,
    term: u64,
    applied_index: u64,
    voters: u32,
    /// Without stopping writes.
    voters_can_be_lost: u32,
    feature_level: u32,
    nodes: Vec<NodeRecord<'a>>,
    checkpoints_committed: u64,
    checkpoints_open: u64,
    segments: u64,
    segment_bytes: u64,
    /// Segments with fewer replicas than their policy asks for.
    segments_below: u64,
    bytes_below: u64,
    /// Segments without any replica that counts.
    segments_unavailable: u64,
    /// Of those, segments with rotten or lost replicas only, with their nodes up.
    segments_lost: u64,
    /// Segments in fewer racks than their policy asks for.
    segments_short_of_racks: u64,
    /// Awaiting deletion.
    segments_unreferenced: u64,
    bytes_unreferenced: u64,
    /// How many can be lost, whichever they are, without losing data.
    nodes_can_be_lost: u32,
    racks_can_be_lost: u32,
    /// The same, ignoring voters.
    nodes_can_be_lost_by_replicas: u32,
    racks_can_be_lost_by_replicas: u32,
    /// Namespaces with a newest commit labelled later than a correct clock allows, and the first of
    /// them.
    namespaces_ahead: u64,
    first_ahead: Vec<AheadRecord<'a>>,
    /// Namespaces with a run of retention that waits for a confirmation, and the first of them.
    namespaces_waiting: u64,
    first_waiting: Vec<WaitingRecord<'a>>,
    /// The token may not read every namespace: counts and bytes are left out.
    limited: bool,
    /// Empty if there is no problem.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct AheadRecord<'a> {
    namespace: &'a str,
    ahead_ms: u64,
}

#[derive(Serialize)]
struct WaitingRecord<'a> {
    namespace: &'a str,
    checkpoints: u64,
}

pub(super) fn document(status: &ClusterStatus) -> StatusDocument<'_> {
    let nodes = status.nodes.iter().map(|info| NodeRecord::new(info, status.leader));
    let (nodes_can_be_lost, racks_can_be_lost) = can_be_lost(status);
    let leader = leader_of(status);
    let first_ahead = status.first_ahead.iter();
    let first_ahead =
        first_ahead.map(|it| AheadRecord { namespace: &it.namespace, ahead_ms: it.ahead_ms });
    let first_waiting = status
        .first_waiting
        .iter()
        .map(|it| WaitingRecord { namespace: &it.namespace, checkpoints: it.checkpoints });
    StatusDocument {
        cluster: cluster_text(status.cluster),
        lineage: status.lineage,
        leader: leader.0,
        leader_address: leader.1,
        term: status.term,
        applied_index: status.applied_index,
        voters: status.voters,
        voters_can_be_lost: voters_can_be_lost(status),
        feature_level: status.feature_level,
        nodes: nodes.collect(),
        checkpoints_committed: status.checkpoints_committed,
        checkpoints_open: status.checkpoints_open,
        segments: status.segments,
        segment_bytes: status.segment_bytes,
        segments_below: status.segments_below,
        bytes_below: status.bytes_below,
        segments_unavailable: status.segments_unavailable,
        segments_lost: status.segments_lost,
        segments_short_of_racks: status.segments_short_of_racks,
        segments_unreferenced: status.segments_unreferenced,
        bytes_unreferenced: status.bytes_unreferenced,
        nodes_can_be_lost,
        racks_can_be_lost,
        nodes_can_be_lost_by_replicas: status.nodes_can_be_lost,
        racks_can_be_lost_by_replicas: status.racks_can_be_lost,
        namespaces_ahead: status.namespaces_ahead,
        first_ahead: first_ahead.collect(),
        namespaces_waiting: status.namespaces_waiting,
        first_waiting: first_waiting.collect(),
        limited: status.limited,
        problems: problems(status),
    }
}

pub(super) fn text(status: &ClusterStatus) -> String {
    let cluster = cluster_text(status.cluster);
    let leader = leader_of(status);
    let mut lines = vec![format!(
        "cluster {}  leader node {} at {}  term {}  index {}",
        &cluster[..8.min(cluster.len())],
        leader.0,
        leader.1,
        status.term,
        status.applied_index
    )];
    lines.push(String::new());
    let members: Vec<_> = status.nodes.iter().filter(|node| !node.removed).cloned().collect();
    lines.push(node::node_table(&members, status.leader, status.limited));
    lines.extend(members.iter().filter_map(node::duty_line));
    lines.push(match status.limited {
        true => "data       not shown: this token may not read every namespace".to_owned(),
        false => format!(
            "data       {}, {} in {}; {} awaiting deletion",
            plural(status.checkpoints_committed, "checkpoint"),
            bytes(status.segment_bytes),
            plural(status.segments, "segment"),
            bytes(status.bytes_unreferenced),
        ),
    });
    if status.checkpoints_open > 0 {
        lines.push(format!("uploads    {} in progress", status.checkpoints_open));
    }
    lines.extend(line_of_features(status));
    lines.extend(lines_of_losses(status));
    let problems = problems(status);
    if problems.is_empty() {
        lines.push(match status.limited {
            true => "health     ok: all nodes are up".to_owned(),
            false => "health     ok: all data meets its policy".to_owned(),
        });
    }
    for (index, problem) in problems.iter().enumerate() {
        let label = if index == 0 { "health" } else { "" };
        lines.push(format!("{label:10} {problem}"));
    }
    lines.join("\n") + "\n"
}

/// In a cluster of mixed builds: who keeps it from the newest features.
fn line_of_features(status: &ClusterStatus) -> Option<String> {
    let level = status.feature_level;
    let serving = || status.nodes.iter().filter(|node| !node.removed && node.incarnation.0 > 0);
    let newest = serving().map(|node| node.feature_level).max().filter(|newest| *newest > level)?;
    let oldest = serving().filter(|node| node.feature_level <= level);
    let oldest: Vec<String> = oldest.map(|node| node.id.to_string()).collect();
    let nodes = plural(oldest.len() as u64, "node");
    let list = oldest.join(", ");
    Some(format!("features   level {level} of {newest}: limited by {nodes} ({list})"))
}

/// `any 2 nodes, or any 1 rack`; where no rack can be lost, that is said beside it.
fn any_of(nodes: u32, racks: u32) -> String {
    let any = |count: u32, noun| format!("any {}", plural(count.into(), noun));
    match (nodes, racks) {
        (0, _) => "no further node".to_owned(),
        (nodes, 0) => any(nodes, "node"),
        (nodes, racks) => format!("{}, or {}", any(nodes, "node"), any(racks, "rack")),
    }
}

/// Why no rack can be lost although a node can.
fn why_no_rack(status: &ClusterStatus) -> &'static str {
    match status.racks_can_be_lost {
        0 => "all replicas of some data are in one rack",
        _ => "the voters of one rack are needed for a majority",
    }
}

fn lines_of_losses(status: &ClusterStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let voters = voters_can_be_lost(status);
    if status.checkpoints_committed > 0 {
        let (nodes, racks) = can_be_lost(status);
        lines.push(format!("can lose   {}, without losing data", any_of(nodes, racks)));
        if nodes > 0 && racks == 0 {
            lines.push(format!("           cannot lose a rack: {}", why_no_rack(status)));
        }
        let by_replicas = (status.nodes_can_be_lost, status.racks_can_be_lost);
        if (nodes, racks) != by_replicas {
            let enough = any_of(by_replicas.0, by_replicas.1);
            lines.push(format!("           (replicas: {enough}; voters need a majority)"));
        }
    }
    let writes = match voters {
        0 => "no further voter".to_owned(),
        count => format!("any {}", plural(u64::from(count), "voter")),
    };
    lines.push(format!("can lose   {writes} of {}, without stopping writes", status.voters));
    lines
}

#[cfg(test)]
mod tests {
    use cairn_client::{Incarnation, NodeId, NodeInfo};

    use super::*;

    fn cluster(racks: &[&str], voters: u32, replicas: u32) -> ClusterStatus {
        let node = |(index, rack): (usize, &&str)| {
            let mut node = NodeInfo::default();
            node.id = NodeId(index as u64 + 1);
            node.host = format!("h{index}");
            node.rack = (*rack).to_owned();
            (node.up, node.inventoried, node.incarnation) = (true, true, Incarnation(1));
            node.voter = (index as u32) < voters;
            node.available_bytes = Some(1 << 40);
            node
        };
        let mut status = ClusterStatus::default();
        status.nodes = racks.iter().enumerate().map(node).collect();
        status.voters = voters;
        status.checkpoints_committed = 1;
        status.nodes_can_be_lost = replicas - 1;
        status.racks_can_be_lost = replicas - 1;
        status
    }

    #[test]
    fn what_can_be_lost_is_the_lesser_of_replicas_and_voters() {
        assert_eq!(can_be_lost(&cluster(&["a", "b", "c"], 3, 3)), (1, 1));
        assert_eq!(can_be_lost(&cluster(&["a", "b", "c", "d", "e"], 5, 3)), (2, 2));
        assert_eq!(can_be_lost(&cluster(&["a", "b", "c", "d", "e"], 5, 2)), (1, 1));
        // Two of three voters in one rack; one voter of two nodes.
        assert_eq!(can_be_lost(&cluster(&["a", "a", "b"], 3, 3)), (1, 0));
        assert_eq!(can_be_lost(&cluster(&["a", "b"], 1, 2)), (0, 0));
        let mut down = cluster(&["a", "b", "c"], 3, 3);
        down.nodes[2].up = false;
        assert_eq!(can_be_lost(&down), (0, 0));
        let text = text(&cluster(&["a", "b"], 1, 2));
        assert!(text.contains("no further node, without losing data"), "{text}");
        assert!(text.contains("any 1 node, or any 1 rack; voters need a majority"), "{text}");
    }

    #[test]
    fn a_rack_that_cannot_be_lost_is_said_in_words() {
        let losses = |status: &ClusterStatus| lines_of_losses(status).join("\n");
        assert_eq!(
            losses(&cluster(&["a", "a", "b"], 3, 3)),
            "can lose   any 1 node, without losing data\n           \
             cannot lose a rack: the voters of one rack are needed for a majority\n           \
             (replicas: any 2 nodes, or any 2 racks; voters need a majority)\n\
             can lose   any 1 voter of 3, without stopping writes"
        );
        let mut one_rack = cluster(&["a", "a", "a"], 3, 3);
        one_rack.racks_can_be_lost = 0;
        assert_eq!(
            losses(&one_rack),
            "can lose   any 1 node, without losing data\n           \
             cannot lose a rack: all replicas of some data are in one rack\n           \
             (replicas: any 2 nodes; voters need a majority)\n\
             can lose   any 1 voter of 3, without stopping writes"
        );
        assert_eq!(
            losses(&cluster(&["a", "b", "c"], 3, 1)),
            "can lose   no further node, without losing data\n\
             can lose   any 1 voter of 3, without stopping writes"
        );
    }

    #[test]
    fn a_half_upgraded_cluster_names_the_nodes_to_upgrade() {
        let mut status = cluster(&["a", "b", "c"], 3, 3);
        status.feature_level = 1;
        status.nodes.iter_mut().for_each(|node| node.feature_level = 1);
        assert_eq!(line_of_features(&status), None);
        status.nodes[1].feature_level = 2;
        let line = line_of_features(&status).unwrap();
        assert_eq!(line, "features   level 1 of 2: limited by 2 nodes (1, 3)");
    }

    #[test]
    fn a_cluster_without_room_is_not_healthy() {
        let mut status = cluster(&["a", "b", "c", "d"], 3, 3);
        status.nodes[3].available_bytes = Some(1 << 20);
        assert_eq!(problems(&status), [""; 0], "three hosts have room");
        assert!(text(&status).contains("full"), "{}", text(&status));
        status.nodes[2].available_bytes = Some(0);
        let found = problems(&status);
        assert!(found.iter().any(|it| it.contains("node 3 (h2, c) has no room")), "{found:?}");
        assert!(found.iter().any(|it| it.contains("2 of 4 hosts have room")), "{found:?}");
        // Nobody knows: a node that does not lead answered.
        status.nodes.iter_mut().for_each(|node| node.available_bytes = None);
        assert_eq!(problems(&status), [""; 0]);
    }
}
