//! The timed work of openraft, done here: heartbeats, elections, and the end of a leadership that a
//! majority no longer confirms.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{AsyncRuntime, Instant as _, RaftMetrics};
use tokio::time::Instant;

use super::leadership::{Contact, Leadership, LeadershipBoard};
use super::machine::CatalogueMachine;
use super::peers::pace::Pace;
use super::peers::refusals::Refusals;
use super::peers::service::RaftOf;
use super::types::TypeConfig;
use crate::fatal::FatalHook;

/// The tick period: a quarter of the shortest wait that depends on it.
const TICK: Duration = Duration::from_millis(40);
/// After this many leases of silence, this node no longer reports that leader to callers.
const SILENT_LEASES: u32 = 2;

/// If a majority refuses a leader's entries for this long, the leader hands over. Its entries are
/// wrong, and a retry does not repair them. Another leader truncates those entries.
const REFUSED_MAX: Duration = Duration::from_secs(3);

/// This node's view of leadership at the time of the call.
pub(super) fn leadership<Rt: AsyncRuntime>(
    metrics: &RaftMetrics<TypeConfig<Rt>>,
    pace: &Pace,
) -> Leadership {
    let term = metrics.current_term;
    let lease = pace.timings().lease;
    if metrics.state.is_leader() {
        // A leader without an answer from a majority for a lease accepts no writes, and others may
        // lead already. So it reports that it does not lead.
        let leads = since_majority(metrics, pace).is_none_or(|age| age < lease);
        let leader = leads.then(|| (metrics.id, address_of(metrics, metrics.id)));
        return Leadership { term, leader, is_self: leads };
    }
    let is_heard = pace.silence() < lease * SILENT_LEASES;
    let leader = metrics.current_leader.filter(|leader| is_heard && *leader != metrics.id);
    let leader = leader.map(|leader| (leader, address_of(metrics, leader)));
    Leadership { term, leader, is_self: false }
}

/// How long this node has had no contact with the others.
pub(super) fn contact<Rt: AsyncRuntime>(
    metrics: &RaftMetrics<TypeConfig<Rt>>,
    pace: &Pace,
) -> Contact {
    if metrics.state.is_leader() {
        let silence = since_majority(metrics, pace).unwrap_or_default();
        return Contact { leads: true, silence, ever: true };
    }
    Contact { leads: false, silence: pace.silence(), ever: pace.has_heard() }
}

/// On a leader: time since a majority answered it, or since it began to lead. `None` if this node
/// is the majority by itself.
fn since_majority<Rt: AsyncRuntime>(
    metrics: &RaftMetrics<TypeConfig<Rt>>,
    pace: &Pace,
) -> Option<Duration> {
    let mut voters = metrics.membership_config.membership().voter_ids();
    if voters.all(|voter| voter == metrics.id) {
        return None;
    }
    let acked = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
    Some(acked.unwrap_or_else(|| pace.led_for(metrics.current_term)))
}

fn address_of<Rt: AsyncRuntime>(metrics: &RaftMetrics<TypeConfig<Rt>>, node: u64) -> String {
    let node = metrics.membership_config.get_node(&node);
    node.map(|node| node.addr.clone()).unwrap_or_default()
}

/// Follows openraft's metrics: announces leadership, and announces its end if openraft fails.
pub(super) async fn announce<Rt: AsyncRuntime, M: CatalogueMachine>(
    raft: RaftOf<Rt, M>,
    pace: Pace,
    board: LeadershipBoard,
    fatal: FatalHook,
) {
    let mut watched = raft.metrics();
    drop(raft);
    loop {
        let metrics = watched.borrow_watched().clone();
        match &metrics.running_state {
            Ok(()) => board.set(leadership(&metrics, &pace)),
            Err(Fatal::Stopped) => break,
            Err(error) => {
                fatal(format!("raft stopped: {error}"));
                break;
            }
        }
        if watched.changed().await.is_err() {
            break;
        }
    }
    board.close();
}

/// The voter to hand over to, if the leader has no majority without the members that refuse its
/// entries.
fn makes_way_for<Rt: AsyncRuntime>(
    metrics: &RaftMetrics<TypeConfig<Rt>>,
    refusals: &Refusals,
) -> Option<u64> {
    let refuses = |voter: &u64| refusals.refuses_entries(*voter, REFUSED_MAX);
    let configs = metrics.membership_config.get_joint_config();
    let lost = configs.iter().find(|voters| {
        let refusing = voters.iter().filter(|voter| refuses(voter)).count();
        (voters.len() - refusing) * 2 <= voters.len()
    })?;
    lost.iter().copied().find(refuses)
}

/// Heartbeats and elections, until openraft stops.
pub(super) async fn run<Rt: AsyncRuntime, M: CatalogueMachine>(
    raft: RaftOf<Rt, M>,
    pace: Pace,
    board: LeadershipBoard,
    refusals: Refusals,
) {
    let watched = raft.metrics();
    let mut beat = Instant::now();
    // The term in which this node last handed over for this reason.
    let mut made_way = 0;
    loop {
        tokio::time::sleep(TICK).await;
        let (leads, stands, way_for, term) = {
            let metrics = watched.borrow_watched();
            if metrics.running_state.is_err() {
                return;
            }
            board.set(leadership(&metrics, &pace));
            pace.set_voters(metrics.membership_config.membership().voter_ids());
            // A removed voter also starts elections until the removal is committed, because its
            // vote may be needed.
            let configs = [&metrics.membership_config, &metrics.committed_membership_config];
            let votes = configs
                .iter()
                .any(|config| config.membership().voter_ids().any(|voter| voter == metrics.id));
            let leads = metrics.state.is_leader();
            let way_for = leads.then(|| makes_way_for(&metrics, &refusals)).flatten();
            (leads, votes, way_for, metrics.current_term)
        };
        if !leads {
            refusals.forget_entries();
        }
        let done = if let Some(to) = way_for.filter(|_| made_way != term) {
            made_way = term;
            tracing::error!(term, "makes way: a majority refuses the entries of this node");
            raft.trigger().transfer_leader(to).await
        } else if leads && beat.elapsed() >= pace.timings().heartbeat {
            beat = Instant::now();
            raft.trigger().heartbeat().await
        } else if !leads && stands && pace.is_due() {
            pace.stood();
            raft.trigger().elect(true).await
        } else {
            Ok(())
        };
        if done.is_err() {
            return;
        }
    }
}
