//! Scenarios by name. A scenario plays in a [`World`], switches faults on and off, and reports
//! broken promises to it.

pub mod layer;
pub mod mix;
pub mod plan;
pub mod slice;
pub mod stories;

use futures::future::BoxFuture;

use crate::trace::Counters;

use crate::world::World;

/// Plays one scenario.
pub type Play = fn(World) -> BoxFuture<'static, ()>;

/// Every scenario that is no story: its name, a line about it, and how to play it. The first is the default.
pub const SCENARIOS: [(&str, &str, Play); 4] = [
    (
        "mix",
        "three to five nodes, several clients with everything they can do, and every fault",
        mix::play,
    ),
    (
        "slice",
        "three real nodes and a client; the leader loses power in the middle of a put",
        slice::play,
    ),
    ("mix-http2", "mix over real HTTP/2 and simulated connections", mix::play_http2),
    (
        "layer",
        "three toy segment nodes under loss, partitions and crashes: proves the simulator itself",
        layer::play,
    ),
];

/// The scenarios and the stories.
pub fn all() -> impl Iterator<Item = &'static (&'static str, &'static str, Play)> {
    SCENARIOS.iter().chain(stories::STORIES)
}

/// The scenario of that name.
pub fn find(name: &str) -> Option<Play> {
    all().find(|row| row.0 == name).map(|row| row.2)
}

/// Whether the scenario goes by a [`plan::Plan`], which can be changed and masked.
pub fn has_plan(name: &str) -> bool {
    matches!(name, "mix" | "mix-http2")
}

/// What must have happened in each seed of a scenario for its passing to mean anything (S2).
const MINIMUMS_OF_ONE: [(&str, &str, u64); 3] = [
    ("mix", "client.finished", 50),
    ("mix", "client.commits", 5),
    ("mix", "faults.hit_an_operation", 10),
];

/// What must have happened so often in a hundred seeds of a scenario for their passing to mean
/// anything (S2).
const MINIMUMS: &[(&str, &str, u64)] = &[
    ("slice", "client.gets", 400),
    ("slice", "cluster.leader_crashes", 100),
    ("slice", "disk.jobs_cut", 50),
    ("mix", "checked.catalogues", 3_000),
    ("mix", "checked.checkpoints_restored", 400),
    ("mix", "checked.copies_refused", 20),
    ("mix", "checked.equal_digests", 5_000),
    ("mix", "checked.files_hashed", 20_000),
    ("mix", "checked.histories", 300),
    ("mix", "checked.listings", 50),
    ("mix", "checked.logs_after_crash", 300),
    ("mix", "checked.old_disks_refused", 5),
    ("mix", "checked.operations", 5_000),
    ("mix", "checked.reads", 1_500),
    ("mix", "checked.replicas", 200_000),
    ("mix", "checked.rotten_logs_refused", 2),
    ("mix", "checked.snapshots_after_crash", 100),
    ("mix", "checked.steps", 20_000),
    ("mix", "checked.stops_after_failed_sync", 10),
    ("mix", "checked.vanished_files", 1_000),
    ("mix", "client.deletes", 50),
    ("mix", "client.gets_resumed", 5),
    ("mix", "client.parts", 200),
    ("mix", "client.policies", 50),
    ("mix", "client.puts", 500),
    ("mix", "client.puts_again", 10),
    ("mix", "client.puts_against", 100),
    ("mix", "client.puts_resumed", 2),
    ("mix", "client.ranges", 25),
    ("mix", "client.segments_kept", 500),
    ("mix", "cluster.elections", 200),
    ("mix", "cluster.leader_crashes", 100),
    ("mix", "cluster.restarted_behind", 100),
    ("mix", "cluster.stopped_in_order", 20),
    ("mix", "cluster.zombies_ended", 2),
    ("mix", "core.left_out", 5),
    ("mix", "disk.crashes_with_unsynced", 200),
    ("mix", "disk.eio_names", 10),
    ("mix", "disk.eio_read", 10),
    ("mix", "disk.eio_sync", 10),
    ("mix", "disk.eio_write", 10),
    ("mix", "disk.enospc", 20),
    ("mix", "disk.jobs_cut", 80),
    ("mix", "disk.lost_names", 5),
    ("mix", "disk.misdirected_writes", 2),
    ("mix", "disk.torn_writes", 20),
    ("mix", "does.replace", 50),
    ("mix", "net.broken_streams", 50),
    ("mix", "net.lost_replies", 100),
    ("mix", "net.lost_requests", 100),
    ("mix", "net.met_cut", 2_000),
    ("mix", "operator.removed", 20),
    ("mix", "raft.truncations", 10),
    ("mix", "stage.met_open_upload", 50),
    ("mix", "stage.met_reaped", 20),
    ("mix", "stage.met_unreferenced", 100),
    ("mix", "wire.append_conflicts", 50),
    ("mix", "wire.commits_refused", 1),
    ("mix", "wire.get_failovers", 20),
    ("mix", "wire.replaced_targets", 5),
    ("mix", "wire.reports_stale_incarnation", 5),
    ("mix", "wire.reports_void_epoch", 100),
    ("mix", "wire.snapshots_installed", 10),
    ("mix-http2", "checked.checkpoints_restored", 400),
    ("mix-http2", "client.puts", 500),
    ("mix-http2", "cluster.leader_crashes", 150),
    ("mix-http2", "net.broken_connections", 100),
    ("mix-http2", "net.connections", 3_000),
    ("mix-http2", "net.met_cut", 5_000),
    ("mix-http2", "net.stalled_frames", 500),
];

/// Which of its minimums one seed has missed.
pub fn lacking_in_one<'a>(
    name: &'a str,
    counters: &'a Counters,
) -> impl Iterator<Item = String> + 'a {
    MINIMUMS_OF_ONE.iter().filter(move |row| row.0 == name).filter_map(|(_, counter, minimum)| {
        let got = counters.get(counter).copied().unwrap_or(0);
        (got < *minimum).then(|| format!("{counter} {got}, wants {minimum}"))
    })
}

/// Which minimums a sweep of so many seeds has missed.
pub fn lacking(name: &str, seeds: u64, counters: &Counters) -> Vec<String> {
    let happened = |kind: &plan::FaultKind| counters.contains_key(kind.counter());
    let kinds = plan::FaultKind::ALL.iter();
    // A few seeds may well lack a rare kind.
    let missing = kinds.filter(|kind| has_plan(name) && seeds >= 100 && !happened(kind));
    let missing = missing.map(|kind| format!("{} never happened", kind.counter()));
    let wanted = MINIMUMS.iter().filter(|row| row.0 == name);
    wanted
        .filter_map(|(_, counter, minimum)| {
            let (got, minimum) =
                (counters.get(counter).copied().unwrap_or(0), minimum * seeds / 100);
            (got < minimum).then(|| format!("{counter} {got}, wants {minimum}"))
        })
        .chain(missing)
        .collect()
}
