//! The distance of the other members, the time of the last contact, and the time at which this node
//! starts an election.
//!
//! ```text
//!   last message of the leader ---lease---+---0..spread---> this node starts a pre-vote
//!   vote given to a candidate ------------+---1..2 spread-> this node starts a pre-vote
//!   own attempt --------------------------+---1/2..3/2----> this node starts the next pre-vote
//! ```
//!
//! openraft's own timings are fixed when it starts, and its heartbeat interval is also the time
//! limit for the answer to a heartbeat. So openraft's timer is off. Its fixed values are chosen for
//! the slowest supported network. The actual timing follows the measured round trip and is kept
//! here and in `ticker.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Env;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::raft::config::RaftTimings;

/// The spread of elections in round trips. A candidate needs one for the pre-vote and one for the
/// vote. Both must end before the next node starts an election.
const SPREAD_ROUND_TRIPS: u32 = 4;
/// Time limit of a message with entries in round trips: request, answer, and twice that for a lost
/// packet that TCP sends again.
const APPEND_ROUND_TRIPS: u32 = 4;
/// Upper limit of the deadline of a message with entries, independent of measurements.
const APPEND_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Weight of a new measurement: 1/8, as in TCP.
const WEIGHT: u32 = 8;
/// A member that has answered nothing for this long is logged as silent.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// The age up to which a member's wall clock reading is used. Older readings are used only if too
/// few members sent a newer one.
const CLOCK_AGE_MAX: Duration = Duration::from_secs(10);

/// Measurements of one member.
#[derive(Debug, Default)]
struct Peer {
    /// Smoothed; zero before the first answer.
    round_trip: Duration,
    answered: Option<Instant>,
    /// Its wall clock at that moment, from its last answer to a call without a disk. The reading is
    /// kept with a monotonic time, because this node's wall clock may jump in between.
    wall: Option<(u64, Instant)>,
    silent_since: Option<Instant>,
    said_silent: bool,
}

#[derive(Debug)]
struct State {
    peers: BTreeMap<u64, Peer>,
    /// The voters of the membership in force.
    voters: BTreeSet<u64>,
    /// The last message of a leader that was accepted.
    heard: Option<Instant>,
    /// This node starts no election before this.
    quiet_until: Instant,
    /// The term this node leads or led last, and since when.
    leading: Option<(u64, Instant)>,
    /// The extra wait after that, drawn once for each silence.
    delay: Duration,
}

/// Cheap to clone. Clones share the measurements.
#[derive(Clone)]
pub(in crate::raft) struct Pace {
    env: Env,
    timings: RaftTimings,
    started: Instant,
    state: Arc<Mutex<State>>,
}

impl Pace {
    pub fn new(env: Env, timings: RaftTimings) -> Self {
        let started = Instant::now();
        let state = State {
            peers: BTreeMap::new(),
            voters: BTreeSet::new(),
            heard: None,
            quiet_until: started,
            leading: None,
            delay: Duration::ZERO,
        };
        let pace = Self { env, timings, started, state: Arc::new(Mutex::new(state)) };
        pace.state.lock().delay = pace.drawn(pace.timings.spread);
        pace
    }

    pub fn timings(&self) -> &RaftTimings {
        &self.timings
    }

    /// This node's wall clock, for its answers.
    pub fn wall_ms(&self) -> u64 {
        self.env.wall_ms()
    }

    /// A member answered a call that needs no disk, and sent its wall clock.
    pub fn measured(&self, peer: u64, round_trip: Duration, wall_ms: u64) {
        let mut state = self.state.lock();
        let peer = state.peers.entry(peer).or_default();
        peer.round_trip = match peer.answered {
            None => round_trip,
            Some(_) => (peer.round_trip * (WEIGHT - 1) + round_trip) / WEIGHT,
        };
        let now = Instant::now();
        peer.answered = Some(now);
        // The answer travelled for half of the round trip.
        peer.wall = Some((wall_ms.saturating_add(as_ms(round_trip / 2)), now));
    }

