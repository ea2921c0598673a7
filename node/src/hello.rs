//! A starting node asks its peers whether its data directory may come back, and what they have
//! heard from it (decision 0005).
//!
//! A refusal ends the node, so one peer's word is not enough for that: it is the leader's, or that
//! of more than half of those that were asked. A refusal that is neither is asked again for a
//! while, since the others may be starting; then the node goes on, and `Register` decides.

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

/// One address is given this long: twice what it waits for its leader's word.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Rounds: to those that gave no answer, and to a leader that was named.
const ROUNDS_MAX: u32 = 3;
/// A disputed refusal is asked about for so long, and with this pause.
const DISPUTE_MAX: Duration = Duration::from_secs(10);
const DISPUTE_PAUSE: Duration = Duration::from_millis(500);

/// What one peer answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answer {
    refused: String,
    /// Its view was linearizable.
    fresh: bool,
    leader_address: String,
}

/// What the answers come to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Admitted,
    Refused(String),
    /// Few refuse, and no leader has spoken.
    Disputed(String),
}

/// Asks the peers that can be reached: the leader above all, to whom the others point. Those that
/// give no answer are asked again, a few times; then silence is consent: a whole cluster that
/// starts cold has nobody to ask, and `Register` asks again. A peer that is starting itself has
/// nothing to tell.
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

/// How a directory says hello that knows these nonces.
pub fn papers(identity: &Identity, nonces: &[Nonce]) -> wire::HelloRequest {
    wire::HelloRequest {
        cluster: identity.cluster.0.to_be_bytes().to_vec().into(),
        node: identity.node.map_or(0, |node| node.0),
        cookie: identity.cookie.0.to_be_bytes().to_vec().into(),
        nonces: nonces.iter().map(|nonce| nonce.0.to_be_bytes().to_vec().into()).collect(),
        incarnation: identity.registered_incarnation.0,
    }
}

/// The cluster that an answer names.
pub fn cluster_of(cluster: &[u8], lineage: u32) -> Result<(ClusterId, Lineage), String> {
    let bytes: [u8; 16] = cluster.try_into().map_err(|_| "malformed cluster id".to_owned())?;
    let lineage = u16::try_from(lineage).map_err(|_| "malformed lineage".to_owned())?;
    Ok((ClusterId(u128::from_be_bytes(bytes)), Lineage(lineage)))
}

/// Whether those that can be reached refuse a process that runs: the leader does, who is at
/// `leader` as far as it knows, or more than half of those asked.
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
    /// Asks everybody but the own address. How many were asked, and who said what.
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
                    // It remembers nothing.
                    Ok(Err(status)) if Reason::of(&status) == Some(Reason::Starting) => continue,
                    // Nobody is there, or the connection broke under the answer: the two look the
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

/// `leader`: where this node takes it to be, from its own part in Raft.
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
