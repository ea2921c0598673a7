//! The identity of a data directory when a node starts on it: a known member, the first node of a
//! new cluster, or a new member.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope;
use cairn_host::node_key::NodeKey;
use cairn_host::seam::{Env, Lane};
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::command::{self, Body, NODE_KEYS_LEVEL, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{ClusterId, Cookie, Lineage, NodeId, Nonce, RequestId};
use cairn_types::model::NewNode;
use tonic::{Request, Status};

use crate::config::{NodeConfig, Origin};
use crate::disk::Disk;
use crate::door::Starting;
use crate::hello;
use crate::identity::{Identity, IdentityError, IdentityFile};
use crate::key_file;
use crate::peers::Peers;
use crate::raft::Promise;
use crate::shared::Member;
use crate::start_error::StartError;

/// Time limit for one address, for a join or for the question whether a node is there.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// The id of the node that creates a cluster.
const FIRST_NODE: NodeId = NodeId(1);
/// Raft's log in the data directory, and other paths that exist only if a node has run on it.
const LOG_FILE: &str = "raft.redb";
const TRACES: [&str; 3] = [LOG_FILE, "snapshots", "segments"];
/// Rounds over all join addresses before a join gives up.
const JOIN_ROUNDS_MAX: u32 = 60;

/// The identity of this directory.
pub struct Identified {
    pub file: IdentityFile,
    pub identity: Identity,
    pub node: NodeId,
    pub key: NodeKey,
    /// The nonces it knew before this process.
    pub previous: Vec<Nonce>,
    /// Its promises that others have heard.
    pub promised: Vec<Promise>,
    /// The remaining steps of a new bootstrap.
    pub fresh: Option<Fresh>,
}

/// Determines the identity of this directory: a known member, the first node of a new cluster, or a
/// new member.
pub async fn identify(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
    peers: &Peers,
    starting: &Starting,
) -> Result<Identified, StartError> {
    let mut file = open_identity(env, disk, config, peers).await?;
    let mut identity = file.identity().clone();
    // The key is on disk before the cluster hears its public half.
    let mut seed = [0; 32];
    seed.chunks_mut(8).for_each(|part| part.copy_from_slice(&env.random_u64().to_le_bytes()));
    let files = Arc::clone(disk);
    let key = env.blocking(Lane::Log, move || key_file::load_or_create(&files, seed)).await?;
    if identity.node.is_some() {
        say_who(starting, &identity);
    }
    let previous = nonces(&identity);
    let mut promised = Vec::new();
    if let Some(want) = config.cluster
        && identity.node.is_some()
        && identity.cluster != want
    {
        let place = "the data directory".to_owned();
        return Err(StartError::OtherCluster { place, want, got: identity.cluster });
    }
    if identity.node.is_none() {
        let Origin::Join(addresses) = &config.origin else { return Err(StartError::Empty) };
        let new = new_node(config, identity.cookie, &key);
        let joined = join(env, peers, config, &new, addresses).await?;
        // The next start may get no addresses and may run before the catalogue has named the other
        // nodes.
        let known = peers.known(&config.address).into_iter().collect();
        peers.remember(env, disk, known).await?;
        (identity.cluster, identity.lineage) = (joined.cluster, joined.lineage);
        identity.node = Some(joined.node);
    } else if !previous.is_empty() {
        promised = hello::ask(env, peers, &config.address, &identity, &previous).await?;
    }
    let node = identity.node.ok_or(StartError::Empty)?;
    say_who(starting, &identity);
    identity.address.clone_from(&config.address);
    identity.host.clone_from(&config.host);
    identity.rack.clone_from(&config.rack);
    let stored = identity.clone();
    let file = env.blocking(Lane::Log, move || file.update(stored).map(|()| file)).await?;
    let fresh = match &config.origin {
        Origin::Bootstrap(settings)
            if node == FIRST_NODE && identity.registered_nonce.is_none() =>
        {
            Some(Fresh {
                settings: settings.clone(),
                node: new_node(config, identity.cookie, &key),
            })
        }
        _ => None,
    };
    Ok(Identified { file, identity, node, key, previous, promised, fresh })
}

/// From now on the port answers with this identity.
fn say_who(starting: &Starting, identity: &Identity) {
    let (cluster, lineage) = (Some(identity.cluster), Some(identity.lineage));
    let _ = starting.set(envelope::Identity { cluster, lineage, node: identity.node });
}

fn nonces(identity: &Identity) -> Vec<Nonce> {
    identity.registered_nonce.iter().chain(&identity.pending_nonces).copied().collect()
}

/// Opens the identity file. If the directory is empty, makes one as the configuration says.
async fn open_identity(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
    peers: &Peers,
) -> Result<IdentityFile, StartError> {
    let files = Arc::clone(disk);
    let loaded = env.blocking(Lane::Log, move || IdentityFile::load(&files)).await;
    if matches!(loaded, Err(IdentityError::Missing)) {
        not_a_nodes(env, disk).await?;
    }
    let identity = match loaded {
        Ok(file) => return Ok(file),
        Err(IdentityError::Missing) => {
            let cookie = Cookie(env.random_u128());
            match &config.origin {
                Origin::Resume => return Err(StartError::Empty),
                Origin::Bootstrap(_) => {
                    nobody_there(env, config, peers).await?;
                    Identity {
                        cluster: config.cluster.unwrap_or_else(|| ClusterId(env.random_u128())),
                        node: Some(FIRST_NODE),
                        cookie,
                        ..Identity::default()
                    }
                }
                // The cookie is on disk before the cluster hears it. So a join that is interrupted
                // and repeated gets the same id.
                Origin::Join(_) => Identity { cookie, ..Identity::default() },
            }
        }
        Err(error) => return Err(error.into()),
    };
    let files = Arc::clone(disk);
    Ok(env.blocking(Lane::Log, move || IdentityFile::create(&files, identity)).await?)
}

/// A directory without an identity in which a node has run has lost its identity. Its votes are
/// then unknown.
async fn not_a_nodes(env: &Env, disk: &Arc<dyn Disk>) -> Result<(), StartError> {
    let files = Arc::clone(disk);
    let found = env.blocking(Lane::Log, move || -> std::io::Result<Option<&'static str>> {
        for name in TRACES {
            if files.exists(name)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    });
    match found.await {
        Ok(None) => Ok(()),
        Ok(Some(trace)) => Err(StartError::NoIdentity { trace }),
        Err(error) => Err(StartError::Log(error.to_string())),
    }
}

/// Makes sure that no other cluster exists here. Another cluster exists if one is named, or if one
/// answers at a given address. This directory may have belonged to one of its nodes.
async fn nobody_there(env: &Env, config: &NodeConfig, peers: &Peers) -> Result<(), StartError> {
    if let Some(cluster) = config.exists {
        return Err(StartError::Founded { cluster, address: None });
    }
    let known = peers.known(&config.address);
    if known.is_empty() {
        tracing::warn!("no other address is given: whether a cluster is there is not asked");
    }
    let asks = known.into_iter().map(|address| {
        let mut client = AdminClient::new(peers.transport(env, &address));
        async move {
            let mut request = Request::new(wire::NodeStatusRequest {});
            // Any cluster may answer.
            envelope::Identity::default().write(request.metadata_mut());
            let answer = tokio::time::timeout(ASK_DEADLINE, client.node_status(request)).await;
            (address, answer)
        }
    });
    for (address, answer) in futures::future::join_all(asks).await {
        let said = match answer {
            Ok(Ok(response)) => envelope::Identity::read(response.metadata()),
            Ok(Err(status)) => envelope::Identity::read(status.metadata()),
            Err(_) => continue,
        };
        if let Ok(envelope::Identity { cluster: Some(cluster), .. }) = said {
            return Err(StartError::Founded { cluster, address: Some(address) });
        }
    }
    Ok(())
}

/// The first node's one proposal. It is repeated at every start with `--bootstrap`, and refused as
/// already initialised from the second time on.
pub struct Fresh {
    settings: cairn_types::model::Settings,
    node: NewNode,
}

fn new_node(config: &NodeConfig, cookie: Cookie, key: &NodeKey) -> NewNode {
    NewNode {
        cookie,
        host: config.host.clone(),
        rack: config.rack.clone(),
        address: config.address.clone(),
        capacity_bytes: config.capacity_bytes,
        feature_level: config.feature_level,
        replaces: config.replaces,
        key: (config.feature_level >= NODE_KEYS_LEVEL).then(|| key.public()),
    }
}

/// The cluster's answer to a join.
struct Joined {
    cluster: ClusterId,
    lineage: Lineage,
    node: NodeId,
}

async fn join(
    env: &Env,
    peers: &Peers,
    config: &NodeConfig,
    new: &NewNode,
    addresses: &[String],
) -> Result<Joined, StartError> {
    if addresses.is_empty() {
        return Err(StartError::Config("--join names no address".into()));
    }
    let mut last = Status::unavailable("no answer");
    let mut targets: Vec<String> = addresses.to_vec();
    for _ in 0..JOIN_ROUNDS_MAX {
        for address in targets.clone() {
            let node = Some(convert::new_node_to_wire(new));
            let mut client = AdminClient::new(peers.transport(env, &address));
            let mut request = Request::new(wire::JoinRequest { node });
            // A node of another cluster refuses the call before it changes anything.
            envelope::Identity { cluster: config.cluster, ..Default::default() }
                .write(request.metadata_mut());
            let call = client.join(request);
            let answer = match tokio::time::timeout(ASK_DEADLINE, call).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!("no answer from {address}"))),
            };
            match answer {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    let (cluster, lineage) = hello::cluster_of(&reply.cluster, reply.lineage)
                        .map_err(|error| StartError::Join(error.to_string()))?;
                    is_wanted(config, &address, cluster)?;
                    peers.give(address);
                    return Ok(Joined { cluster, lineage, node: NodeId(reply.node) });
                }
                Err(status) => {
                    other_cluster(config, &address, &status)?;
                    // A cluster that is being created accepts nodes a moment later.
                    let refusal = cairn_proto::refused::refusal_of(&status);
                    if let Some(refusal) = refusal.filter(|it| *it != Refusal::NotInitialized) {
                        return Err(StartError::JoinRefused(refusal));
                    }
                    if let Some((_, leader)) = envelope::leader_of(&status)
                        && !targets.contains(&leader)
                    {
                        targets.push(leader);
                    }
                    if matches!(
                        status.code(),
                        tonic::Code::InvalidArgument | tonic::Code::Unauthenticated
                    ) || envelope::Reason::of(&status) == Some(envelope::Reason::Key)
                    {
                        return Err(StartError::Join(status.message().to_owned()));
                    }
                    last = status;
                }
            }
        }
        tokio::time::sleep(env.jitter(Duration::from_millis(500))).await;
    }
    Err(StartError::Join(format!("{}: {}", addresses.join(", "), last.message())))
}

