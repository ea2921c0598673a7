//! Drills: a restore as if some nodes were lost, compared byte by byte, with a check of the user's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{
    Address, Annotation, CheckpointInfo, Client, ClientError, ClusterStatus, GetOptions, LocalSink,
    Lost, LostFile, NodeId, NodeInfo, Selector,
};
use tokio::time::Instant;

use crate::hooks;

/// The label that has the last good result, and the one that has a bad one since.
pub const LABEL: &str = "cairn.drill";
pub const BAD_LABEL: &str = "cairn.drill.bad";

/// What a drill does.
#[derive(Debug, Clone)]
pub struct DrillPlan {
    pub address: Address,
    /// What is taken as lost, as it was given, and what that means.
    pub words: Vec<String>,
    pub lost: Lost,
    /// A program and its arguments, run in the restored directory.
    pub check: Option<Vec<String>>,
    pub check_timeout: Duration,
}

/// How a drill ended.
#[derive(Debug, Clone)]
pub struct Drill {
    pub checkpoint: CheckpointInfo,
    pub lost: Vec<LostFile>,
    /// Of the check, if there is one: why it failed.
    pub check: Option<Result<(), String>>,
    /// From the start to the end of the check.
    pub rto: Duration,
    /// From the commit to the start of the drill.
    pub rpo: Duration,
    /// Whether a majority of the voters is left.
    pub has_majority: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error("malformed {0:?}: expected rack=NAME, host=NAME or node=ID")]
    Malformed(String),
    /// A drill that loses what is not there would show nothing.
    #[error("no node has {kind} {name}")]
    Unknown { kind: &'static str, name: String },
    #[error("a restore failed, and a second one did not: run the drill again")]
    Unsteady,
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Drill {
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && !matches!(self.check, Some(Err(_))) && self.has_majority
    }

    pub fn bytes_lost(&self) -> u64 {
        self.lost.iter().map(|file| file.bytes).sum()
    }
}

/// What `rack=NAME`, `host=NAME` and `node=ID` take as lost.
pub fn lost(words: &[String]) -> Result<Lost, DrillError> {
    let mut lost = Lost::default();
    for word in words {
        let malformed = || DrillError::Malformed(word.clone());
        let (kind, name) = word.split_once('=').ok_or_else(malformed)?;
        match kind {
            "rack" => drop(lost.racks.insert(name.to_owned())),
            "host" => drop(lost.hosts.insert(name.to_owned())),
            "node" => {
                lost.nodes.insert(NodeId(name.parse().map_err(|_| malformed())?));
            }
            _ => return Err(malformed()),
        }
    }
    Ok(lost)
}

fn check_names(lost: &Lost, status: &ClusterStatus) -> Result<(), DrillError> {
    let members = || status.nodes.iter().filter(|node| !node.removed);
    let racks: BTreeSet<&str> = members().map(|node| node.rack.as_str()).collect();
    let hosts: BTreeSet<&str> = members().map(|node| node.host.as_str()).collect();
    let unknown = |kind, name: &dyn std::fmt::Display| {
        Err(DrillError::Unknown { kind, name: name.to_string() })
    };
    if let Some(rack) = lost.racks.iter().find(|rack| !racks.contains(rack.as_str())) {
        return unknown("rack", rack);
    }
    if let Some(host) = lost.hosts.iter().find(|host| !hosts.contains(host.as_str())) {
        return unknown("host", host);
    }
    match lost.nodes.iter().find(|id| !members().any(|node| node.id == **id)) {
        Some(node) => unknown("id", node),
        None => Ok(()),
    }
}

