//! Three to five nodes, now and then one or two, and two or three clients do everything they can while everything goes
//! wrong that the fault model allows (`sim/README.md`): safety first, then the faults stop but
//! perhaps for one node that the others must do without, then all must converge (L1, L2), then
//! every committed checkpoint is read and compared (D2).

mod clients;
mod faults;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::checkers::Checkers;
use crate::checkers::c1_history::History;
use crate::checkers::marks::Marks;
use crate::cluster::{Cluster, Running};
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::trace;
use crate::world::{Spec, World};

use self::clients::Script;
use self::faults::Faults;
use self::watchers::Watcher;
use super::plan::Plan;

/// What an older build understands: all but `Annotate`.
const OLDER_LEVEL: u32 = 1;
const RACKS: [&str; 5] = ["r1", "r2", "r3", "r1", "r2"];
const TWO_RACKS: [&str; 5] = ["r1", "r2", "r1", "r2", "r1"];
/// The cluster comes up within this, and settles within that, once nothing is wrong.
const START_LIMIT: Duration = Duration::from_secs(60);
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
/// Without faults, what is left of the clients' parts takes no longer; else it stays undone.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// In a settled cluster so many calls a node are made in such a time: a leader's heartbeats, the
/// nodes' own, and as many again for the odd election or lost node.
const QUIET_WATCH: Duration = Duration::from_secs(10);
const QUIET_CALLS_MAX: u64 = 200;
/// After this long without faults, what the leader holds against a node is true: silence before a
/// node counts as down, a call's deadline, a round of upkeep.
const STALE: Duration = Duration::from_secs(7);

/// In every third run, nodes read each replica again within this time.
const SCRUB: Duration = Duration::from_secs(40);

/// What the clients of one run share.
struct Shared {
    history: Mutex<History>,
    marks: Marks,
    phase: Mutex<Phase>,
    addresses: Vec<String>,
    plan: Plan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Faults,
    /// No new ones; what they did is being put right.
    Quiet,
    /// Whatever fails from now on is a broken promise (L2).
    Calm,
}

impl Shared {
    fn is_calm(&self) -> bool {
        *self.phase.lock() == Phase::Calm
    }

    fn has_faults(&self) -> bool {
        *self.phase.lock() == Phase::Faults
    }
}

pub fn play(world: World) -> BoxFuture<'static, ()> {
    async move {
        if let Err(text) = story(&world).await {
            world.violation("L2", text);
        }
    }
    .boxed()
}

/// The same over HTTP/2.
pub fn play_http2(world: World) -> BoxFuture<'static, ()> {
    world.net().speak_http2();
    play(world)
}

