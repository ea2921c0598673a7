//! Registration and inventory (DESIGN section 6, Start).
//!
//! ```text
//! start --Register--> applied here? --compare files with slots--> Inventory{missing}, last --> counts
//! ```
//!
//! Until this process has applied its own `Register`, its catalogue may be older than its
//! acknowledgements. So it reports, deletes and quarantines nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::{self, Reason, leader_of};
use cairn_host::seam::Lane;
use cairn_types::command::{self, Body, NODE_KEYS_LEVEL, Refusal, Reply};
use cairn_types::ids::{Cookie, Epoch, Incarnation, Nonce, RequestId, SegmentDigest, SegmentId};
use cairn_types::limits::BATCH_SEGMENTS_MAX;
use cairn_types::model::SlotState;
use tonic::Status;

use crate::identity::{Identity, IdentityError, IdentityFile, PENDING_NONCES_MAX};
use crate::shared::{Calls, Ending, Member, Replicas, ThisNode};
use crate::upkeep::report::{is_passing, report_to, to_leader};
use crate::upkeep::suspect::set_aside;

/// After this many periods without an entry, a node that waits for its registration asks again.
const SILENT_HEARTBEATS: u64 = 10;

/// A starting process's data about its own registration.
pub struct Registration {
    pub identity: IdentityFile,
    pub cookie: Cookie,
    /// Nonces the directory remembers.
    pub previous: Vec<Nonce>,
    /// This process's own.
    pub nonce: Nonce,
}

/// Registers, waits until the registration is applied here, and takes inventory. Returns the
/// incarnation.
pub async fn run(
    replicas: &Arc<Replicas>,
    calls: &Calls,
    ending: &Ending,
    registration: Registration,
) -> Option<Incarnation> {
    let Registration { identity, cookie, previous, nonce } = registration;
    wait_for_somebody(calls).await;
    // The nonce is on disk before any node hears it. So the next process knows this nonce too, even
    // if the registration fails.
    let announce = update(&calls.this, identity, move |known| {
        let nonces = &mut known.pending_nonces;
        nonces.drain(..(nonces.len() + 1).saturating_sub(PENDING_NONCES_MAX));
        nonces.push(nonce);
    });
    let identity = fatal_on_error(ending, announce.await)?;
    let body = registration_of(calls, cookie, previous, nonce);
    let incarnation = register(calls, ending, &body).await?;
    wait_applied(calls, ending, &body, incarnation).await?;
    // Not earlier: a directory that says it was registered must have a log with a vote.
    let settle = update(&calls.this, identity, move |known| {
        known.registered_nonce = Some(nonce);
        known.registered_incarnation = incarnation;
        known.pending_nonces.clear();
    });
    fatal_on_error(ending, settle.await)?;
    // From here on this process acts for the node.
    replicas.this.registered_as(incarnation);
    if let Err(refusal) = take_inventory(replicas, calls, incarnation).await {
        ending.fatal(refusal);
        return None;
    }
    replicas.work.ring();
    tracing::info!(node = %replicas.this.id, %incarnation, "node is in service");
    Some(incarnation)
}

/// Waits until there is a node to register with. A node that restarts repeatedly without a cluster
/// must not fill its identity with nonces that no node has heard.
async fn wait_for_somebody(calls: &Calls) {
    let pause = Duration::from_millis(calls.this.config.timings.raft_heartbeat_ms);
    while calls.member.consensus.leader().is_none()
        && calls.peers.known(&calls.this.config.address).is_empty()
    {
        tokio::time::sleep(calls.this.env.jitter(pause)).await;
    }
}

/// Changes the identity file, durably.
async fn update(
    this: &ThisNode,
    mut file: IdentityFile,
    change: impl FnOnce(&mut Identity) + Send + 'static,
) -> Result<IdentityFile, IdentityError> {
    let write = move || {
        let mut known = file.identity().clone();
        change(&mut known);
        file.update(known).map(|()| file)
    };
    this.env.blocking(Lane::Log, write).await
}

fn fatal_on_error<T>(ending: &Ending, result: Result<T, IdentityError>) -> Option<T> {
    result.map_err(|error| ending.fatal(error.to_string())).ok()
}

