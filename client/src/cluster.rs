//! Finds a cluster's nodes and its leader, and repeats questions until there is an answer.
//!
//! ```text
//! endpoints --> any node --NotLeader, cairn-leader--> leader --> answer
//!                  ^                                     |
//!                  +------ next address, backing off <---+  unreachable, late, busy
//! ```
//!
//! A command keeps its request id over all attempts, so it has one effect (C4). The cluster's id is
//! taken from the first answer and kept. An endpoint of another cluster is an error, and nothing is
//! written to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::credentials::{self, Credentials};
use cairn_host::envelope::{Identity, Reason};
use cairn_host::seam::{Env, Transport};
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::wire::catalogue_client::CatalogueClient;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_types::command::{Body, Command, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{CheckpointId, ClusterId, Lineage, NodeId, RequestId};
use cairn_types::limits::{CATALOGUE_REPLY_BYTES_MAX, MESSAGE_BYTES_MAX};
use cairn_types::model::Settings;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::asking::Ask;
use crate::download::Paces;
use crate::endpoints::Endpoints;
use crate::error::ClientError;
use crate::options::ClientOptions;
use crate::status::NodeInfo;
use crate::verify::Lost;

/// First and longest pause before a stale plan is made again.
const PLAN_PAUSE_MIN: Duration = Duration::from_millis(50);
const PLAN_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A leader that answers "busy" is still sealing this part or others. The longest manifest on a
/// slow network takes many minutes. The deadline does not end a seal for this long.
const SEAL_BUSY_MAX: Duration = Duration::from_secs(30 * 60);

/// Time limit for an endpoint's answer in a survey, so that an endpoint that is down costs no more.
const SURVEY_DEADLINE: Duration = Duration::from_secs(1);

/// The answer to a question to the cluster. Boxed, so that only this crate compiles the code behind
/// it, not every calling program.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ClientError>>;

/// A handle to one cluster. Cheap to clone. Clones share what they learn.
#[derive(Clone)]
pub struct Client {
    pub(crate) env: Env,
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) endpoints: Arc<Mutex<Endpoints>>,
    /// The recent speed of nodes that gave segments.
    pub(crate) paces: Arc<Mutex<Paces>>,
    /// This client's identity, if it has a token.
    pub(crate) token: Option<Credentials>,
    /// The checkpoint for which this handle requests segments.
    pub(crate) about: Option<CheckpointId>,
    /// Nodes that nothing is read from.
    pub(crate) lost: Arc<Lost>,
}

/// Information from earlier answers.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) cluster: Option<ClusterId>,
    /// The address that named the cluster. `None` if the caller did.
    pub(crate) cluster_from: Option<String>,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) leader: Option<String>,
    /// The address that answered the last read.
    pub(crate) reader: Option<String>,
    /// A node that forwards commands to a leader that did not answer itself, and the time until
    /// which it is used.
    pub(crate) via: Option<(String, Instant)>,
    nodes: Arc<BTreeMap<NodeId, NodeInfo>>,
    /// Set when the cluster was founded. They never change.
    settings: Option<Settings>,
    transports: BTreeMap<String, Transport>,
}

/// The target of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    Leader,
    AnyNode,
}

impl Client {
    /// A handle to the endpoints' cluster, in the caller's environment. Contacts no node yet.
    /// Programs begin with [`Client::builder`].
    pub fn new(env: Env, options: ClientOptions) -> Self {
        let known = Known { cluster: options.cluster, ..Known::default() };
        let known = Arc::new(Mutex::new(known));
        Self {
            env,
            options: Arc::new(options),
            known,
            endpoints: Arc::default(),
            paces: Arc::default(),
            token: None,
            about: None,
            lost: Arc::default(),
        }
    }

    /// The same client, requesting segments for this checkpoint. A node gives the holder of a token
    /// only segments of checkpoints that it may read.
    pub(crate) fn about(&self, checkpoint: CheckpointId) -> Self {
        Self { about: Some(checkpoint), ..self.clone() }
    }

