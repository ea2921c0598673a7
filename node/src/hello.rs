//! A starting node asks its peers whether its data directory may come back, and which of its
//! promises they have heard (decision 0005).
//!
//! A refusal ends the node, so one peer's word is not enough. It must come from the leader, or from
//! more than half of the peers that were asked. Any other refusal is disputed. Then the peers are
//! asked again for a while, because some may be starting. After that the node continues, and
//! `Register` decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_host::envelope::Reason;
use cairn_host::seam::Env;
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::ids::{ClusterId, Lineage, Nonce};
use tokio::time::Instant;
use tonic::Request;

use crate::identity::Identity;
use crate::peers::Peers;
use crate::raft::Promise;
use crate::start_error::StartError;

/// Time limit for one address: twice the time that the peer waits for its leader's answer.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Rounds. Each asks the peers that gave no answer, and a leader that was named.
const ROUNDS_MAX: u32 = 3;
/// Total time, and pause, of the repeated questions about a disputed refusal.
const DISPUTE_MAX: Duration = Duration::from_secs(10);
const DISPUTE_PAUSE: Duration = Duration::from_millis(500);

/// The answer of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answer {
    refused: String,
    /// Whether its view was linearizable.
    fresh: bool,
    leader_address: String,
}

/// The result of all answers.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Admitted,
    Refused(String),
    /// Few peers refuse, and no leader is among them.
    Disputed(String),
}

/// Asks all reachable peers, and the leader that they name. Peers without an answer are asked
/// again, up to `ROUNDS_MAX` times. After that, no answer counts as no objection: a whole cluster
/// that starts cold has no running peer to ask, and `Register` asks again. A peer that is starting
/// itself has nothing to tell.
pub async fn ask(
    env: &Env,
    peers: &Peers,
    own: &str,
    identity: &Identity,
    previous: &[Nonce],
) -> Result<Vec<Promise>, StartError> {
    let message = papers(identity, previous);
    let mut round = Round { env, peers, cluster: identity.cluster, message, promised: Vec::new() };
    let end = Instant::now() + DISPUTE_MAX;
    loop {
        let (asked, answers) = round.all(own).await;
        match verdict(asked, &answers, None) {
            Verdict::Admitted => return Ok(round.promised),
            Verdict::Refused(reason) => return Err(StartError::Refused(reason)),
            Verdict::Disputed(reason) if Instant::now() >= end => {
                tracing::warn!(%reason, "refused by few and not by a leader; going on");
                return Ok(round.promised);
            }
            Verdict::Disputed(reason) => {
                tracing::warn!(%reason, "refused by few; asking again");
                tokio::time::sleep(env.jitter(DISPUTE_PAUSE)).await;
            }
        }
    }
}

/// The hello of a directory that knows these nonces.
pub fn papers(identity: &Identity, nonces: &[Nonce]) -> wire::HelloRequest {
    wire::HelloRequest {
        cluster: identity.cluster.0.to_be_bytes().to_vec().into(),
        node: identity.node.map_or(0, |node| node.0),
        cookie: identity.cookie.0.to_be_bytes().to_vec().into(),
        nonces: nonces.iter().map(|nonce| nonce.0.to_be_bytes().to_vec().into()).collect(),
        incarnation: identity.registered_incarnation.0,
    }
}

/// The cluster named in an answer.
pub fn cluster_of(cluster: &[u8], lineage: u32) -> Result<(ClusterId, Lineage), String> {
    let bytes: [u8; 16] = cluster.try_into().map_err(|_| "malformed cluster id".to_owned())?;
    let lineage = u16::try_from(lineage).map_err(|_| "malformed lineage".to_owned())?;
    Ok((ClusterId(u128::from_be_bytes(bytes)), Lineage(lineage)))
}

/// Whether the reachable peers refuse a running process. That is so if the leader refuses, which is
/// at `leader` as far as this process knows, or more than half of those asked.
pub async fn refuse(
    env: &Env,
    peers: &Peers,
    own: &str,
    cluster: ClusterId,
    papers: &wire::HelloRequest,
    leader: Option<String>,
) -> bool {
    let message = papers.clone();
    let mut round = Round { env, peers, cluster, message, promised: Vec::new() };
    let (asked, answers) = round.all(own).await;
    matches!(verdict(asked, &answers, leader.as_deref()), Verdict::Refused(_))
}

struct Round<'a> {
    env: &'a Env,
    peers: &'a Peers,
    cluster: ClusterId,
    message: wire::HelloRequest,
    promised: Vec<Promise>,
}