fn registration_of(calls: &Calls, cookie: Cookie, previous: Vec<Nonce>, nonce: Nonce) -> Body {
    let (this, config) = (&calls.this, &calls.this.config);
    // A cluster of a lower level has nodes that do not know the field.
    let level = calls.member.read(|catalogue| catalogue.cluster().feature_level);
    let records = level >= NODE_KEYS_LEVEL && config.feature_level >= NODE_KEYS_LEVEL;
    Body::Register(command::Register {
        node: this.id,
        cookie,
        previous,
        nonce,
        host: config.host.clone(),
        rack: config.rack.clone(),
        address: config.address.clone(),
        capacity_bytes: config.capacity_bytes,
        feature_level: config.feature_level,
        key: records.then(|| calls.speech.public()),
    })
}

/// Registers. The same registration again gets the same answer.
async fn register(calls: &Calls, ending: &Ending, body: &Body) -> Option<Incarnation> {
    let pause = Duration::from_millis(calls.this.config.timings.heartbeat_ms);
    // A removed node serves Raft until its vote is no longer needed.
    let waits = |answer: &Result<Reply, Status>| match answer {
        Ok(Reply::Refused(Refusal::NodeRemoved(_))) => {
            calls.member.consensus.may_vote(calls.this.id.0)
        }
        // Its first entry is not applied yet.
        Ok(Reply::Refused(Refusal::NotInitialized)) => true,
        _ => false,
    };
    let answer = loop {
        let answer = until_answered(calls, body.clone()).await;
        match &answer {
            Ok(Reply::Refused(Refusal::OldBuild { .. })) => break answer,
            // The node that answered may not be the leader. So others are asked, and this one again
            // later.
            Ok(Reply::Refused(refusal)) if !waits(&answer) => {
                ending.accuse(register_refusal(refusal));
            }
            answered if waits(answered) => {}
            _ => break answer,
        }
        tokio::time::sleep(calls.this.env.jitter(pause)).await;
    };
    match answer {
        Ok(Reply::Registered { incarnation }) => Some(incarnation),
        // The directory is sound: a newer build can start on it.
        Ok(Reply::Refused(refusal @ Refusal::OldBuild { .. })) => {
            ending.fatal(format!(
                "{refusal}; start a newer build on this directory, or remove --feature-level"
            ));
            None
        }
        Ok(other) => {
            ending.fatal(format!("unexpected reply to a registration: {other:?}"));
            None
        }
        Err(status) => {
            ending.fatal(format!("cannot register: {}", status.message()));
            None
        }
    }
}

fn register_refusal(refusal: &Refusal) -> String {
    let hint = match refusal {
        Refusal::StaleIdentity { .. } => {
            "; it may be an older copy: start on an empty directory with --join instead"
        }
        Refusal::NodeRemoved(_) | Refusal::UnknownNode(_) => {
            "; start on an empty directory with --join to come back as a new node"
        }
        _ => "",
    };
    format!("{refusal}{hint}")
}

/// Sends `body` until the cluster answers it. It tries the leader that this node knows, then the
/// leader that the answer names, and in turn its peers. A removed node does not learn of a new
/// leader by itself. And if no leader exists because nodes cannot find each other, all of them have
/// to learn this node's address.
async fn until_answered(calls: &Calls, body: Body) -> Result<Reply, Status> {
    let pause = Duration::from_millis(calls.this.config.timings.raft_heartbeat_ms);
    let mut named: Option<String> = None;
    let mut turn = 0_usize;
    let mut warned = false;
    // The addresses that refused this node, and why. An old address may belong to another node by
    // now.
    let mut denied = BTreeMap::<String, Status>::new();
    loop {
        let follows = named.is_some();
        let elsewhere = named.take().or_else(|| other_than_leader(calls, turn));
        let answer = match &elsewhere {
            Some(address) => report_to(calls, address, RequestId(0), body.clone()).await,
            None => to_leader(calls, RequestId(0), body.clone()).await,
        };
        turn += usize::from(!follows);
        match answer {
            Ok(reply) => return Ok(reply),
            Err(status) if is_passing(&status) => {
                if Reason::of(&status) == Some(Reason::Unreached) && !warned {
                    // Logged once, because it continues until an operator changes the address or
                    // the network.
                    warned = true;
                    let (address, why) =
                        (&calls.this.config.address, envelope::said(status.message()));
                    tracing::warn!(
                        why,
                        "the leader cannot connect to this node at {address}; check --advertise"
                    );
                }
                tracing::debug!(%status, "not registered yet");
                named = leader_of(&status)
                    .map(|(_, address)| address)
                    .filter(|address| *address != calls.this.config.address)
                    // Two nodes that do not lead may name each other for ever.
                    .filter(|_| !follows);
                tokio::time::sleep(calls.this.env.jitter(pause)).await;
            }
            // The refusal is the leader's, or that of most nodes that this node knows.
            Err(status) => match elsewhere {
                None => return Err(status),
                Some(address) => {
                    let why = envelope::said(status.message());
                    tracing::warn!(address, why, "a peer does not take this node's registration");
                    denied.insert(address, status.clone());
                    let others = calls.peers.known(&calls.this.config.address).len();
                    if denied.len() * 2 > others {
                        return Err(status);
                    }
                    tokio::time::sleep(calls.this.env.jitter(pause)).await;
                }
            },
        }
    }
}

