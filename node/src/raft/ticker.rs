//! What openraft does by time, done here: heartbeats, elections, and the end of a leadership that
//! no majority confirms any more.

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

/// How often time is looked at: a quarter of the shortest wait that hangs on it.
const TICK: Duration = Duration::from_millis(40);
/// A leader that is silent for this many leases is no leader any more to those that ask.
const SILENT_LEASES: u32 = 2;

/// A leader whose entries a majority refuses for so long makes way: what it holds is wrong, and no
/// retry mends that. Another leader cuts those entries off.
const REFUSED_MAX: Duration = Duration::from_secs(3);

/// What this node knows of leadership, at the moment it is asked.
pub(super) fn leadership<Rt: AsyncRuntime>(
    metrics: &RaftMetrics<TypeConfig<Rt>>,
    pace: &Pace,
) -> Leadership {
    let term = metrics.current_term;
    let lease = pace.timings().lease;
    if metrics.state.is_leader() {
        // A leader that no majority has answered for a lease takes no writes, and others may
        // lead already: it says that it does not.
        let leads = since_majority(metrics, pace).is_none_or(|age| age < lease);
        let leader = leads.then(|| (metrics.id, address_of(metrics, metrics.id)));
        return Leadership { term, leader, is_self: leads };
    }
    let is_heard = pace.silence() < lease * SILENT_LEASES;
    let leader = metrics.current_leader.filter(|leader| is_heard && *leader != metrics.id);
    let leader = leader.map(|leader| (leader, address_of(metrics, leader)));
    Leadership { term, leader, is_self: false }
}

/// Since when this node is without the others.
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

/// On a leader: since a majority answered it, or since it began to lead. `None` where it is the
/// majority.
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

/// Follows openraft's metrics: announces leadership, and its end if it fails.
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

/// The voter that a leader makes way for, if without those that refuse its entries it has no
/// majority.
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
    // The term in which this node made way.
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
            // A removed voter stands as well until the removal is committed: it may be needed.
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
