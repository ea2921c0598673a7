//! The two services a client speaks to, over the fake's state.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cairn_core::catalogue::{Catalogue, ListQuery};
use cairn_core::placement;
use cairn_host::envelope::{Reason, not_leader, refuse};
use cairn_proto::refused::invalid;
use cairn_proto::wire;
use cairn_types::blocks::BlockTable;
use cairn_types::command::{self, Body, FEATURE_LEVEL, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{Address, CheckpointId, Epoch, NodeId, SegmentDigest, SegmentId, Step};
use cairn_types::limits::BLOCK_BYTES;
use cairn_types::live_names::LiveNames;
use cairn_types::manifest::Manifest;
use cairn_types::model::{Admin, Liveness, ManifestPlace};
use futures::{Stream, StreamExt};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{Fake, Mood, State, address};

/// What a slow node takes for a chunk; a block of 1 MiB is one or two.
const SLOW_PAUSE: Duration = Duration::from_millis(900);

/// Checkpoints of a page: so few that a client needs several.
const LIST_PAGE: usize = 1;

#[derive(Clone)]
pub struct Node {
    pub fake: Arc<Fake>,
    pub index: usize,
}

impl Node {
    fn nodes(&self) -> Vec<wire::NodeInfo> {
        let state = self.fake.state.lock();
        let info = |node: &cairn_types::model::Node| wire::NodeInfo {
            id: node.id.0,
            host: node.host.clone(),
            rack: node.rack.clone(),
            address: node.address.clone(),
            up: node.liveness == Liveness::Up,
            removed: node.admin == Admin::Removed,
            inventoried: node.inventoried,
            ..wire::NodeInfo::default()
        };
        state.catalogue.nodes().map(info).collect()
    }

    fn mood(&self) -> Mood {
        *self.fake.nodes[self.index].mood.lock()
    }
}

/// The parts of an open-ended upload that this one takes the place of. Their manifests are short.
fn voids(catalogue: &Catalogue, seal: &command::SealPart) -> Vec<u32> {
    let decode = |place: &ManifestPlace| match place {
        ManifestPlace::Inline(bytes) => Manifest::decode(bytes).unwrap(),
        ManifestPlace::Segments(_) => panic!("a long manifest is not faked"),
    };
    let record = catalogue.checkpoint(seal.checkpoint).filter(|record| record.open_ended);
    let Some(upload) = record.and_then(|record| record.open.as_ref()) else { return Vec::new() };
    let mut names = LiveNames::default();
    for (number, part) in upload.parts.iter() {
        if let Some(sealed) = part.part.sealed.as_ref().filter(|_| *number != seal.part) {
            names.take(*number, &decode(&sealed.manifest));
        }
    }
    names.voided_by(&decode(&seal.manifest)).unwrap()
}

fn plan(state: &mut State, body: &mut Body, exclude: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    if let Body::SealPart(seal) = body {
        seal.compared = state.catalogue.parts_version(seal.checkpoint);
        seal.voids = voids(&state.catalogue, seal);
    }
    if let Body::Stage(command::Stage { checkpoint, segments, .. }) = body {
        let State { catalogue, loads, .. } = state;
        let upload =
            catalogue.checkpoint(*checkpoint).ok_or(Refusal::UnknownCheckpoint(*checkpoint))?;
        placement::plan_stage(catalogue, loads, upload, segments, exclude)?;
    }
    Ok(())
}

#[tonic::async_trait]
impl wire::catalogue_server::Catalogue for Node {
    async fn execute(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let wire::ExecuteRequest { command, exclude, forward, .. } = request.into_inner();
        let command = convert::decode_command(&command, FEATURE_LEVEL).map_err(invalid)?;
        let (reply, lost) = {
            let mut state = self.fake.state.lock();
            match state.leader {
                Some(leader) if leader == self.index => {}
                Some(_) if forward => {}
                Some(leader) => {
                    let at = address(leader);
                    return Err(not_leader(Some((self.fake.nodes[leader].id, &at))));
                }
                None => return Err(not_leader(None)),
            }
            if state.busy_until.is_some_and(|until| Instant::now() < until) {
                return Err(refuse(Reason::Busy, "part 0 is still being sealed"));
            }
            state.executes += 1;
            state.requests.push(command.request);
            let mut body = command.body;
            let exclude = exclude.into_iter().map(NodeId).collect();
            let reply = match plan(&mut state, &mut body, &exclude) {
                Ok(()) => state.apply(command.request, body),
                Err(refusal) => Reply::Refused(refusal),
            };
            let lost = state.lose_answers > 0;
            state.lose_answers = state.lose_answers.saturating_sub(1);
            (reply, lost)
        };
        if lost {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(wire::ExecuteReply { reply: Some(convert::reply_to_wire(&reply)) }))
    }

    async fn plan_removal(
        &self,
        _request: Request<wire::PlanRemovalRequest>,
    ) -> Result<Response<wire::PlanRemovalReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn plan_drain(
        &self,
        _request: Request<wire::PlanDrainRequest>,
    ) -> Result<Response<wire::PlanDrainReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn show_policy(
        &self,
        _request: Request<wire::ShowPolicyRequest>,
    ) -> Result<Response<wire::ShowPolicyReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_policies(
        &self,
        _request: Request<wire::ListPoliciesRequest>,
    ) -> Result<Response<wire::ListPoliciesReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn plan_retention(
        &self,
        _request: Request<wire::PlanRetentionRequest>,
    ) -> Result<Response<wire::PlanRetentionReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_tokens(
        &self,
        _request: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchReply, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut state = self.fake.state.lock();
        state.watched_from.push(request.into_inner().from);
        let told = state.watches.pop_front().unwrap_or_default();
        let told = futures::stream::iter(told);
        Ok(Response::new(match state.watches_stay_open {
            true => Box::pin(told.chain(futures::stream::pending())),
            false => Box::pin(told),
        }))
    }

    async fn usage(
        &self,
        _request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_holds(
        &self,
        _request: Request<wire::ListHoldsRequest>,
    ) -> Result<Response<wire::ListHoldsReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_refs(
        &self,
        _request: Request<wire::ListRefsRequest>,
    ) -> Result<Response<wire::ListRefsReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn plan_time_repair(
        &self,
        _request: Request<wire::PlanTimeRepairRequest>,
    ) -> Result<Response<wire::PlanTimeRepairReply>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn execute_forwarded(
        &self,
        _request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        Err(Status::unimplemented("between nodes"))
    }

    async fn resolve(
        &self,
        request: Request<wire::ResolveRequest>,
    ) -> Result<Response<wire::ResolveReply>, Status> {
        let address: Address = request
            .into_inner()
            .address
            .parse()
            .map_err(|_| Status::invalid_argument("malformed address"))?;
        let found = {
            let state = self.fake.state.lock();
            let address = state.resolve_as.clone().unwrap_or(address);
            state.catalogue.resolve(&address)
        };
        let info = found.map_err(|refusal| cairn_proto::refused::refusal_status(&refusal))?;
        let checkpoint = Some(convert::info_to_wire(&info));
        let nodes = self.nodes();
        Ok(Response::new(wire::ResolveReply { checkpoint, nodes, shared: None }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListReply>, Status> {
        let request = request.into_inner();
        let after = match request.after_namespace.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|_| Status::invalid_argument(name))?),
        };
        let query = ListQuery {
            filter: convert::list_filter_from_wire(&request).map_err(invalid)?,
            prefix: request.prefix,
            after: after
                .map(|name| (name, Step(request.after_step), CheckpointId(request.after_id))),
            limit: LIST_PAGE,
            grant: None,
        };
        let mut state = self.fake.state.lock();
        state.lists += 1;
        let page = state.catalogue.list(&query);
        let infos = page.records.iter().map(|record| state.catalogue.info(record));
        let checkpoints = infos.map(|info| convert::info_to_wire(&info)).collect();
        let (next_namespace, next_step, next_id) = match page.next {
            Some((namespace, step, id)) => (namespace.to_string(), step.0, id.0),
            None => (String::new(), 0, 0),
        };
        Ok(Response::new(wire::ListReply { checkpoints, next_namespace, next_step, next_id }))
    }

    async fn locate(
        &self,
        request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateReply>, Status> {
        let state = self.fake.state.lock();
        let mut segments = Vec::new();
        for digest in request.into_inner().digests {
            let digest = convert::digest_from_wire("digest", &digest).map_err(invalid)?;
            segments.push(match state.catalogue.segment_by_digest(&digest) {
                None => wire::Located::default(),
                Some(segment) => wire::Located {
                    segment: segment.id.0,
                    len: segment.form.raw_len(),
                    slots: segment.live_slots().map(|slot| convert::slot_to_wire(&slot)).collect(),
                },
            });
        }
        let policy = Some(convert::policy_to_wire(&Default::default()));
        Ok(Response::new(wire::LocateReply { segments, policy }))
    }

    async fn hasten(
        &self,
        _request: Request<wire::HastenRequest>,
    ) -> Result<Response<wire::HastenReply>, Status> {
        Ok(Response::new(wire::HastenReply {}))
    }

    async fn status(
        &self,
        _request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        let nodes = self.nodes();
        let mut state = self.fake.state.lock();
        state.statuses += 1;
        Ok(Response::new(wire::StatusReply {
            nodes,
            leader_address: state.leader.map(address).unwrap_or_default(),
            settings: Some(convert::settings_to_wire(&state.catalogue.cluster().settings)),
            ..wire::StatusReply::default()
        }))
    }
}

#[tonic::async_trait]
impl wire::segments_server::Segments for Node {
    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<wire::PutReply>, Status> {
        use wire::put_request::Message;
        let node = &self.fake.nodes[self.index];
        let mut stream = request.into_inner();
        let Some(wire::PutRequest { message: Some(Message::Head(head)) }) =
            stream.message().await?
        else {
            return Err(Status::invalid_argument("no head"));
        };
        if self.mood() == Mood::Full {
            return Err(refuse(Reason::NoSpace, "no room"));
        }
        let digest = convert::digest_from_wire("digest", &head.digest).map_err(invalid)?;
        let is_current = self
            .fake
            .state
            .lock()
            .catalogue
            .segment(SegmentId(head.segment))
            .and_then(|segment| segment.live_slot_on(node.id))
            .is_some_and(|slot| slot.epoch == Epoch(head.epoch));
        if !is_current {
            return Err(refuse(Reason::StaleSlot, "no such slot"));
        }
        node.puts.fetch_add(1, Ordering::Relaxed);
        let mut bytes = BytesMut::new();
        while let Some(wire::PutRequest { message: Some(Message::Chunk(chunk)) }) =
            stream.message().await?
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
            bytes.extend_from_slice(&chunk);
        }
        if SegmentDigest::of(&bytes) != digest || bytes.len() != head.len as usize {
            return Err(refuse(Reason::WrongBytes, "digest does not match"));
        }
        let existed = node.files.lock().insert(digest, bytes.freeze()).is_some();
        if self.mood() != Mood::Mute {
            self.fake.report(self.index, digest);
        }
        Ok(Response::new(wire::PutReply { existed }))
    }

    type GetStream = Pin<Box<dyn futures::Stream<Item = Result<wire::GetReply, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        use wire::get_reply::Message;
        let node = &self.fake.nodes[self.index];
        node.gets.fetch_add(1, Ordering::Relaxed);
        if self.mood() == Mood::Busy {
            return Err(refuse(Reason::Busy, "too many readers at once"));
        }
        let request = request.into_inner();
        let digest = convert::digest_from_wire("digest", &request.digest).map_err(invalid)?;
        let held = node.files.lock().get(&digest).cloned();
        let bytes = held.ok_or_else(|| refuse(Reason::NotHeld, "not held"))?;
        let table = BlockTable::of(&bytes);
        let head = Message::Head(wire::GetHead {
            len: bytes.len() as u32,
            block_values: table.values().iter().map(|v| Bytes::copy_from_slice(v)).collect(),
            codec: if self.mood() == Mood::Foreign { 7 } else { 0 },
            stored_lens: Vec::new(),
        });
        let start = request.first_block as usize * BLOCK_BYTES as usize;
        let end = bytes.len().min(start + request.blocks as usize * BLOCK_BYTES as usize);
        let mut messages = vec![Ok(wire::GetReply { message: Some(head) })];
        for (index, chunk) in bytes[start..end].chunks(700_000).enumerate() {
            let mut chunk = chunk.to_vec();
            let is_wrong = match self.mood() {
                Mood::Rotten => true,
                Mood::Lying => index > 1,
                _ => false,
            };
            chunk[0] ^= u8::from(is_wrong);
            let message = Some(Message::Chunk(chunk.into()));
            messages.push(Ok(wire::GetReply { message }));
        }
        let pause = if self.mood() == Mood::Slow { SLOW_PAUSE } else { Duration::ZERO };
        let messages = futures::stream::iter(messages).then(move |message| async move {
            tokio::time::sleep(pause).await;
            message
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn suspect(
        &self,
        _request: Request<wire::SuspectRequest>,
    ) -> Result<Response<wire::SuspectReply>, Status> {
        self.fake.nodes[self.index].suspicions.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(wire::SuspectReply { bad: true }))
    }
}
