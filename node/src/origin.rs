//! Who a data directory is when a node starts on it: itself again, the first node of a new
//! cluster, or a new member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::command::{Body, Refusal, Reply};
use cairn_core::ids::{ClusterId, Cookie, Lineage, NodeId, Nonce, RequestId};
use cairn_core::model::NewNode;
use cairn_proto::envelope::FEATURE_LEVEL;
use cairn_proto::seam::{Env, Lane};
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::{convert, wire};
use tonic::{Request, Status};

use crate::config::{NodeConfig, Origin};
use crate::disk::Disk;
use crate::identity::{Identity, IdentityError, IdentityFile};
use crate::node::StartError;
use crate::peers::Peers;
use crate::raft::Promise;
use crate::shared::Shared;

/// A join or hello gives one address this long.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// The number of the node that makes a cluster.
const FIRST_NODE: NodeId = NodeId(1);
/// Raft's log in the data directory.
const LOG_FILE: &str = "raft.redb";
/// Rounds of hello: to whoever gave no answer, and to a leader that was named.
const HELLO_ROUNDS_MAX: u32 = 3;
/// Rounds over all join addresses before a join gives up.
const JOIN_ROUNDS_MAX: u32 = 60;

/// Who this directory is.
pub struct Identified {
    pub file: IdentityFile,
    pub identity: Identity,
    pub node: NodeId,
    /// The nonces it remembered before this process.
    pub previous: Vec<Nonce>,
    /// What others have heard from it.
    pub promised: Vec<Promise>,
    /// What a fresh bootstrap still has to do.
    pub fresh: Option<Fresh>,
}

/// Finds out who this directory is: itself again, the first node of a new cluster, or a new
/// member.
pub async fn identify(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
    peers: &Peers,
) -> Result<Identified, StartError> {
    let mut file = open_identity(env, disk, config).await?;
    let mut identity = file.identity().clone();
    let previous = nonces(&identity);
    let mut promised = Vec::new();
    if identity.node.is_none() {
        let Origin::Join(addresses) = &config.origin else { return Err(StartError::Empty) };
        let joined = join(env, peers, config, identity.cookie, addresses).await?;
        // The next start may be told nothing, and come before the catalogue has said who else
        // there is.
        let known = peers.known(&config.address).into_iter().collect();
        peers.remember(env, disk, known).await?;
        (identity.cluster, identity.lineage) = (joined.cluster, joined.lineage);
        identity.node = Some(joined.node);
    } else if !previous.is_empty() {
        let known = peers.known(&config.address);
        promised = hello(env, peers, known, &identity, &previous).await?;
    }
    let node = identity.node.ok_or(StartError::Empty)?;
    identity.address.clone_from(&config.address);
    identity.host.clone_from(&config.host);
    identity.rack.clone_from(&config.rack);
    let stored = identity.clone();
    let file = env.blocking(Lane::Log, move || file.update(stored).map(|()| file)).await?;
    let fresh = match &config.origin {
        Origin::Bootstrap(settings)
            if node == FIRST_NODE && identity.registered_nonce.is_none() =>
        {
            Some(Fresh { settings: settings.clone(), node: new_node(config, identity.cookie) })
        }
        _ => None,
    };
    Ok(Identified { file, identity, node, previous, promised, fresh })
}

fn nonces(identity: &Identity) -> Vec<Nonce> {
    identity.registered_nonce.iter().chain(&identity.pending_nonces).copied().collect()
}

/// Opens the identity file, or makes one where the directory is empty and the configuration
/// says what it shall become.
async fn open_identity(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
) -> Result<IdentityFile, StartError> {
    let files = Arc::clone(disk);
    let identity = match env.blocking(Lane::Log, move || IdentityFile::load(&files)).await {
        Ok(file) => return Ok(file),
        Err(IdentityError::Missing) => {
            let cookie = Cookie(env.random_u128());
            match &config.origin {
                Origin::Resume => return Err(StartError::Empty),
                Origin::Bootstrap(_) => Identity {
                    cluster: ClusterId(env.random_u128()),
                    node: Some(FIRST_NODE),
                    cookie,
                    ..Identity::default()
                },
                // The cookie is on disk before the cluster hears it: a join that is cut short
                // and repeated gets the same number.
                Origin::Join(_) => Identity { cookie, ..Identity::default() },
            }
        }
        Err(error) => return Err(error.into()),
    };
    let files = Arc::clone(disk);
    let foreign = env.blocking(Lane::Log, move || files.exists(LOG_FILE)).await;
    if foreign.map_err(|error| StartError::Log(error.to_string()))? {
        return Err(StartError::Refused("the directory has a log but no identity".into()));
    }
    let files = Arc::clone(disk);
    Ok(env.blocking(Lane::Log, move || IdentityFile::create(&files, identity)).await?)
}

/// What the first node proposes once: repeated at every start with `--bootstrap`, refused as
/// initialised from the second time on.
pub struct Fresh {
    settings: cairn_core::model::Settings,
    node: NewNode,
}

fn new_node(config: &NodeConfig, cookie: Cookie) -> NewNode {
    NewNode {
        cookie,
        host: config.host.clone(),
        rack: config.rack.clone(),
        address: config.address.clone(),
        capacity_bytes: config.capacity_bytes,
        feature_level: FEATURE_LEVEL,
    }
}