/// Restores into `scratch`, which must be empty, and checks what is there then.
pub async fn drill(client: &Client, plan: &DrillPlan, scratch: &Path) -> Result<Drill, DrillError> {
    let started = Instant::now();
    let status = client.status().await?;
    check_names(&plan.lost, &status)?;
    let voters = status.nodes.iter().filter(|node| node.voter);
    let answers = |node: &&NodeInfo| node.up && !plan.lost.has(node);
    let left = voters.clone().filter(answers).count();
    let has_majority = left * 2 > voters.count();
    let checkpoint = client.resolve(&plan.address).await?;
    let committed_ms = checkpoint.commit.as_ref().map_or(0, |commit| commit.wall_ms);
    let rpo = Duration::from_millis(client.env().wall_ms().saturating_sub(committed_ms));
    // The very checkpoint, whatever `latest` is by now.
    let exact = exact(&checkpoint);
    let survivors = client.as_if_lost(plan.lost.clone());
    let (rto, check, lost) = (Duration::ZERO, None, Vec::new());
    let mut drill = Drill { checkpoint, lost, check, rto, rpo, has_majority };
    match restore(&survivors, &exact, scratch).await {
        Ok(()) => {}
        Err(ClientError::Damaged { .. }) => {
            drill.lost = survivors.lost_files(&drill.checkpoint).await?;
            if drill.lost.is_empty() {
                return Err(DrillError::Unsteady);
            }
        }
        Err(error) => return Err(error.into()),
    }
    if let (Some(command), true) = (&plan.check, drill.lost.is_empty()) {
        drill.check = Some(hooks::run(command, &[], Some(scratch), plan.check_timeout).await);
    }
    drill.rto = started.elapsed();
    Ok(drill)
}

/// Restores everything, and then compares every byte on the disk with its digest: a second get into
/// the same directory keeps what is right and fetches nothing.
async fn restore(client: &Client, address: &Address, scratch: &Path) -> Result<(), ClientError> {
    let sink = || LocalSink::open(scratch).map(Arc::new).map_err(ClientError::Sink);
    let restored = client.get(address, sink()?, GetOptions::default()).await?;
    let compared = client.get(address, sink()?, GetOptions::default()).await?;
    match compared.bytes_kept == restored.bytes && compared.files_kept == restored.files {
        true => Ok(()),
        false => Err(ClientError::Malformed {
            what: format!("compare {}", scratch.display()),
            problem: "the disk does not give back what was written".to_owned(),
        }),
    }
}

/// Writes the result into a label of the checkpoint. A bad one has its own: the last good one stays. A
/// good one removes what was bad before it.
pub async fn record(client: &Client, plan: &DrillPlan, drill: &Drill) -> Result<(), ClientError> {
    let at = i64::try_from(client.env().wall_ms()).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_second(at / 1000).unwrap_or(jiff::Timestamp::MAX);
    let value = value(plan, drill, &at.to_string());
    let label = if drill.is_good() { LABEL } else { BAD_LABEL };
    let labels = BTreeMap::from([(label.to_owned(), value)]);
    let remove = if drill.is_good() { vec![BAD_LABEL.to_owned()] } else { Vec::new() };
    let change = Annotation { labels, remove, ..Annotation::default() };
    client.annotate(&exact(&drill.checkpoint), change).await.map(drop)
}

fn value(plan: &DrillPlan, drill: &Drill, at: &str) -> String {
    let result = if drill.is_good() { "good" } else { "bad" };
    let (rto, rpo) = (drill.rto.as_secs_f64(), drill.rpo.as_secs());
    let mut value = format!("{result} {at} rto={rto:.1}s rpo={rpo}s");
    for word in &plan.words {
        value.push_str(&format!(" {word}"));
    }
    // A label has a bound; names of racks may be long.
    let end = (0..=value.len().min(255)).rev().find(|end| value.is_char_boundary(*end));
    value.truncate(end.unwrap_or(0));
    value
}

fn exact(info: &CheckpointInfo) -> Address {
    Address { namespace: info.namespace.clone(), selector: Selector::Step(info.step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_named_by_rack_host_or_node() {
        let words = ["rack=a", "host=h=1", "node=7"].map(str::to_owned);
        let lost = lost(&words).unwrap();
        assert_eq!(lost.racks, BTreeSet::from(["a".to_owned()]));
        assert_eq!(lost.hosts, BTreeSet::from(["h=1".to_owned()]));
        assert_eq!(lost.nodes, BTreeSet::from([NodeId(7)]));
        for word in ["a", "racks=a", "node=x", ""] {
            assert!(super::lost(&[word.to_owned()]).is_err(), "{word}");
        }
    }
}
