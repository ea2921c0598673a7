//! Scenarios by name. A scenario plays in a [`World`], switches faults on and off, and reports
//! broken promises to it.

pub mod layer;
pub mod mix;
pub mod plan;
pub mod stories;

use futures::future::BoxFuture;

use crate::trace::Counters;

use crate::world::World;

/// Plays one scenario.
pub type Play = fn(World) -> BoxFuture<'static, ()>;

/// All scenarios that are not stories: name, description, and how to play. The first is the
/// default.
pub const SCENARIOS: [(&str, &str, Play); 3] = [
    (
        "mix",
        "three to five nodes, several clients with everything they can do, and every fault",
        mix::play,
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

/// Whether the scenario has a [`plan::Plan`], which can be changed and masked.
pub fn has_plan(name: &str) -> bool {
    matches!(name, "mix" | "mix-http2")
}

/// Events that must happen in each seed of a scenario. Without them its passing means nothing (S2).
const IN_EACH: [(&str, &str, u64); 3] = [
    ("mix", "client.finished", 25),
    ("mix", "client.commits", 5),
    ("mix", "faults.hit_an_operation", 10),
];

/// Number of seeds of a sweep in which all of [`OFTEN`] happens.
pub const SEEDS_TO_COUNT: u64 = 10;
/// Number of seeds in which each fault and each move of a plan happens, and all of [`SELDOM`].
const SEEDS_FOR_ALL: u64 = 100;

/// Events that must happen in [`SEEDS_TO_COUNT`] seeds.
const OFTEN: &[(&str, &str)] = &[
    ("mix", "checked.catalogues"),
    ("mix", "checked.checkpoints_restored"),
    ("mix", "checked.equal_digests"),
    ("mix", "checked.events"),
    ("mix", "checked.files_hashed"),
    ("mix", "checked.graces"),
    ("mix", "checked.histories"),
    ("mix", "checked.labels"),
    ("mix", "checked.logs_after_crash"),
    ("mix", "checked.operations"),
    ("mix", "checked.rooms"),
    ("mix", "checked.reads"),
    ("mix", "checked.replicas"),
    ("mix", "checked.snapshots_after_crash"),
    ("mix", "checked.seams"),
    ("mix", "checked.steps"),
    ("mix", "checked.vanished_files"),
    ("mix", "checked.views"),
    ("mix", "client.parts"),
    ("mix", "client.puts"),
    ("mix", "client.puts_against"),
    ("mix", "client.rules"),
    ("mix", "client.segments_kept"),
    ("mix", "client.undeleted"),
    ("mix", "cluster.elections"),
    ("mix", "cluster.leader_crashes"),
    ("mix", "cluster.restarted_behind"),
    ("mix", "disk.crashes_with_unsynced"),
    ("mix", "net.lost_replies"),
    ("mix", "net.lost_requests"),
    ("mix", "net.met_cut"),
    ("mix", "retention.deleted"),
    ("mix", "stage.met_unreferenced"),
    ("mix", "undelete.restored"),
    ("mix", "watch.events"),
    ("mix", "watch.resumed"),
    ("mix-http2", "checked.checkpoints_restored"),
    ("mix-http2", "client.puts"),
    ("mix-http2", "cluster.leader_crashes"),
    ("mix-http2", "net.broken_connections"),
    ("mix-http2", "net.connections"),
    ("mix-http2", "net.met_cut"),
    ("mix-http2", "net.stalled_frames"),
];

/// Events that must happen in [`SEEDS_FOR_ALL`] seeds.
const SELDOM: &[(&str, &str)] = &[
    ("mix", "checked.answers_again"),
    ("mix", "checked.kept"),
    ("mix", "client.confirmations"),
    ("mix", "client.undeleted_of_retention"),
    ("mix", "client.undeletes_refused"),
    ("mix", "checked.lanes"),
    ("mix", "checked.latest"),
    ("mix", "checked.let_go"),
    ("mix", "checked.ref_histories"),
    ("mix", "checked.refs"),
    ("mix", "checked.copies_refused"),
    ("mix", "checked.leases"),
    ("mix", "checked.refused_by_level"),
    ("mix", "checked.listings"),
    ("mix", "checked.old_disks_refused"),
    ("mix", "checked.rotten_logs_refused"),
    ("mix", "checked.stops_after_failed_sync"),
    ("mix", "client.deletes"),
    ("mix", "client.crowds"),
    ("mix", "client.gets_into_others"),
    ("mix", "client.gets_of_quarantined"),
    ("mix", "client.gets_resumed"),
    ("mix", "client.holds"),
    ("mix", "client.holds_ended"),
    ("mix", "client.large"),
    ("mix", "client.notes"),
    ("mix", "client.notes_refused"),
    ("mix", "client.policies"),
    ("mix", "client.puts_again"),
    ("mix", "client.puts_kept_out"),
    ("mix", "client.puts_resumed"),
    ("mix", "client.quarantines"),
    ("mix", "client.quarantines_lifted"),
    ("mix", "client.refs_moved"),
    ("mix", "client.refs_not_moved"),
    ("mix", "client.rollbacks"),
    ("mix", "client.ranges"),
    ("mix", "client.taken_over"),
    ("mix", "cluster.stopped_in_order"),
    ("mix", "cluster.zombies_ended"),
    ("mix", "core.left_out"),
    ("mix", "disk.eio_names"),
    ("mix", "disk.eio_read"),
    ("mix", "disk.eio_sync"),
    ("mix", "disk.eio_write"),
    ("mix", "disk.enospc"),
    ("mix", "disk.jobs_cut"),
    ("mix", "disk.lost_names"),
    ("mix", "disk.misdirected_writes"),
    ("mix", "disk.torn_writes"),
    ("mix", "does.replace"),
    ("mix", "net.broken_streams"),
    ("mix", "operator.removed"),
    ("mix", "operator.upgraded"),
    ("mix", "raft.appliers"),
    ("mix", "raft.truncations"),
    ("mix", "stage.met_open_upload"),
    ("mix", "stage.met_reaped"),
    ("mix", "watch.committed"),
    ("mix", "watch.deleted"),
    ("mix", "watch.full"),
    ("mix", "watch.quarantined"),
    ("mix", "watch.ref_moved"),
    ("mix", "watch.released"),
    ("mix", "watch.too_old"),
    ("mix", "watch.undeleted"),
    ("mix", "wire.append_conflicts"),
    ("mix", "wire.commits_refused"),
    ("mix", "wire.get_failovers"),
    ("mix", "wire.replaced_targets"),
    ("mix", "wire.reports_stale_incarnation"),
    ("mix", "wire.reports_void_epoch"),
    ("mix", "wire.snapshots_in_pieces"),
    ("mix", "wire.snapshots_installed"),
];

/// The required events that one seed lacks.
pub fn lacking_in_one<'a>(
    name: &'a str,
    counters: &'a Counters,
) -> impl Iterator<Item = String> + 'a {
    IN_EACH.iter().filter(move |row| row.0 == name).filter_map(|(_, counter, minimum)| {
        let got = counters.get(counter).copied().unwrap_or(0);
        (got < *minimum).then(|| format!("{counter} {got}, wants {minimum}"))
    })
}

/// The events that should have happened in a sweep of this many seeds but did not.
pub fn lacking(name: &str, seeds: u64, counters: &Counters) -> Vec<String> {
    let listed = |list: &'static [(&str, &str)], of: u64| {
        list.iter().filter(move |row| row.0 == name && seeds >= of).map(|row| row.1)
    };
    let kinds = plan::FaultKind::ALL.iter().map(|kind| kind.counter());
    let kinds = kinds.chain(plan::MoveKind::ALL.iter().map(|kind| kind.counter()));
    kinds
        .filter(|_| has_plan(name) && seeds >= SEEDS_FOR_ALL)
        .chain(listed(OFTEN, SEEDS_TO_COUNT))
        .chain(listed(SELDOM, SEEDS_FOR_ALL))
        .filter(|counter| counters.get(counter).is_none_or(|count| *count == 0))
        .map(|counter| format!("{counter} never happened"))
        .collect()
}