/// What the cluster answered a join.
struct Joined {
    cluster: ClusterId,
    lineage: Lineage,
    node: NodeId,
}

async fn join(
    env: &Env,
    peers: &Peers,
    config: &NodeConfig,
    cookie: Cookie,
    addresses: &[String],
) -> Result<Joined, StartError> {
    if addresses.is_empty() {
        return Err(StartError::Config("--join names no address".into()));
    }
    let mut last = Status::unavailable("no answer");
    let mut targets: Vec<String> = addresses.to_vec();
    for _ in 0..JOIN_ROUNDS_MAX {
        for address in targets.clone() {
            let node = Some(convert::new_node_to_wire(&new_node(config, cookie)));
            let mut client = AdminClient::new(peers.transport(env, &address));
            let call = client.join(Request::new(wire::JoinRequest { node }));
            let answer = match tokio::time::timeout(ASK_DEADLINE, call).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!("no answer from {address}"))),
            };
            match answer {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    peers.give(address);
                    let (cluster, lineage) = cluster_of(&reply.cluster, reply.lineage)
                        .map_err(|error| StartError::Join(error.to_string()))?;
                    return Ok(Joined { cluster, lineage, node: NodeId(reply.node) });
                }
                Err(status) => {
                    if let Some((_, leader)) = cairn_proto::envelope::leader_of(&status)
                        && !targets.contains(&leader)
                    {
                        targets.push(leader);
                    }
                    if matches!(
                        status.code(),
                        tonic::Code::InvalidArgument | tonic::Code::Unauthenticated
                    ) {
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

fn cluster_of(cluster: &[u8], lineage: u32) -> Result<(ClusterId, Lineage), String> {
    let bytes: [u8; 16] = cluster.try_into().map_err(|_| "malformed cluster id".to_owned())?;
    let lineage = u16::try_from(lineage).map_err(|_| "malformed lineage".to_owned())?;
    Ok((ClusterId(u128::from_be_bytes(bytes)), Lineage(lineage)))
}

/// Asks the peers that can be reached whether this directory may come back, and what they have
/// heard from it: the leader above all, to whom the others point. Who gave no answer is asked again, a
/// few times; then silence is consent: a whole cluster that starts cold has nobody to ask, and
/// `Register` asks again.
async fn hello(
    env: &Env,
    peers: &Peers,
    known: BTreeSet<String>,
    identity: &Identity,
    previous: &[Nonce],
) -> Result<Vec<Promise>, StartError> {
    let message = wire::HelloRequest {
        cluster: identity.cluster.0.to_be_bytes().to_vec().into(),
        node: identity.node.map_or(0, |node| node.0),
        cookie: identity.cookie.0.to_be_bytes().to_vec().into(),
        nonces: previous.iter().map(|nonce| nonce.0.to_be_bytes().to_vec().into()).collect(),
    };
    let mut silent = known;
    let mut asked = BTreeSet::new();
    let mut promised = Vec::new();
    for _ in 0..HELLO_ROUNDS_MAX {
        asked.extend(silent.iter().cloned());
        let asks = std::mem::take(&mut silent).into_iter().map(|address| {
            let mut client = AdminClient::new(peers.transport(env, &address));
            let message = message.clone();
            async move {
                let call = client.hello(Request::new(message));
                (address, tokio::time::timeout(ASK_DEADLINE, call).await)
            }
        });
        for (address, answer) in futures::future::join_all(asks).await {
            // Nobody is there, or somebody who does not serve yet, or the connection broke under
            // the answer: the three look the same from here.
            let Ok(Ok(answer)) = answer else {
                silent.insert(address);
                continue;
            };
            let answer = answer.into_inner();
            let theirs = cluster_of(&answer.cluster, answer.lineage);
            if !theirs.is_ok_and(|(cluster, _)| cluster == identity.cluster) {
                continue;
            }
            if !answer.refused.is_empty() {
                return Err(StartError::Refused(answer.refused));
            }
            promised.extend(Promise::from_wire(answer.promise));
            if !answer.leader_address.is_empty() && !asked.contains(&answer.leader_address) {
                silent.insert(answer.leader_address);
            }
        }
        if silent.is_empty() {
            break;
        }
    }
    Ok(promised)
}

/// Makes the cluster: one Raft voter, the first entry. Safe to repeat.
pub async fn bootstrap(shared: &Arc<Shared>, fresh: Fresh) -> Result<(), String> {
    if !shared.consensus.is_initialized().await {
        let made = shared.consensus.initialize(&shared.config.address).await;
        made.map_err(|error| error.to_string())?;
    }
    let initialized = |shared: &Shared| shared.read(|catalogue| catalogue.is_initialized());
    while !initialized(shared) {
        let body = Body::InitCluster {
            cluster: shared.cluster,
            settings: fresh.settings.clone(),
            node: fresh.node.clone(),
        };
        match shared.propose(RequestId(0), body).await.as_deref() {
            Ok(Reply::Refused(Refusal::AlreadyInitialized)) => return Ok(()),
            Ok(Reply::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}
