//! Tests the simulator's lower layer with a very small node: it stores the bytes it gets under
//! their digest, and acknowledges after file and directory are synced.
//!
//! Clients repeat a put until it is acknowledged, over lossy links. Nodes are cut off and crashed,
//! half of the time in the middle of a job. At the end every acknowledged segment must be on the
//! node that acknowledged it, byte for byte. [`Bug`] proves that the checker detects a mistake.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::seam::{Env, Lane};
use cairn_node::disk::{Disk, Open};
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_proto::wire::segments_server::{Segments, SegmentsServer};
use cairn_proto::wire::{
    GetReply, GetRequest, PutHead, PutReply, PutRequest, SuspectReply, SuspectRequest, get_reply,
    put_request,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::disk::Crash;
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::seed::Stream;
use crate::trace;
use crate::world::{ProcessParts, Spec, World};

const NODES: usize = 3;
const CLIENTS: usize = 2;
const PUTS_A_CLIENT: usize = 12;
const CHUNK: usize = 16 << 10;
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// Attempts per put. The faults stop long before this number.
const ATTEMPTS_MAX: usize = 400;

/// A mistake put into the toy node on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Acknowledges before the bytes are synced.
    NoFileSync,
    /// Acknowledges before the name is synced.
    NoDirSync,
}

/// The acknowledged puts: digest and bytes by node.
type Acked = Arc<Mutex<BTreeMap<(ProcessId, Bytes), Bytes>>>;

pub fn play(world: World) -> BoxFuture<'static, ()> {
    play_with(world, Bug::None).boxed()
}

/// Plays the scenario with one mistake in the toy node.
pub async fn play_with(world: World, bug: Bug) {
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            let boot = move |parts| run_node(parts, bug);
            world.add(Spec::new(&format!("n{number}"), &format!("r{number}"), boot))
        })
        .collect();
    let targets: Vec<_> =
        nodes.iter().filter_map(|id| Some((*id, world.start(*id)?.address))).collect();
    world.net().set_policy(LinkPolicy::rough());

    let (acked, chance) = (Acked::default(), world.stream("puts"));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let name = format!("c{number}");
            let (targets, acked, chance) = (targets.clone(), acked.clone(), chance.fork(&name));
            let boot = move |parts| put_all(parts, targets.clone(), chance.clone(), acked.clone());
            world.add(Spec::new(&name, "clients", boot))
        })
        .collect();
    for client in &clients {
        world.start(*client);
    }

    break_things(&world, &nodes).await;
    world.net().heal();
    world.net().set_policy(LinkPolicy::default());
    for node in &nodes {
        world.start(*node);
    }
    let total = CLIENTS * PUTS_A_CLIENT;
    for _ in 0..600 {
        if acked.lock().len() >= total {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if acked.lock().len() < total {
        world.violation("L2", format!("{} of {total} puts acknowledged", acked.lock().len()));
    }
    for node in &nodes {
        world.restart(*node, Crash::Power);
    }
    check(&world, &clients, &targets, &acked).await;
}

/// Cuts and crashes for a while. Half of the crashes aim at a job in flight.
async fn break_things(world: &World, nodes: &[ProcessId]) {
    let mut chance = world.stream("faults");
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(chance.range(50..800))).await;
        let Some(node) = chance.pick(nodes).copied() else { return };
        match chance.below(5) {
            0 => {
                world.net().isolate(node);
                tokio::time::sleep(Duration::from_millis(chance.range(100..5_000))).await;
                world.net().heal();
            }
            1 => {
                // Slow enough that callers stop waiting for a running handler and try again.
                let Some(disk) = world.disk(node) else { return };
                disk.set_slow(1_000.0);
                tokio::time::sleep(Duration::from_millis(chance.range(100..5_000))).await;
                disk.heal();
            }
            2 => crash(world, node, Crash::Kill, &mut chance).await,
            _ => crash(world, node, Crash::Power, &mut chance).await,
        }
    }
}