    /// A member answered.
    pub fn answered(&self, peer: u64) {
        let mut state = self.state.lock();
        let peer_state = state.peers.entry(peer).or_default();
        if peer_state.said_silent {
            let silent = peer_state.silent_since.map_or(Duration::ZERO, |since| since.elapsed());
            tracing::info!(peer, ?silent, "a raft member answers again");
        }
        (peer_state.silent_since, peer_state.said_silent) = (None, false);
    }

    /// A call to a member failed.
    pub fn silent(&self, peer: u64, why: &str) {
        let mut state = self.state.lock();
        let peer_state = state.peers.entry(peer).or_default();
        let since = *peer_state.silent_since.get_or_insert_with(Instant::now);
        if !peer_state.said_silent && since.elapsed() >= SILENT_AFTER {
            peer_state.said_silent = true;
            tracing::warn!(peer, why, "a raft member does not answer");
        }
    }

    pub fn set_voters(&self, voters: impl Iterator<Item = u64>) {
        let mut state = self.state.lock();
        state.voters.clear();
        state.voters.extend(voters);
    }

    /// How far the wall clock of each other voter is ahead of this node's clock, by recent
    /// readings. If these voters and this node are not a majority, older readings count too: a
    /// leader that was paused has no recent contact, and its own clock may have jumped meanwhile.
    pub fn clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        let voters = self.state.lock().voters.clone();
        let of_voters = |age_max| {
            let mut clocks = self.clocks_heard_within(age_max);
            clocks.retain(|peer, _| voters.contains(peer));
            clocks
        };
        let lately = of_voters(CLOCK_AGE_MAX);
        let is_majority = (lately.len() + 1) * 2 > voters.len();
        if is_majority { lately } else { of_voters(Duration::MAX) }
    }

    /// The same for all members, by recent readings only.
    pub fn member_clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.clocks_heard_within(CLOCK_AGE_MAX)
    }

    fn clocks_heard_within(&self, age_max: Duration) -> BTreeMap<u64, i64> {
        let own_ms = self.env.wall_ms();
        let state = self.state.lock();
        let ahead = |(peer, state): (&u64, &Peer)| {
            let (wall_ms, at) = state.wall?;
            let age = at.elapsed();
            let peers_ms = wall_ms.saturating_add(as_ms(age));
            (age < age_max).then(|| (*peer, ahead_ms(peers_ms, own_ms)))
        };
        state.peers.iter().filter_map(ahead).collect()
    }

    /// How long this node has led in `term`, counted from the first call of this function in that
    /// term.
    pub fn led_for(&self, term: u64) -> Duration {
        let mut state = self.state.lock();
        match state.leading {
            Some((leading, since)) if leading == term => since.elapsed(),
            _ => {
                state.leading = Some((term, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// A message of the leader of the newest term arrived.
    pub fn leader_spoke(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.heard = Some(now);
        state.quiet_until = now + self.timings.lease;
    }

    /// This node gave its vote. The candidate gets time to win.
    pub fn voted(&self) {
        let spread = self.spread();
        let delay = spread + self.drawn(spread);
        let mut state = self.state.lock();
        (state.quiet_until, state.delay) = (Instant::now(), delay);
    }

    /// This node starts an election now.
    pub fn stood(&self) {
        let spread = self.spread();
        let delay = spread / 2 + self.drawn(spread);
        let mut state = self.state.lock();
        (state.quiet_until, state.delay) = (Instant::now(), delay);
    }

    /// No leader was heard for so long that this node starts an election.
    pub fn is_due(&self) -> bool {
        let state = self.state.lock();
        Instant::now() >= state.quiet_until + state.delay
    }

    /// Time since a message of a leader, or since the start if there was none yet.
    pub fn silence(&self) -> Duration {
        self.state.lock().heard.unwrap_or(self.started).elapsed()
    }

    pub fn has_heard(&self) -> bool {
        self.state.lock().heard.is_some()
    }

    /// Elections are spread over this time. If several nodes miss the leader, one then wins before
    /// the next one starts an election.
    fn spread(&self) -> Duration {
        let measured = self.median_round_trip().saturating_mul(SPREAD_ROUND_TRIPS);
        measured.clamp(self.timings.spread, self.timings.spread.max(self.timings.spread_max))
    }

    /// The median of the members that answered. One far member does not slow the election of the
    /// others.
    fn median_round_trip(&self) -> Duration {
        let state = self.state.lock();
        let answered = state.peers.values().filter(|peer| peer.answered.is_some());
        let mut all: Vec<Duration> = answered.map(|peer| peer.round_trip).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    /// Time limit for a message with entries. The receiver answers after its disk has stored them.
    pub fn append_timeout(&self, peer: u64) -> Duration {
        let round_trip =
            self.state.lock().peers.get(&peer).map_or(Duration::ZERO, |peer| peer.round_trip);
        let usual = self.timings.append_timeout;
        (usual + round_trip * APPEND_ROUND_TRIPS).min(APPEND_TIMEOUT_MAX.max(usual))
    }

    /// A random time, uniform from zero to `most`.
    fn drawn(&self, most: Duration) -> Duration {
        let most_us = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.env.random_u64() % most_us.max(1))
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ahead_ms(clock_ms: u64, of_ms: u64) -> i64 {
    let ahead = i128::from(clock_ms) - i128::from(of_ms);
    i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::raft::testing::{test_env, test_env_at};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn node_stands_only_after_the_lease_of_the_leader_it_heard() {
        let pace = Pace::new(test_env(), RaftTimings::default());
        let lease = pace.timings().lease;
        for _ in 0..50 {
            pace.leader_spoke();
            tokio::time::advance(ms(600)).await;
            assert!(!pace.is_due());
        }
        pace.leader_spoke();
        tokio::time::advance(lease - ms(1)).await;
        assert!(!pace.is_due());
        tokio::time::advance(pace.timings().spread + ms(1)).await;
        assert!(pace.is_due());
        pace.stood();
        assert!(!pace.is_due(), "the attempt gets its time");
        tokio::time::advance(pace.timings().spread * 2).await;
        assert!(pace.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn pace_follows_the_measured_round_trip_within_bounds() {
        let pace = Pace::new(test_env(), RaftTimings::default());
        let quick = (pace.spread(), pace.append_timeout(2));
        for _ in 0..40 {
            pace.measured(2, ms(400), 0);
            pace.measured(3, ms(450), 0);
        }
        assert!(pace.spread() > quick.0 && pace.append_timeout(2) > quick.1);
        for _ in 0..40 {
            pace.measured(2, Duration::from_secs(60), 0);
            pace.measured(3, Duration::from_secs(60), 0);
        }
        assert_eq!(pace.spread(), pace.timings().spread_max);
        assert_eq!(pace.append_timeout(2), APPEND_TIMEOUT_MAX);
        for _ in 0..100 {
            pace.measured(2, ms(1), 0);
            pace.measured(3, ms(1), 0);
        }
        assert_eq!(pace.spread(), quick.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_own_clock_shows_before_the_next_answer() {
        let env = Arc::new(AtomicU64::new(1_000_000));
        let pace = Pace::new(test_env_at(&env), RaftTimings::default());
        pace.set_voters([1, 2, 3].into_iter());
        pace.measured(2, ms(20), 1_000_000);
        pace.measured(3, ms(20), 1_000_500);
        pace.measured(4, ms(20), 1_000_000);
        assert_eq!(pace.clocks_ahead_ms(), BTreeMap::from([(2, 10), (3, 510)]));
        assert_eq!(pace.member_clocks_ahead_ms().len(), 3);
        env.fetch_add(3_600_000, Relaxed);
        assert_eq!(
            pace.clocks_ahead_ms(),
            BTreeMap::from([(2, 10 - 3_600_000), (3, 510 - 3_600_000)])
        );
        // This node alone is no majority of three. So the last readings of the others count at any
        // age.
        tokio::time::advance(CLOCK_AGE_MAX * 6).await;
        env.fetch_add(60_000, Relaxed);
        assert_eq!(
            pace.clocks_ahead_ms(),
            BTreeMap::from([(2, 10 - 3_600_000), (3, 510 - 3_600_000)])
        );
        assert!(pace.member_clocks_ahead_ms().is_empty());
        pace.measured(2, ms(0), 4_660_000);
        assert_eq!(pace.clocks_ahead_ms(), BTreeMap::from([(2, 0)]), "two of three are one");
    }
}