    /// Asks every endpoint for its cluster. Two different clusters are an error. This is needed
    /// because a call goes to only one endpoint, and an answer of the wrong cluster looks like any
    /// other. Endpoints that do not answer soon are left out.
    pub fn survey(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let asks = self.options.endpoints.iter().map(|address| async move {
                let (mut stub, _) = self.admin(address);
                // Sent without an identity, because the question asks for it.
                let request = with_identity(wire::NodeStatusRequest {}, &Identity::default());
                (address, timeout(SURVEY_DEADLINE, stub.node_status(request)).await)
            });
            for (address, answer) in futures::future::join_all(asks).await {
                match answer {
                    Ok(Ok(response)) => self.learn(address, response.metadata())?,
                    Ok(Err(status)) if Reason::of(&status).is_some() => {
                        self.learn(address, status.metadata())?;
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }

    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The cluster's id, if it was given or an answer has named it.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.known.lock().cluster
    }

    /// The known nodes. `status` and `resolve` fill this.
    pub fn nodes(&self) -> Arc<BTreeMap<NodeId, NodeInfo>> {
        self.known.lock().nodes.clone()
    }

    /// Proposes a command and returns the reply of apply. Refusals are errors. `wait` is how long
    /// the leader may hold the command back.
    pub async fn execute(&self, body: Body, wait: Duration) -> Result<Reply, ClientError> {
        self.execute_within(body, wait, self.options.deadline).await
    }

    /// [`Client::execute`] with its own deadline. `None` means no limit.
    pub async fn execute_within(
        &self,
        body: Body,
        wait: Duration,
        deadline: Option<Duration>,
    ) -> Result<Reply, ClientError> {
        self.propose(body, wait, deadline, &[]).await
    }

    /// Stages with a plan that avoids nodes where recent writes failed.
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
            let what = body.words();
            let busy_max = match body {
                Body::SealPart(_) => SEAL_BUSY_MAX,
                _ => Duration::ZERO,
            };
            let request = RequestId(self.env.random_u128());
            let command = convert::encode_command(&Command::new(request, 0, 0, body));
            let started = Instant::now();
            let mut pause = PLAN_PAUSE_MIN;
            loop {
                let left = deadline.map(|deadline| deadline.saturating_sub(started.elapsed()));
                let ask = Ask { what, aim: Aim::Leader, wait, deadline: left, busy_max };
                let reply = self
                    .ask(&ask, |call| {
                        let message = wire::ExecuteRequest {
                            command: command.clone(),
                            wait_ms: as_ms(call.wait),
                            exclude: exclude.iter().map(|node| node.0).collect(),
                            forward: call.forward,
                            deadline_ms: as_ms(call.patience),
                        };
                        let request = with_identity(message, &call.identity);
                        Box::pin(async move { catalogue(call.transport).execute(request).await })
                    })
                    .await?;
                let malformed =
                    |problem: String| ClientError::Malformed { what: what.to_owned(), problem };
                let reply = reply.reply.ok_or_else(|| malformed("no reply".to_owned()))?;
                match convert::reply_from_wire(reply)
                    .map_err(|error| malformed(error.to_string()))?
                {
                    // The leader planned on a stale view. The command had no effect, and refusals
                    // are not remembered, so the same request is decided again.
                    Reply::Refused(Refusal::BadTargets | Refusal::NotCompared { .. })
                        if left != Some(Duration::ZERO) =>
                    {
                        sleep(self.env.jitter(pause)).await;
                        pause = (pause * 2).min(PLAN_PAUSE_MAX);
                    }
                    Reply::Refused(refusal) => return Err(ClientError::Refused(refusal)),
                    reply => return Ok(reply),
                }
            }
        })
    }

    /// Tells the leader that a client waits for all replicas of a checkpoint. This is a hint that
    /// is repeated, so a failure is no error.
    pub(crate) async fn hasten(&self, checkpoint: CheckpointId) {
        let deadline = Some(self.options.call_deadline);
        let (wait, busy_max) = (Duration::ZERO, Duration::ZERO);
        let ask = Ask { what: "hasten", aim: Aim::Leader, wait, deadline, busy_max };
        let asked = self.ask(&ask, |call| {
            let message = wire::HastenRequest { checkpoint: checkpoint.0 };
            let request = with_identity(message, &call.identity);
            Box::pin(async move { catalogue(call.transport).hasten(request).await })
        });
        if let Err(error) = asked.await {
            tracing::debug!(%error, "the leader does not know that somebody waits");
        }
    }

    /// A linearizable read. Any node works. If one fails, the next one is asked.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        send: impl FnMut(
            CatalogueClient<Transport>,
            Identity,
            u64,
        ) -> BoxFuture<'static, Result<Response<T>, Status>>
        + Send,
    ) -> Result<T, ClientError> {
        self.read_within(what, self.options.deadline, send).await
    }

    pub(crate) async fn read_within<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Option<Duration>,
        mut send: impl FnMut(
            CatalogueClient<Transport>,
            Identity,
            u64,
        ) -> BoxFuture<'static, Result<Response<T>, Status>>
        + Send,
    ) -> Result<T, ClientError> {
        let (wait, busy_max) = (Duration::ZERO, Duration::ZERO);
        let ask = Ask { what, aim: Aim::AnyNode, wait, deadline, busy_max };
        self.ask(&ask, |call| {
            // The node's time limit is shorter, so that its reason arrives before this client stops
            // waiting.
            let wait = call.patience.mul_f32(0.8);
            send(catalogue(call.transport), call.identity, as_ms(wait))
        })
        .await
    }

    /// Learns from the answering node. An answer from another cluster is an error.
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
                    got: Some(got),
                    want,
                    want_from: known.cluster_from.clone(),
                });
            }
            (None, Some(got)) => {
                known.cluster = Some(got);
                known.cluster_from = Some(address.to_owned());
            }
            _ => {}
        }
        // Lineages only rise. A late answer from before a recovery is ignored.
        known.lineage = known.lineage.max(said.lineage);
        Ok(())
    }

    pub(crate) fn learn_nodes(&self, nodes: Vec<NodeInfo>) {
        if nodes.is_empty() {
            return;
        }
        let nodes = nodes.into_iter().map(|node| (node.id, node)).collect();
        let mut known = self.known.lock();
        known.nodes = Arc::new(nodes);
        // Connections to addresses that no node has any more are dropped.
        let mut transports = std::mem::take(&mut known.transports);
        transports.retain(|address, _| {
            self.options.endpoints.contains(address)
                || known.nodes.values().any(|node| node.address == *address)
        });
        known.transports = transports;
    }

    pub(crate) fn learn_settings(&self, settings: Settings) {
        self.known.lock().settings = Some(settings);
    }

    /// Makes the next put ask the cluster again. The answer also has the nodes' addresses.
    pub(crate) fn forget_settings(&self) {
        self.known.lock().settings = None;
    }

    /// The cluster's settings. Asks the cluster unless they are known. The answer also has the
    /// nodes' addresses.
    pub(crate) async fn settings(&self) -> Result<Settings, ClientError> {
        let known = self.known.lock().settings.clone();
        match known {
            Some(settings) => Ok(settings),
            None => Ok(self.status().await?.settings),
        }
    }

    pub(crate) fn learn_leader(&self, address: Option<&str>) {
        if let Some(address) = address {
            self.known.lock().leader = Some(address.to_owned());
        }
    }

    /// A node's record. Asks the cluster once if it is not known.
    pub(crate) async fn node(&self, node: NodeId) -> Result<NodeInfo, ClientError> {
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

    /// The catalogue service at an address, for a call with one attempt.
    pub(crate) fn catalogue_at(&self, address: &str) -> (CatalogueClient<Transport>, Identity) {
        (catalogue(self.transport(address)), self.identity(None))
    }

    /// The admin service at an address, which need not be a known node's.
    pub(crate) fn admin(&self, address: &str) -> (AdminClient<Transport>, Identity) {
        let stub = AdminClient::new(self.transport(address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        (stub, self.identity(None))
    }

    pub(crate) fn identity(&self, node: Option<NodeId>) -> Identity {
        let known = self.known.lock();
        Identity { cluster: known.cluster, lineage: known.lineage, node }
    }

    pub(crate) fn transport(&self, address: &str) -> Transport {
        let mut known = self.known.lock();
        let dial = || self.env.dialer.dial(address);
        let transport = known.transports.entry(address.to_owned()).or_insert_with(dial).clone();
        credentials::showing(transport, address, self.token.as_ref(), self.about)
    }

    /// All addresses to try: the given endpoints, then learned nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut addresses = self.options.endpoints.clone();
        for node in self.known.lock().nodes.values() {
            if !node.removed && !node.address.is_empty() && !addresses.contains(&node.address) {
                addresses.push(node.address.clone());
            }
        }
        addresses
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn catalogue(transport: Transport) -> CatalogueClient<Transport> {
    CatalogueClient::new(transport)
        .max_decoding_message_size(CATALOGUE_REPLY_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A call's message with the headers that name the target.
pub(crate) fn with_identity<M>(message: M, identity: &Identity) -> Request<M> {
    let mut request = Request::new(message);
    identity.write(request.metadata_mut());
    request
}