/// A peer that may be the leader or name it: every other turn, or if no leader is known.
fn other_than_leader(calls: &Calls, turn: usize) -> Option<String> {
    if calls.member.consensus.is_leader()
        || (calls.member.consensus.leader().is_some() && turn.is_multiple_of(2))
    {
        return None;
    }
    calls.peers.in_turn(&calls.this.config.address, turn / 2)
}

/// Waits until this node has applied its registration. If no entry comes for a while, it registers
/// again to check that the registration is still valid, because openraft sends nothing more to a
/// node that was removed meanwhile.
async fn wait_applied(
    calls: &Calls,
    ending: &Ending,
    body: &Body,
    incarnation: Incarnation,
) -> Option<()> {
    let patience =
        Duration::from_millis(SILENT_HEARTBEATS * calls.this.config.timings.heartbeat_ms);
    loop {
        let applied = calls.member.consensus.applied();
        let seen = calls
            .member
            .read(|catalogue| catalogue.node(calls.this.id).map(|record| record.incarnation));
        if seen.is_some_and(|seen| seen >= incarnation) {
            return Some(());
        }
        let more = calls.member.consensus.wait_for_applied(applied + 1);
        if tokio::time::timeout(patience, more).await.is_err() {
            tracing::debug!(applied, "nothing to apply: registering again");
            register(calls, ending, body).await?;
        }
    }
}

/// Compares the slots that should have a file with the existing files.
async fn take_inventory(
    replicas: &Arc<Replicas>,
    calls: &Calls,
    incarnation: Incarnation,
) -> Result<(), String> {
    let node = replicas.this.id;
    // Until then this node serves and votes, and its replicas do not count.
    replicas.store.looked_through().await;
    let durable: Vec<(SegmentId, Epoch, SegmentDigest)> = replicas.member.read(|catalogue| {
        catalogue
            .slots_on(node, SlotState::Durable)
            .map(|(segment, slot)| (segment.id, slot.epoch, segment.digest))
            .collect()
    });
    let missing: Vec<(SegmentId, Epoch)> = durable
        .into_iter()
        .filter(|(_, _, digest)| !replicas.store.holds(*digest))
        .map(|(segment, epoch, _)| (segment, epoch))
        .collect();
    if !missing.is_empty() {
        tracing::warn!(count = missing.len(), "segments are missing on this node");
    }
    let mut batches: Vec<Vec<(SegmentId, Epoch)>> =
        missing.chunks(BATCH_SEGMENTS_MAX).map(<[_]>::to_vec).collect();
    if batches.is_empty() {
        batches.push(Vec::new());
    }
    let count = batches.len();
    for (index, missing) in batches.into_iter().enumerate() {
        let last = index + 1 == count;
        let body = Body::Inventory(command::Inventory { node, incarnation, missing, last });
        match until_answered(calls, body).await {
            Ok(Reply::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(_) => {}
            Err(status) => return Err(format!("cannot take inventory: {}", status.message())),
        }
    }
    set_unknown_aside(replicas).await;
    Ok(())
}

/// Damaged files, and files without a slot, go to quarantine. They are never deleted.
async fn set_unknown_aside(replicas: &Arc<Replicas>) {
    for digest in replicas.store.damaged() {
        if let Err(error) = crate::upkeep::suspect::set_damaged_aside(replicas, digest).await {
            tracing::warn!(%digest, %error, "cannot quarantine a damaged file");
        }
    }
    for (digest, _) in replicas.store.held() {
        if is_unknown(&replicas.member, &digest)
            && let Err(error) =
                set_aside(replicas, digest, move |replicas| is_unknown(&replicas.member, &digest))
                    .await
        {
            tracing::warn!(%digest, %error, "cannot quarantine an unknown file");
        }
    }
}

fn is_unknown(member: &Member, digest: &SegmentDigest) -> bool {
    let node = member.this.id;
    member.read(|catalogue| match catalogue.segment_by_digest(digest) {
        None => true,
        Some(segment) => !segment.slots.iter().any(|slot| slot.node == node),
    })
}
