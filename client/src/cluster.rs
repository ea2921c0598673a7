//! Finding a cluster's nodes and its leader, and asking again until there is an answer.
//!
//! ```text
//! endpoints --> any node --NotLeader, cairn-leader--> leader --> answer
//!                  ^                                     |
//!                  +------ next address, backing off <---+  unreachable, late, busy
//! ```
//!
//! A command keeps its request id over all tries, so it has one effect (C4). The cluster's id is
//! taken from the first answer and held: an endpoint of another cluster is an error, never a
//! place to write to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::command::{Body, Command, Refusal, Reply};
use cairn_core::ids::{ClusterId, Lineage, NodeId, RequestId};
use cairn_core::limits::{CATALOGUE_REPLY_BYTES_MAX, MESSAGE_BYTES_MAX};
use cairn_proto::envelope::{self, Identity, Reason};
use cairn_proto::seam::{Env, Transport};
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::wire::catalogue_client::CatalogueClient;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_proto::{convert, wire};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::error::ClientError;
use crate::tries::{Next, Tries};

/// First and longest pause before a plan that went stale is made again.
const PLAN_PAUSE_MIN: Duration = Duration::from_millis(50);
const PLAN_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a question to the cluster gives. Boxed, so that this crate compiles what answers it and
/// not every program that asks.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ClientError>>;

/// How a client behaves. `ClientOptions::new` gives the defaults.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Any nodes of one cluster, `host:port`; the others are learned.
    pub endpoints: Vec<String>,
    /// One try's time for an answer, beside what the call itself asks the node to wait.
    pub call_deadline: Duration,
    /// All tries together; `None` tries for ever.
    pub deadline: Option<Duration>,
    /// A segment stream without progress for this long is given up.
    pub stall_deadline: Duration,
    /// The client's own rack: replicas there are read first.
    pub rack: Option<String>,
}

impl ClientOptions {
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            call_deadline: Duration::from_secs(5),
            deadline: Some(Duration::from_secs(60)),
            stall_deadline: Duration::from_secs(10),
            rack: None,
        }
    }
}

/// A handle to one cluster. Cheap to clone; clones share what they learn.
#[derive(Clone)]
pub struct Client {
    pub(crate) env: Env,
    pub(crate) options: Arc<ClientOptions>,
    known: Arc<Mutex<Known>>,
}

/// What answers have taught so far.
#[derive(Default)]
struct Known {
    cluster: Option<ClusterId>,
    lineage: Option<Lineage>,
    leader: Option<String>,
    /// The address that answered a read last.
    reader: Option<String>,
    nodes: Arc<BTreeMap<NodeId, wire::NodeInfo>>,
    transports: BTreeMap<String, Transport>,
}

/// Whom a call is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Leader,
    AnyNode,
}