async fn crash(world: &World, node: ProcessId, how: Crash, chance: &mut Stream) {
    if chance.chance(0.5)
        && let Some(disk) = world.disk(node)
    {
        for _ in 0..2_000 {
            if disk.jobs_in_flight() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    world.crash(node, how);
    tokio::time::sleep(Duration::from_millis(chance.range(1..1_500))).await;
    world.start(node);
}

async fn check(
    world: &World,
    clients: &[ProcessId],
    targets: &[(ProcessId, String)],
    acked: &Acked,
) {
    let Some(parts) = clients.first().and_then(|client| world.parts(*client)) else { return };
    let acked = acked.lock().clone();
    for ((node, digest), bytes) in acked {
        let Some((_, address)) = targets.iter().find(|(id, _)| *id == node) else { continue };
        let mut last = None;
        // The node may still be starting.
        for _ in 0..20 {
            match get(&parts.env, address, digest.clone()).await {
                Ok(found) => {
                    last = Some(Ok(found));
                    break;
                }
                Err(status) => last = Some(Err(status)),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match last {
            Some(Ok(found)) if found == bytes => {}
            Some(Ok(_)) => world.violation("D5", format!("{node} returns wrong bytes")),
            other => {
                let digest = trace::fingerprint(&digest);
                world.violation("D2", format!("{node} lost acknowledged {digest}: {other:?}"));
            }
        }
    }
}

// The clients.

async fn put_all(
    parts: ProcessParts,
    targets: Vec<(ProcessId, String)>,
    mut chance: Stream,
    acked: Acked,
) {
    for _ in 0..PUTS_A_CLIENT {
        let len = chance.range(1..150_000) as usize;
        let bytes = Bytes::from(chance.bytes(len));
        let digest = Bytes::copy_from_slice(blake3::hash(&bytes).as_bytes());
        let Some((node, address)) = chance.pick(&targets) else { return };
        for _ in 0..ATTEMPTS_MAX {
            let call = put(&parts.env, address, digest.clone(), bytes.clone());
            if let Ok(Ok(())) = tokio::time::timeout(CALL_DEADLINE, call).await {
                trace::event(&parts.life.name, "acked", format_args!("{node} {len} bytes"));
                acked.lock().insert((*node, digest), bytes);
                break;
            }
            tokio::time::sleep(parts.env.jitter(Duration::from_millis(200))).await;
        }
    }
    std::future::pending::<()>().await;
}

async fn put(env: &Env, address: &str, digest: Bytes, bytes: Bytes) -> Result<(), Status> {
    let head =
        PutHead { digest, len: bytes.len() as u32, segment: 1, epoch: 1, ..PutHead::default() };
    let chunks = (0..bytes.len())
        .step_by(CHUNK)
        .map(move |at| bytes.slice(at..bytes.len().min(at + CHUNK)))
        .map(put_request::Message::Chunk);
    let messages = std::iter::once(put_request::Message::Head(head)).chain(chunks);
    let requests = messages.map(|message| PutRequest { message: Some(message) });
    SegmentsClient::new(env.dialer.dial(address)).put(stream::iter(requests)).await?;
    Ok(())
}

async fn get(env: &Env, address: &str, digest: Bytes) -> Result<Vec<u8>, Status> {
    let request = GetRequest { digest, ..GetRequest::default() };
    let mut replies =
        SegmentsClient::new(env.dialer.dial(address)).get(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(reply) = replies.message().await? {
        if let Some(get_reply::Message::Chunk(chunk)) = reply.message {
            bytes.extend_from_slice(&chunk);
        }
    }
    Ok(bytes)
}

// The node.

struct Toy {
    env: Env,
    disk: Arc<dyn Disk>,
    bug: Bug,
}

async fn run_node(parts: ProcessParts, bug: Bug) {
    let disk = parts.disk.clone();
    let formatted = parts.env.blocking(Lane::Data, move || format(&*disk)).await;
    if formatted.is_err() {
        return;
    }
    let toy = Toy { env: parts.env.clone(), disk: parts.disk.clone(), bug };
    parts.serve(Routes::new(SegmentsServer::new(toy)));
    std::future::pending::<()>().await;
}

fn format(disk: &dyn Disk) -> io::Result<()> {
    disk.create_dir("tmp")?;
    disk.create_dir("data")?;
    disk.sync_dir("")?;
    // Unfinished files of the last life.
    for left in disk.list("tmp")? {
        disk.remove(&format!("tmp/{}", left.name))?;
    }
    // Names that the last life made but may not have synced.
    disk.sync_dir("data")
}

fn store(disk: &dyn Disk, temporary: &str, name: &str, bytes: &[u8], bug: Bug) -> io::Result<bool> {
    if disk.exists(name)? {
        // Another put renamed it, and may not have synced yet.
        disk.sync_dir("data")?;
        return Ok(true);
    }
    let file = disk.open(temporary, Open::Create)?;
    for (place, chunk) in bytes.chunks(CHUNK).enumerate() {
        file.write_at((place * CHUNK) as u64, chunk)?;
    }
    if bug != Bug::NoFileSync {
        file.sync()?;
    }
    disk.rename(temporary, name)?;
    if bug != Bug::NoDirSync {
        disk.sync_dir("data")?;
    }
    Ok(false)
}

fn load(disk: &dyn Disk, name: &str) -> io::Result<Bytes> {
    let file = disk.open(name, Open::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes.into())
}

fn data_path(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("data/{hex}")
}

#[tonic::async_trait]
impl Segments for Toy {
    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<PutReply>, Status> {
        let mut requests = request.into_inner();
        let (mut digest, mut bytes) = (Bytes::new(), Vec::new());
        while let Some(request) = requests.message().await? {
            match request.message {
                Some(put_request::Message::Head(head)) => digest = head.digest,
                Some(put_request::Message::Chunk(chunk)) => bytes.extend_from_slice(&chunk),
                None => return Err(Status::invalid_argument("empty message")),
            }
        }
        if blake3::hash(&bytes).as_bytes()[..] != digest[..] {
            return Err(Status::data_loss("bytes do not match their digest"));
        }
        let temporary = format!("tmp/{:016x}", self.env.random_u64());
        let (disk, bug, name) = (self.disk.clone(), self.bug, data_path(&digest));
        let work = move || store(&*disk, &temporary, &name, &bytes, bug);
        let existed = self.env.blocking(Lane::Data, work).await?;
        Ok(Response::new(PutReply { existed }))
    }

    type GetStream = BoxStream<'static, Result<GetReply, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let (disk, name) = (self.disk.clone(), data_path(&request.into_inner().digest));
        let bytes = self.env.blocking(Lane::Data, move || load(&*disk, &name)).await?;
        let places = (0..bytes.len()).step_by(CHUNK);
        let replies = places.map(move |at| {
            let chunk = bytes.slice(at..bytes.len().min(at + CHUNK));
            Ok(GetReply { message: Some(get_reply::Message::Chunk(chunk)) })
        });
        Ok(Response::new(stream::iter(replies.collect::<Vec<_>>()).boxed()))
    }

    async fn suspect(&self, _: Request<SuspectRequest>) -> Result<Response<SuspectReply>, Status> {
        Err(Status::unimplemented("the toy node trusts itself"))
    }
}