/// An error if the cluster that answers at `address` is not the one this node is to join.
fn is_wanted(config: &NodeConfig, address: &str, got: ClusterId) -> Result<(), StartError> {
    match config.cluster {
        Some(want) if want != got => {
            Err(StartError::OtherCluster { place: address.to_owned(), want, got })
        }
        _ => Ok(()),
    }
}

/// Like [`is_wanted`], for a refusal.
fn other_cluster(config: &NodeConfig, address: &str, status: &Status) -> Result<(), StartError> {
    if envelope::Reason::of(status) != Some(envelope::Reason::OtherCluster) {
        return Ok(());
    }
    match envelope::Identity::read(status.metadata()) {
        Ok(envelope::Identity { cluster: Some(got), .. }) => is_wanted(config, address, got),
        _ => Ok(()),
    }
}

/// Creates the cluster: one Raft voter and the first entry. Safe to repeat.
pub async fn bootstrap(member: &Member, fresh: Fresh) -> Result<(), String> {
    if !member.consensus.is_initialized().await {
        let made = member.consensus.initialize(&member.this.config.address).await;
        made.map_err(|error| error.to_string())?;
    }
    while !member.read(|catalogue| catalogue.is_initialized()) {
        let body = Body::InitCluster(command::InitCluster {
            cluster: member.this.cluster,
            settings: fresh.settings.clone(),
            node: fresh.node.clone(),
        });
        match member.propose(RequestId(0), body).await.as_deref() {
            Ok(Reply::Refused(Refusal::AlreadyInitialized)) => return Ok(()),
            Ok(Reply::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}