impl Round<'_> {
    /// Asks all known addresses but this node's own. Returns how many were asked, and each answer.
    async fn all(&mut self, own: &str) -> (usize, BTreeMap<String, Answer>) {
        let mut silent = self.peers.known(own);
        let mut asked = BTreeSet::from([own.to_owned()]);
        let mut answers = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            asked.extend(silent.iter().cloned());
            let asks = std::mem::take(&mut silent).into_iter().map(|address| {
                let mut client = AdminClient::new(self.peers.transport(self.env, &address));
                let message = self.message.clone();
                async move {
                    let call = client.hello(Request::new(message));
                    (address, tokio::time::timeout(ASK_DEADLINE, call).await)
                }
            });
            for (address, answer) in futures::future::join_all(asks).await {
                let answer = match answer {
                    Ok(Ok(answer)) => answer.into_inner(),
                    // The peer is starting and remembers nothing.
                    Ok(Err(status)) if Reason::of(&status) == Some(Reason::Starting) => continue,
                    // No node is there, or the connection broke during the answer. Both look the
                    // same from here.
                    Ok(Err(_)) | Err(_) => {
                        silent.insert(address);
                        continue;
                    }
                };
                let theirs = cluster_of(&answer.cluster, answer.lineage);
                if !theirs.is_ok_and(|(cluster, _)| cluster == self.cluster) {
                    continue;
                }
                self.promised.extend(Promise::from_wire(answer.promise));
                let leader = answer.leader_address;
                if !leader.is_empty() && !asked.contains(&leader) {
                    silent.insert(leader.clone());
                }
                let (refused, fresh) = (answer.refused, answer.fresh);
                answers.insert(address, Answer { refused, fresh, leader_address: leader });
            }
            if silent.is_empty() {
                break;
            }
        }
        (asked.len() - 1, answers)
    }
}

/// `leader` is the leader's address by this node's own Raft state.
fn verdict(asked: usize, answers: &BTreeMap<String, Answer>, leader: Option<&str>) -> Verdict {
    let refusals: Vec<_> = answers.iter().filter(|(_, it)| !it.refused.is_empty()).collect();
    let Some((_, first)) = refusals.first() else { return Verdict::Admitted };
    let leads = |address: &String| {
        leader == Some(address)
            || answers.iter().any(|(other, it)| other != address && it.leader_address == *address)
    };
    let by_leader = refusals.iter().find(|(address, _)| leads(address));
    if let Some((_, answer)) = by_leader {
        return Verdict::Refused(answer.refused.clone());
    }
    if refusals.len() * 2 > asked {
        return Verdict::Refused(first.refused.clone());
    }
    if answers.values().any(|it| it.fresh && it.refused.is_empty()) {
        return Verdict::Admitted;
    }
    Verdict::Disputed(first.refused.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(said: &[(&str, &str, bool, &str)]) -> BTreeMap<String, Answer> {
        let answer = |(address, refused, fresh, leader): &(&str, &str, bool, &str)| {
            let (refused, leader_address) = ((*refused).to_owned(), (*leader).to_owned());
            ((*address).to_owned(), Answer { refused, fresh: *fresh, leader_address })
        };
        said.iter().map(answer).collect()
    }

    #[test]
    fn one_peer_among_several_does_not_end_a_node() {
        let one = [("a", "removed", true, "a"), ("b", "", true, "c"), ("c", "", true, "c")];
        assert_eq!(verdict(3, &answers(&one), None), Verdict::Admitted);
        let alone = [("a", "removed", true, "a")];
        assert_eq!(verdict(3, &answers(&alone), None), Verdict::Disputed("removed".to_owned()));
        let behind = [("a", "removed", true, "a"), ("b", "", false, "")];
        assert_eq!(verdict(3, &answers(&behind), None), Verdict::Disputed("removed".to_owned()));
        assert_eq!(verdict(2, &answers(&[]), None), Verdict::Admitted);
    }

    #[test]
    fn the_leader_or_most_of_those_asked_do() {
        let refused = || Verdict::Refused("removed".to_owned());
        assert_eq!(verdict(1, &answers(&[("a", "removed", false, "")]), None), refused());
        let most = [("a", "removed", false, ""), ("b", "removed", false, "")];
        assert_eq!(verdict(3, &answers(&most), None), refused());
        let leader = [("a", "removed", true, "a"), ("b", "", false, "a")];
        assert_eq!(verdict(4, &answers(&leader), None), refused());
        let known = [("a", "removed", true, "a"), ("b", "", false, "")];
        assert_eq!(verdict(4, &answers(&known), Some("a")), refused());
        assert_ne!(verdict(4, &answers(&known), Some("b")), refused());
    }
}