impl Client {
    /// A handle to the cluster that the endpoints belong to. Nothing is contacted yet.
    pub fn new(env: Env, options: ClientOptions) -> Self {
        Self { env, options: Arc::new(options), known: Arc::default() }
    }

    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The cluster's id, once anything has answered.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.known.lock().cluster
    }

    /// What is known of the nodes: filled by `status` and `resolve`.
    pub fn nodes(&self) -> Arc<BTreeMap<NodeId, wire::NodeInfo>> {
        self.known.lock().nodes.clone()
    }

    /// Proposes a command and returns what apply answered; refusals are errors. `wait` is how
    /// long the leader may hold the command back.
    pub async fn execute(&self, body: Body, wait: Duration) -> Result<Reply, ClientError> {
        self.execute_within(body, wait, self.options.deadline).await
    }

    /// [`Client::execute`] with a deadline of its own; `None` tries for ever.
    pub async fn execute_within(
        &self,
        body: Body,
        wait: Duration,
        deadline: Option<Duration>,
    ) -> Result<Reply, ClientError> {
        self.propose(body, wait, deadline, &[]).await
    }

    /// A Stage planned around nodes that could not be written to of late.
    pub(crate) async fn execute_around(
        &self,
        body: Body,
        exclude: &[NodeId],
    ) -> Result<Reply, ClientError> {
        self.propose(body, Duration::ZERO, self.options.deadline, exclude).await
    }

    fn propose<'a>(
        &'a self,
        body: Body,
        wait: Duration,
        deadline: Option<Duration>,
        exclude: &'a [NodeId],
    ) -> Answer<'a, Reply> {
        Box::pin(async move {
            let what = verb(&body);
            let request = RequestId(self.env.random_u128());
            let command =
                convert::command_to_wire(&Command { request, clock_ms: 0, wall_ms: 0, body });
            let started = Instant::now();
            let mut pause = PLAN_PAUSE_MIN;
            loop {
                let left = deadline.map(|deadline| deadline.saturating_sub(started.elapsed()));
                let ask = Ask { what, aim: Aim::Leader, wait, deadline: left };
                let reply = self
                    .ask(&ask, |transport, identity, wait| {
                        let wait_ms = wait.as_millis() as u64;
                        let message = wire::ExecuteRequest {
                            command: Some(command.clone()),
                            wait_ms,
                            exclude: exclude.iter().map(|node| node.0).collect(),
                        };
                        let request = with_identity(message, &identity);
                        Box::pin(async move { catalogue(transport).execute(request).await })
                    })
                    .await?;
                let malformed =
                    |problem: String| ClientError::Malformed { what: what.to_owned(), problem };
                let reply = reply.reply.ok_or_else(|| malformed("no reply".to_owned()))?;
                match convert::reply_from_wire(reply)
                    .map_err(|error| malformed(error.to_string()))?
                {
                    // The leader planned on a view that was stale by then. It had no effect, and
                    // refusals are not remembered: the same request is judged anew.
                    Reply::Refused(Refusal::BadTargets) if left != Some(Duration::ZERO) => {
                        sleep(self.env.jitter(pause)).await;
                        pause = (pause * 2).min(PLAN_PAUSE_MAX);
                    }
                    Reply::Refused(refusal) => return Err(ClientError::Refused(refusal)),
                    reply => return Ok(reply),
                }
            }
        })
    }

    /// A linearizable read: any node will do, the next one if one fails.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        mut send: impl FnMut(
            CatalogueClient<Transport>,
            Identity,
            u64,
        ) -> BoxFuture<'static, Result<Response<T>, Status>>,
    ) -> Result<T, ClientError> {
        // The node gives up first, so that its reason arrives instead of our silence.
        let wait = self.options.call_deadline.mul_f32(0.8);
        let ask =
            Ask { what, aim: Aim::AnyNode, wait: Duration::ZERO, deadline: self.options.deadline };
        self.ask(&ask, |transport, identity, _| {
            send(catalogue(transport), identity, wait.as_millis() as u64)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: &Ask,
        mut send: impl FnMut(
            Transport,
            Identity,
            Duration,
        ) -> BoxFuture<'static, Result<Response<T>, Status>>,
    ) -> Result<T, ClientError> {
        let started = Instant::now();
        let mut tries = Tries::starting_at(self.first_address(ask.aim)?);
        loop {
            let left = ask.deadline.map(|deadline| deadline.saturating_sub(started.elapsed()));
            let longest = self.options.call_deadline + ask.wait;
            let patience = left.map_or(longest, |left| left.min(longest));
            let (transport, identity) = (self.transport(&tries.address), self.identity(None));
            let call = send(transport, identity, ask.wait.min(patience));
            let next = match timeout(patience, call).await {
                Ok(Ok(response)) => match self.learn(&tries.address, response.metadata()) {
                    Ok(()) => {
                        self.note_answer(ask.aim, &tries.address);
                        return Ok(response.into_inner());
                    }
                    Err(error) => Next::Stop(error),
                },
                Ok(Err(status)) => {
                    // A transport's own `Unavailable` is silence; a node's names its cluster.
                    tries.answered |= Reason::of(&status).is_some()
                        || Identity::read(status.metadata()).is_ok_and(|id| id.cluster.is_some());
                    self.judge(&tries.address, &status)
                }
                Err(_) => Next::Elsewhere(format!("no answer within {patience:?}")),
            };
            if let Next::Stop(error) = next {
                return Err(error);
            }
            self.note_failure(&tries.address);
            let pause = self.env.jitter(tries.advance(next, &self.addresses()));
            let over = |deadline: Duration| started.elapsed() + pause >= deadline;
            if ask.deadline.is_some_and(over) || tries.all_foreign(&self.addresses()) {
                return Err(tries.give_up(ask.what, self.addresses()));
            }
            tracing::debug!(what = ask.what, next = %tries.address, last = %tries.last, "try again");
            sleep(pause).await;
        }
    }

    /// What a failed try means.
    fn judge(&self, address: &str, status: &Status) -> Next {
        let text = match status.message() {
            named if named.starts_with(address) => named.to_owned(),
            text => format!("{address}: {text}"),
        };
        let other_cluster = |what: &str| {
            Next::Stop(ClientError::OtherCluster {
                endpoint: address.to_owned(),
                want: self.cluster(),
                what: what.to_owned(),
            })
        };
        match Reason::of(status) {
            Some(Reason::NotLeader) => {
                return match envelope::leader_of(status) {
                    Some((_, leader)) if leader != address => Next::Redirect(leader),
                    _ => Next::Elsewhere(text),
                };
            }
            Some(Reason::OtherCluster) => return other_cluster(status.message()),
            Some(Reason::OtherLineage) => {
                // The cluster was recovered since: learn its lineage anew.
                self.known.lock().lineage = None;
                return Next::Again(text);
            }
            Some(Reason::Protocol) => {
                return Next::Stop(ClientError::Incompatible {
                    endpoint: address.to_owned(),
                    what: status.message().to_owned(),
                });
            }
            Some(Reason::Busy | Reason::NotYet) => return Next::Again(text),
            _ => {}
        }
        if let Err(error) = self.learn(address, status.metadata()) {
            return Next::Stop(error);
        }
        if let Some(refusal) = convert::refusal_of(status) {
            return Next::Stop(ClientError::Refused(refusal));
        }
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => {
                let refusal = Refusal::Malformed(status.message().to_owned());
                Next::Stop(ClientError::Refused(refusal))
            }
            Code::PermissionDenied | Code::Unauthenticated => Next::Stop(ClientError::NotAllowed {
                endpoint: address.to_owned(),
                what: status.message().to_owned(),
            }),
            Code::Unimplemented => Next::Foreign(text),
            _ => Next::Elsewhere(text),
        }
    }

    /// Takes in who answered; an answer from another cluster is an error.
    pub(crate) fn learn(&self, address: &str, metadata: &MetadataMap) -> Result<(), ClientError> {
        let said = Identity::read(metadata).map_err(|status| ClientError::Incompatible {
            endpoint: address.to_owned(),
            what: status.message().to_owned(),
        })?;
        let mut known = self.known.lock();
        match (known.cluster, said.cluster) {
            (Some(want), Some(got)) if want != got => {
                return Err(ClientError::OtherCluster {
                    endpoint: address.to_owned(),
                    want: Some(want),
                    what: format!("this is cluster {got}, the others are {want}"),
                });
            }
            (None, Some(got)) => known.cluster = Some(got),
            _ => {}
        }
        // Lineages only rise; a late answer from before a recovery teaches nothing.
        known.lineage = known.lineage.max(said.lineage);
        Ok(())
    }

    pub(crate) fn learn_nodes(&self, nodes: &[wire::NodeInfo]) {
        if nodes.is_empty() {
            return;
        }
        let nodes = nodes.iter().map(|node| (NodeId(node.id), node.clone())).collect();
        let mut known = self.known.lock();
        known.nodes = Arc::new(nodes);
        // Connections to addresses nobody has any more are dropped.
        let mut transports = std::mem::take(&mut known.transports);
        transports.retain(|address, _| {
            self.options.endpoints.contains(address)
                || known.nodes.values().any(|node| node.address == *address)
        });
        known.transports = transports;
    }

    pub(crate) fn learn_leader(&self, address: &str) {
        if !address.is_empty() {
            self.known.lock().leader = Some(address.to_owned());
        }
    }

    /// A node's record; asks the cluster once if it is not known.
    pub(crate) async fn node(&self, node: NodeId) -> Result<wire::NodeInfo, ClientError> {
        if let Some(info) = self.known.lock().nodes.get(&node).cloned() {
            return Ok(info);
        }
        self.status().await?;
        let info = self.known.lock().nodes.get(&node).cloned();
        info.ok_or(ClientError::Refused(Refusal::UnknownNode(node)))
    }

    /// The data plane of one node.
    pub(crate) async fn segments(
        &self,
        node: NodeId,
    ) -> Result<(SegmentsClient<Transport>, Identity), ClientError> {
        let address = self.node(node).await?.address;
        let stub = SegmentsClient::new(self.transport(&address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((stub, self.identity(Some(node))))
    }

    /// The admin service at an address, which need not be a known node's.
    pub(crate) fn admin(&self, address: &str) -> (AdminClient<Transport>, Identity) {
        let stub = AdminClient::new(self.transport(address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        (stub, self.identity(None))
    }

    fn identity(&self, node: Option<NodeId>) -> Identity {
        let known = self.known.lock();
        Identity { cluster: known.cluster, lineage: known.lineage, node }
    }

    fn transport(&self, address: &str) -> Transport {
        let mut known = self.known.lock();
        let dial = || self.env.dialer.dial(address);
        known.transports.entry(address.to_owned()).or_insert_with(dial).clone()
    }

    /// All addresses worth trying: the endpoints given, then nodes learned.
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.options.endpoints.clone();
        for node in self.known.lock().nodes.values() {
            if !node.removed && !node.address.is_empty() && !addresses.contains(&node.address) {
                addresses.push(node.address.clone());
            }
        }
        addresses
    }

    fn first_address(&self, aim: Aim) -> Result<String, ClientError> {
        let known = self.known.lock();
        let remembered = match aim {
            Aim::Leader => known.leader.clone(),
            Aim::AnyNode => known.reader.clone(),
        };
        drop(known);
        if let Some(address) = remembered {
            return Ok(address);
        }
        let addresses = self.addresses();
        // Many clients with the same list do not all start at its head.
        let start = self.env.random_u64() as usize % addresses.len().max(1);
        addresses.get(start).cloned().ok_or_else(|| ClientError::Unreachable {
            endpoints: vec![],
            last: "no endpoint was given".to_owned(),
        })
    }

    fn note_answer(&self, aim: Aim, address: &str) {
        let mut known = self.known.lock();
        match aim {
            Aim::Leader => known.leader = Some(address.to_owned()),
            Aim::AnyNode => known.reader = Some(address.to_owned()),
        }
    }

    fn note_failure(&self, address: &str) {
        let mut known = self.known.lock();
        if known.leader.as_deref() == Some(address) {
            known.leader = None;
        }
        if known.reader.as_deref() == Some(address) {
            known.reader = None;
        }
    }
}

struct Ask {
    what: &'static str,
    aim: Aim,
    wait: Duration,
    deadline: Option<Duration>,
}

fn catalogue(transport: Transport) -> CatalogueClient<Transport> {
    CatalogueClient::new(transport)
        .max_decoding_message_size(CATALOGUE_REPLY_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A call's message with the headers that say who is meant.
pub(crate) fn with_identity<M>(message: M, identity: &Identity) -> Request<M> {
    let mut request = Request::new(message);
    identity.write(request.metadata_mut());
    request
}

fn verb(body: &Body) -> &'static str {
    match body {
        Body::Begin { .. } => "begin upload",
        Body::Stage { .. } => "stage segments",
        Body::SealPart { .. } => "seal part",
        Body::Renew { .. } => "renew lease",
        Body::Delete { .. } => "delete checkpoint",
        Body::SetPolicy { .. } => "set policy",
        Body::RemoveNode { .. } => "remove node",
        _ => "execute command",
    }
}