async fn story(world: &World) -> Result<(), String> {
    let plan = Plan::of(world.seed(), &world.tuning().set).map_err(|error| error.to_string())?;
    let cluster = Cluster::empty(world, plan.pace);
    let mut skews = world.stream("skews");
    let mut builds = world.stream("builds");
    let racks = if plan.racks == 2 { TWO_RACKS } else { RACKS };
    for (place, rack) in racks[..plan.nodes as usize].iter().enumerate() {
        let node = cluster.add_node(rack, plan.wall_skew_ms(&mut skews));
        // A cluster has the level of the build that makes it.
        let older = match plan.older {
            0 => false,
            1 => place == 0 || builds.chance(0.5),
            _ => true,
        };
        if older {
            trace::count("cluster.older_builds", 1);
            cluster.set_feature_level(node, OLDER_LEVEL);
        }
    }
    if world.seed().is_multiple_of(3) {
        trace::count("cluster.scrubs", 1);
        cluster.set_scrub(plan.paced(SCRUB));
    }
    let checkers = Checkers::watch(&cluster);
    world.net().set_silence(Duration::from_millis(plan.silence_ms));
    // Slow enough that faults find bytes on the way.
    let links = LinkPolicy { bytes_per_s: plan.bytes_per_s, ..LinkPolicy::default() };
    world.net().set_policy(links.clone());
    cluster.start();
    cluster
        .wait(plan.paced(START_LIMIT), Cluster::unsettled)
        .await
        .map_err(|text| format!("start: {text}"))?;

    let (addresses, phase) = (cluster.addresses(), Mutex::new(Phase::Faults));
    let (history, marks) = (Mutex::default(), checkers.marks().clone());
    let shared = Arc::new(Shared { history, marks, phase, addresses, plan: plan.clone() });
    let scripts: Vec<_> =
        (0..plan.clients).map(|number| Script::new(world, number, plan.clients)).collect();
    let clients: Vec<ProcessId> = scripts
        .iter()
        .map(|script| add_client(world, script, &shared, plan.wall_skew_ms(&mut skews)))
        .collect();
    clients.iter().for_each(|client| drop(world.start(*client)));
    let watchers = Watcher::all(world, checkers.watches());
    for watcher in &watchers {
        world.start(add_watcher(world, watcher, &shared));
    }

    let mut faults = Faults::new(&cluster, &checkers, (&clients, &scripts), &plan);
    faults.rage().await;
    *shared.phase.lock() = Phase::Quiet;
    faults.cease();
    world.net().set_policy(links);
    let left_out = faults.leave_one_out();
    faults.upgrade();
    // Clients go on until their part is played, or nobody has seen much.
    let mut played = |_: &Cluster| {
        faults.look_after();
        scripts.iter().find(|script| !script.has_played()).map(|it| it.doing())
    };
    let _ = cluster.wait(plan.paced(QUIET_LIMIT), &mut played).await;
    // A node that was cut off just now may be found down only now.
    tokio::time::sleep(plan.paced(STALE)).await;
    let in_service = |cluster: &Cluster| {
        faults.look_after();
        faults.operator_unfinished().or_else(|| cluster.out_of_service())
    };
    cluster
        .wait(plan.paced(START_LIMIT * 2), in_service)
        .await
        .map_err(|text| format!("after the faults: {text}"))?;
    cluster.excuse_nobody();
    trace::event("world", "calm", format_args!("no more faults"));
    *shared.phase.lock() = Phase::Calm;

    let settle_limit = plan.paced(SETTLE_LIMIT);
    let done = |cluster: &Cluster| {
        say_what_lacks(cluster);
        let busy = scripts.iter().find(|script| !script.is_done())?;
        Some(format!("client {} is not done: {}", busy.name, busy.doing()))
    };
    cluster.wait(settle_limit, done).await.map_err(|text| format!("in calm: {text}"))?;
    if left_out.is_some() {
        if let Err(text) = cluster.wait(settle_limit, Cluster::core_unsettled).await {
            world.violation("L1", text);
        }
        faults.take_in();
        let in_service = |cluster: &Cluster| {
            faults.look_after();
            cluster.out_of_service()
        };
        let back = cluster.wait(plan.paced(START_LIMIT * 2), in_service).await;
        back.map_err(|text| format!("with all nodes again: {text}"))?;
    }
    for _ in 0..2 {
        if let Err(text) = cluster.wait(settle_limit, Cluster::unsettled).await {
            world.violation("L1", text);
        }
        faults.mend_replicas().await;
    }
    // An upload nobody came back to is open until lease and grace are over.
    if let Err(text) = cluster.wait(settle_limit, leftovers).await {
        world.violation("L2", text);
    }
    if let Err(text) = cluster.wait(settle_limit, Cluster::unsettled).await {
        world.violation("L1", format!("once more: {text}"));
    }
    if let Err(text) = all_told(&cluster, &watchers, settle_limit).await {
        world.violation("L2", text);
    }
    if let Err(text) = is_quiet(&cluster, &plan).await {
        world.violation("L2", text);
    }
    if let Err(text) = gives_space_back(&cluster).await {
        world.violation("room", text);
    }
    let mut busy = busy_lanes(&cluster);
    let held = |_: &Cluster| still_held(&cluster, &mut busy);
    if let Err(text) = cluster.wait(plan.paced(QUIET_WATCH), held).await {
        world.violation("permits", text);
    }
    checkers.finish().await;
    let scan = clients::scan(world, &cluster, &shared);
    match tokio::time::timeout(settle_limit, scan).await {
        Ok(result) => result,
        Err(_) => Err("the durability scan does not end".to_owned()),
    }
}

/// For the reader of a trace: why an upload does not commit.
fn say_what_lacks(cluster: &Cluster) {
    let (index, catalogue) = cluster.newest();
    for upload in catalogue.open_uploads() {
        let sealed = upload.sealed_parts();
        let open = (0..upload.parts_wanted).find(|part| !sealed.contains(part)).unwrap_or(0);
        let lacking = catalogue.lacking_if_sealed(upload.id, open);
        let total = lacking.len();
        let first = lacking.first().and_then(|id| catalogue.segment(*id));
        if let Some(segment) = first {
            trace::remark(
                "world",
                "lacks",
                format_args!(
                    "{}@{} {total} segments at entry {index}, first {} {:?}",
                    upload.namespace, upload.step, segment.digest, segment.slots
                ),
            );
        }
    }
}

