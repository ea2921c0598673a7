//! T2: every change has one audit record with its subject. When the cluster has settled, the audit
//! files of all running nodes are read as a node reads them. Their records are the same, number by
//! number and byte by byte, each accepted request of a client has exactly one of them, and where a
//! node has none, it says so.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_node::audit::file::{self, Frame, Walk};
use cairn_types::command::AUDIT_LEVEL;
use cairn_types::ids::RequestId;

use super::d2_log::copy;
use crate::cluster::{Cluster, Running};
use crate::trace;
use crate::witness;

/// Records that are derived are durable within this, on a cluster without faults.
const DURABLE_WITHIN: Duration = Duration::from_secs(60);

/// The records of all nodes.
#[derive(Default)]
struct All {
    /// By number: the chain behind it, the node that had it first, the command.
    chains: BTreeMap<u64, ([u8; 32], String, String)>,
    /// Numbers of the records of a request.
    requests: BTreeMap<RequestId, Vec<u64>>,
}

/// Reports what is wrong with the audit of a settled cluster.
pub async fn finish(cluster: &Cluster) {
    let running = cluster.running();
    for node in &running {
        let trail = &node.shared.this.trail;
        let durable = trail.until_durable(trail.last());
        if tokio::time::timeout(DURABLE_WITHIN * cluster.pace(), durable).await.is_err() {
            let text = format!("records of {} do not become durable", node.name);
            cluster.world().violation("T2", text);
            return;
        }
    }
    let mut all = All::default();
    for node in running.iter().filter(|node| cluster.running_node(node.process).is_some()) {
        for text in node.shared.this.trail.damage() {
            cluster.world().violation("T2", format!("{}: {text}", node.name));
        }
        if let Err(text) = all.add(cluster, node) {
            cluster.world().violation("T2", format!("{}: {text}", node.name));
        }
    }
    // Before the cluster was at this level, nothing was recorded.
    let began = all.chains.get(&1).is_some_and(|(_, _, command)| command == "init_cluster");
    let catalogue = cluster.newest().1;
    if !began || catalogue.cluster().feature_level < AUDIT_LEVEL {
        return;
    }
    for (request, command) in witness::recorded() {
        trace::count("checked.audit_requests", 1);
        let found = all.requests.get(&request).map_or(&[][..], Vec::as_slice);
        let has_gap = (1..=catalogue.cluster().audit.count).any(|it| !all.chains.contains_key(&it));
        if found.len() != 1 && !(found.is_empty() && has_gap) {
            let text = format!("{command} of request {request:?} has the records {found:?}");
            cluster.world().violation("T2", text);
        }
    }
}

impl All {
    /// Walks the whole file of a node.
    fn add(&mut self, cluster: &Cluster, node: &Running) -> Result<(), String> {
        let Some(disk) = cluster.disk(node.process) else { return Ok(()) };
        let place = node.shared.this.trail.place();
        if place.file == 0 {
            return Ok(());
        }
        let look = copy(&disk, |path| path.starts_with(file::DIR))?;
        let mut files = file::files(&look).map_err(|error| error.to_string())?;
        files.retain(|first| *first <= place.file);
        trace::count("checked.audit_files", files.len() as u64);
        let mut head = None;
        for first in files {
            let end = (first == place.file).then_some(place.len);
            let mut walk = Walk::open(&look, first, end).map_err(|error| error.to_string())?;
            if walk.head() != &head.unwrap_or_default() {
                return Err(format!("the file of record {first} does not follow the one before"));
            }
            while let Some(frame) = walk.step().map_err(|error| error.to_string())? {
                let Frame::Record(record) = frame else {
                    trace::count("checked.audit_gaps", 1);
                    continue;
                };
                let (number, hash) = (record.number, walk.head().hash);
                match self.chains.get(&number) {
                    Some((known, other, _)) if *known != hash => {
                        return Err(format!("record {number} is not that of {other}"));
                    }
                    Some(_) => trace::count("checked.audit_records_compared", 1),
                    None => {
                        let known = (hash, node.name.to_string(), record.command.clone());
                        self.chains.insert(number, known);
                        if record.is_accepted() {
                            self.requests.entry(record.request).or_default().push(number);
                        }
                    }
                }
            }
            head = Some(*walk.head());
        }
        match head {
            Some(head) if head == place.head => Ok(()),
            head => Err(format!("the file ends with {head:?}, not {:?}", place.head)),
        }
    }
}
