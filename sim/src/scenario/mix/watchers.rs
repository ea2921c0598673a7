//! Processes that watch what happens, at any node, and go on with their cursor at another one: after
//! a node died, and now and then without a reason. The checker of C5 judges what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_client::stream::StreamExt;
use cairn_client::{Client, ClientError, Refusal, WatchOptions, Watched};
use cairn_types::event::Happened;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::clients::AGAINST;
use crate::checkers::c5_watch::{Follower, Watches};
use crate::cluster;
use crate::seed::Stream;
use crate::trace;
use crate::world::{ProcessParts, World};

/// Of each run.
const WATCHERS: u64 = 2;
/// A watcher takes so many answers of one stream, and then begins another one.
const ANSWERS: std::ops::Range<u64> = 1..25;
/// So many watchers ask one node alone.
const ONE_NODE: f64 = 0.5;
/// A watcher that was told nothing looks whether the run goes on.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between two streams, at the usual pace.
const PAUSE_MS: u64 = 2_000;
/// What a node says to a cursor that is not of its cluster's past.
const AHEAD: &str = "is ahead of this cluster";

/// One watcher. Its cursor outlives its streams.
pub struct Watcher {
    pub name: String,
    pub rack: String,
    watches: Watches,
    state: Mutex<State>,
    /// Nothing more is watched.
    ends: AtomicBool,
}

struct State {
    chance: Stream,
    follower: Follower,
    /// A broken promise was reported. Nothing more is judged.
    broken: bool,
}

impl Watcher {
    pub fn all(world: &World, watches: &Watches) -> Vec<Arc<Self>> {
        (1..=WATCHERS).map(|number| Self::new(world, watches, number)).collect()
    }

    fn new(world: &World, watches: &Watches, number: u64) -> Arc<Self> {
        let name = format!("w{number}");
        let mut chance = world.stream(&name);
        let prefixes = ["run", "run/c1", AGAINST];
        let prefix = chance.pick(&prefixes).filter(|_| number > 1);
        let prefix = prefix.and_then(|prefix| prefix.parse().ok());
        let rack = format!("r{}", chance.range(1..4));
        let state = State { chance, follower: Follower::new(prefix), broken: false };
        let (watches, state, ends) = (watches.clone(), Mutex::new(state), AtomicBool::new(false));
        Arc::new(Self { name, rack, watches, state, ends })
    }

    /// Why it does not know all up to an entry, if it does not.
    pub fn behind(&self, world: &World, index: u64) -> Option<String> {
        let mut state = self.state.lock();
        if state.broken {
            return None;
        }
        match state.follower.has_reached(index, &self.watches) {
            Ok(true) => None,
            Ok(false) => {
                let cursor = state.follower.cursor();
                Some(format!("watcher {} is at {cursor:?}, not at entry {index}", self.name))
            }
            Err(text) => {
                state.broken = true;
                world.violation("C5", format!("watcher {}: {text}", self.name));
                None
            }
        }
    }

    /// It watches no more, and its stream ends.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// The life of a watcher's process.
pub async fn run(parts: ProcessParts, watcher: Arc<Watcher>, shared: Arc<Shared>) {
    while !watcher.ends.load(Ordering::Relaxed) {
        let (addresses, answers, pause_ms) = {
            let chance = &mut watcher.state.lock().chance;
            let one = chance.pick(&shared.addresses).cloned();
            let one = one.filter(|_| chance.chance(ONE_NODE));
            let addresses = one.map_or_else(|| shared.addresses.clone(), |one| vec![one]);
            (addresses, chance.range(ANSWERS), chance.below(PAUSE_MS * shared.plan.pace))
        };
        // Once nothing goes wrong, any node, and without an end.
        let is_calm = shared.is_calm();
        let addresses = if is_calm { &shared.addresses } else { &addresses };
        let answers = if is_calm { u64::MAX } else { answers };
        watcher.watch(&parts, cluster::sdk(&parts, addresses), answers).await;
        sleep(Duration::from_millis(pause_ms)).await;
    }
    std::future::pending::<()>().await;
}

fn counter(what: &Happened) -> &'static str {
    match what {
        Happened::Committed { .. } => "watch.committed",
        Happened::Deleted { .. } => "watch.deleted",
        Happened::Undeleted { .. } => "watch.undeleted",
        Happened::Quarantined { .. } => "watch.quarantined",
        Happened::Released { .. } => "watch.released",
        Happened::Full { .. } => "watch.full",
        Happened::RefMoved { .. } => "watch.ref_moved",
    }
}

impl Watcher {
    /// Watches until so many answers have come, or the stream ends.
    async fn watch(&self, parts: &ProcessParts, sdk: Client, answers: u64) {
        let options = {
            let state = self.state.lock();
            WatchOptions { prefix: state.follower.prefix(), from: state.follower.cursor() }
        };
        trace::event(&self.name, "watches", format_args!("from {:?}", options.from));
        trace::count("watch.resumed", options.from.is_some().into());
        let mut stream = sdk.watch(options);
        let mut left = answers;
        while left > 0 && !self.ends.load(Ordering::Relaxed) {
            match timeout(LOOK, stream.next()).await {
                Ok(Some(Ok(told))) => {
                    left -= 1;
                    self.take(parts, told);
                }
                Ok(Some(Err(error))) => return self.failed(parts, &error),
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    fn take(&self, parts: &ProcessParts, told: Watched) {
        trace::event(&self.name, "hears", format_args!("{told:?}"));
        if let Watched::Event(event) = &told {
            trace::count("watch.events", 1);
            trace::count(counter(&event.what), 1);
        }
        let mut state = self.state.lock();
        if state.broken {
            return;
        }
        if let Err(text) = state.follower.take(told, &self.watches) {
            state.broken = true;
            parts.violation("C5", format!("watcher {}: {text}", self.name));
        }
    }

    fn failed(&self, parts: &ProcessParts, error: &ClientError) {
        trace::event(&self.name, "failed", format_args!("watch: {error}"));
        match error {
            ClientError::Refused(Refusal::CursorTooOld { .. }) => {
                trace::count("watch.too_old", 1);
                self.state.lock().follower.forget();
            }
            error if error.to_string().contains(AHEAD) => {
                parts.violation("C5", format!("watcher {}: {error}", self.name));
            }
            _ => {}
        }
    }
}