fn add_client(
    world: &World,
    script: &Arc<Script>,
    shared: &Arc<Shared>,
    wall_skew_ms: i64,
) -> ProcessId {
    let (name, rack) = (script.name.clone(), script.rack.clone());
    let (script, shared) = (script.clone(), shared.clone());
    let boot = move |parts| clients::run(parts, script.clone(), shared.clone());
    world.add(Spec { wall_skew_ms, ..Spec::new(&name, &rack, boot) })
}

fn add_watcher(world: &World, watcher: &Arc<Watcher>, shared: &Arc<Shared>) -> ProcessId {
    let (name, rack) = (watcher.name.clone(), watcher.rack.clone());
    let (watcher, shared) = (watcher.clone(), shared.clone());
    world.add(Spec::new(&name, &rack, move |parts| {
        watchers::run(parts, watcher.clone(), shared.clone())
    }))
}

/// Each watcher is told all that has happened, and watches no more.
async fn all_told(
    cluster: &Cluster,
    watchers: &[Arc<Watcher>],
    limit: Duration,
) -> Result<(), String> {
    let (index, _) = cluster.newest();
    let world = cluster.world();
    let behind = |_: &Cluster| watchers.iter().find_map(|watcher| watcher.behind(world, index));
    let told = cluster.wait(limit, behind).await;
    watchers.iter().for_each(|watcher| watcher.end());
    told
}

/// Once nobody writes, no node keeps space for a writer.
async fn gives_space_back(cluster: &Cluster) -> Result<(), String> {
    for node in cluster.running() {
        let store = node.shared.replicas.store.clone();
        let room = node.life.spawn(async move { store.room().await }).await;
        let room = room.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        trace::count("checked.rooms", 1);
        if room.reserved > 0 {
            return Err(format!("{} reserves {} bytes for nobody", node.name, room.reserved));
        }
    }
    Ok(())
}

/// Of each node that runs, what it gives permits for.
fn busy_lanes(cluster: &Cluster) -> Vec<(Running, &'static str)> {
    let lanes = |node: Running| {
        let lanes = node.shared.lanes.taken();
        lanes.into_iter().map(move |(lane, _)| (node.clone(), lane))
    };
    cluster.running().into_iter().flat_map(lanes).collect()
}

/// Each lane is idle at some moment: heartbeats come and go, and nobody else is there. Those that
/// were idle are looked at no more.
fn still_held(cluster: &Cluster, busy: &mut Vec<(Running, &'static str)>) -> Option<String> {
    let taken = |(node, lane): &(Running, &'static str)| {
        let lanes = node.shared.lanes.taken();
        lanes.into_iter().find(|(of, _)| of == lane).map_or(0, |(_, taken)| taken)
    };
    let before = busy.len();
    busy.retain(|it| cluster.running_node(it.0.process).is_some() && taken(it) > 0);
    trace::count("checked.lanes", (before - busy.len()) as u64);
    let held = busy.first()?;
    Some(format!("{} has {} permits for {} and nobody asks", held.0.name, taken(held), held.1))
}

/// In a settled cluster that nobody uses, only heartbeats are left: whoever still asks and asks is
/// trying again for ever.
async fn is_quiet(cluster: &Cluster, plan: &Plan) -> Result<(), String> {
    let before = trace::counter("net.calls");
    tokio::time::sleep(plan.paced(QUIET_WATCH)).await;
    let calls = trace::counter("net.calls") - before;
    let limit = cluster.nodes().len() as u64 * QUIET_CALLS_MAX;
    trace::event("world", "quiet", format_args!("{calls} calls, {limit} are fine"));
    if calls > limit {
        return Err(format!("{calls} calls in a settled cluster, more than {limit}"));
    }
    Ok(())
}

/// What should not be there once all is done: open uploads that have expired, half files. One that
/// could not be removed stays until the node starts again.
fn leftovers(cluster: &Cluster) -> Option<String> {
    let (_, catalogue) = cluster.newest();
    if let Some(open) = catalogue.open_uploads().next() {
        return Some(format!("upload {} of {} is still open", open.id, open.namespace));
    }
    cluster.nodes().into_iter().find_map(|process| {
        let disk = cluster.disk(process).filter(|disk| !disk.has_failed_names())?;
        let left = disk.paths().into_iter().find(|path| path.starts_with("tmp/"))?;
        Some(format!("{} has {left}", disk.name))
    })
}
