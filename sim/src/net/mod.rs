//! The network between simulated processes: addresses, links, and their faults.
//!
//! ```text
//!   generated client -> Link --delay, loss, cut--> Routes, in a task of the target
//!        request body  --pump, a task of the caller--->
//!                     <---a task of the target, pump-- response body
//! ```
//!
//! A partition is checked when a message arrives. A message that is cut off or lost gets no answer.
//! After [`SimNet::set_silence`] the call fails with `Unavailable`, as with a connection's
//! keep-alive. A dead process at a reachable address refuses at once.
//!
//! With [`SimNet::speak_http2`] the same calls go over real HTTP/2 and a simulated connection.

mod body;
mod http2;
mod link;
mod pipe;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Dialer;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::service::Routes;

use crate::process::{Life, ProcessId};
use crate::seed::Stream;
use crate::trace;

/// The properties of a link in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkPolicy {
    /// One-way delay, in microseconds.
    pub delay_us: Range<u64>,
    /// Probability of a long delay of a message.
    pub spike: f64,
    pub spike_us: Range<u64>,
    /// Probability that a request or a reply is lost.
    pub loss: f64,
    /// Probability that a frame of a body breaks its call's connection.
    pub breaks: f64,
    /// Speed of bodies.
    pub bytes_per_s: u64,
}

impl Default for LinkPolicy {
    /// A quiet data centre.
    fn default() -> Self {
        Self {
            delay_us: 200..2_000,
            spike: 0.0,
            spike_us: 10_000..200_000,
            loss: 0.0,
            breaks: 0.0,
            bytes_per_s: 1_000_000_000,
        }
    }
}

impl LinkPolicy {
    /// A bad network: lost messages, long delays, broken connections.
    pub fn rough() -> Self {
        let delay_us = 500..20_000;
        Self { delay_us, spike: 0.01, loss: 0.02, breaks: 0.002, ..Self::default() }
    }
}

/// The network of one run. Cheap to clone. All clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

struct State {
    racks: BTreeMap<ProcessId, String>,
    /// The processes that own the addresses, alive or not.
    owners: BTreeMap<String, ProcessId>,
    /// The processes that answer there now.
    endpoints: BTreeMap<String, Endpoint>,
    policy: LinkPolicy,
    links: BTreeMap<(ProcessId, ProcessId), LinkPolicy>,
    cuts: BTreeSet<(ProcessId, ProcessId)>,
    silence: Duration,
    chance: Stream,
    chances: BTreeMap<(ProcessId, ProcessId), Stream>,
    calls: u64,
    http2: bool,
}

#[derive(Clone)]
struct Endpoint {
    life: Arc<Life>,
    routes: Routes,
}

/// Why a message did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Lost,
    Cut,
}

impl SimNet {
    pub(crate) fn new(chance: Stream) -> Self {
        let state = State {
            racks: BTreeMap::new(),
            owners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            policy: LinkPolicy::default(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            silence: Duration::from_secs(30),
            chance,
            chances: BTreeMap::new(),
            calls: 0,
            http2: false,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    /// Sets the address and rack of a process, running or not.
    pub(crate) fn place(&self, process: ProcessId, rack: &str, address: &str) {
        let mut state = self.state.lock();
        state.racks.insert(process, rack.to_owned());
        state.owners.insert(address.to_owned(), process);
    }

    /// Lets `routes` answer at `address` (`host:port`) as tasks of `life`, until it ends.
    pub fn serve(&self, life: &Arc<Life>, address: &str, routes: Routes) {
        if life.is_over() {
            return;
        }
        trace::event(&life.name, "serve", format_args!("{address}"));
        let mut state = self.state.lock();
        state.owners.insert(address.to_owned(), life.process);
        let endpoint = Endpoint { life: life.clone(), routes: routes.prepare() };
        state.endpoints.insert(address.to_owned(), endpoint);
    }

    /// The addresses of `process` no longer answer. They stay its own.
    pub(crate) fn silence_process(&self, process: ProcessId) {
        // Routes hold the process's objects, whose drops may call this network. So they are dropped
        // without the lock.
        let mut state = self.state.lock();
        let all = std::mem::take(&mut state.endpoints);
        let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(_, endpoint)| endpoint.life.process == process);
        state.endpoints = kept;
        drop(state);
        drop(gone);
    }

    /// The dialling seam of one life.
    pub fn dialer(&self, life: &Arc<Life>) -> Arc<dyn Dialer> {
        Arc::new(link::LinkDialer { net: self.clone(), from: life.clone() })
    }
}

/// What a scenario may do to the network.
impl SimNet {
    /// The policy of all links without their own policy.
    pub fn set_policy(&self, policy: LinkPolicy) {
        self.state.lock().policy = policy;
    }

    /// The policy of one direction of one link.
    pub fn set_link(&self, from: ProcessId, to: ProcessId, policy: LinkPolicy) {
        self.state.lock().links.insert((from, to), policy);
    }

    /// That direction has the common policy again.
    pub fn unset_link(&self, from: ProcessId, to: ProcessId) {
        self.state.lock().links.remove(&(from, to));
    }

    /// From now on transports are made over HTTP/2.
    pub fn speak_http2(&self) {
        self.state.lock().http2 = true;
    }

    fn speaks_http2(&self) -> bool {
        self.state.lock().http2
    }

    /// How long a call waits for a lost or cut-off message before `Unavailable`.
    pub fn set_silence(&self, silence: Duration) {
        self.state.lock().silence = silence;
    }

    /// Messages from `from` no longer reach `to`.
    pub fn cut(&self, from: ProcessId, to: ProcessId) {
        trace::event("net", "cut", format_args!("{from} -> {to}"));
        trace::count("net.cuts", 1);
        self.state.lock().cuts.insert((from, to));
        self.changed.notify_waiters();
    }

    /// Removes one cut.
    pub fn mend(&self, from: ProcessId, to: ProcessId) {
        trace::event("net", "mend", format_args!("{from} -> {to}"));
        self.state.lock().cuts.remove(&(from, to));
        self.changed.notify_waiters();
    }

    /// Cuts every link between `one` and `other` in both directions.
    pub fn partition(&self, one: &[ProcessId], other: &[ProcessId]) {
        for a in one {
            for b in other.iter().filter(|b| *b != a) {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    /// Cuts a process off from all others.
    pub fn isolate(&self, process: ProcessId) {
        let others: Vec<_> = self.state.lock().racks.keys().copied().collect();
        self.partition(&[process], &others);
    }

    /// Cuts a rack off from all other racks.
    pub fn cut_rack(&self, rack: &str) {
        let racks = self.state.lock().racks.clone();
        let (inside, outside): (Vec<_>, Vec<_>) = racks.iter().partition(|(_, it)| *it == rack);
        let ids = |side: Vec<(&ProcessId, &String)>| -> Vec<_> {
            side.into_iter().map(|(process, _)| *process).collect()
        };
        self.partition(&ids(inside), &ids(outside));
    }

    /// Removes all cuts and link policies.
    pub fn heal(&self) {
        trace::event("net", "heal", format_args!("all links"));
        let mut state = self.state.lock();
        state.cuts.clear();
        state.links.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn is_cut(&self, from: ProcessId, to: ProcessId) -> bool {
        self.state.lock().cuts.contains(&(from, to))
    }
}

impl State {
    fn draw<T>(
        &mut self,
        from: ProcessId,
        to: ProcessId,
        draw: impl FnOnce(&LinkPolicy, &mut Stream) -> T,
    ) -> T {
        let policy = self.links.get(&(from, to)).unwrap_or(&self.policy);
        let chance = (self.chances.entry((from, to)))
            .or_insert_with(|| self.chance.fork(&format!("{from}>{to}")));
        draw(policy, chance)
    }
}

/// Functions for links.
impl SimNet {
    fn next_call(&self) -> u64 {
        let mut state = self.state.lock();
        state.calls += 1;
        state.calls
    }

    fn owner(&self, address: &str) -> Option<ProcessId> {
        self.state.lock().owners.get(address).copied()
    }

    fn endpoint(&self, address: &str) -> Option<Endpoint> {
        self.state.lock().endpoints.get(address).cloned()
    }

    /// Delivers one message.
    async fn cross(&self, from: ProcessId, to: ProcessId) -> Result<(), Gone> {
        let (delay, lost) = self.state.lock().draw(from, to, |policy, chance| {
            let spike = chance.chance(policy.spike);
            let range = if spike { &policy.spike_us } else { &policy.delay_us };
            (chance.range(range.clone()), chance.chance(policy.loss))
        });
        tokio::time::sleep(Duration::from_micros(delay)).await;
        if self.is_cut(from, to) {
            trace::count("net.met_cut", 1);
            return Err(Gone::Cut);
        }
        if lost { Err(Gone::Lost) } else { Ok(()) }
    }

    /// Delivers one frame of a body at the link's speed. Returns false if the connection breaks.
    /// `debt_us` keeps the remainder below the clock's resolution.
    async fn carry(&self, from: ProcessId, to: ProcessId, len: usize, debt_us: &mut u64) -> bool {
        let (broken, pace_us) = self.state.lock().draw(from, to, |policy, chance| {
            let pace_us = len as u64 * 1_000_000 / policy.bytes_per_s.max(1);
            (chance.chance(policy.breaks), pace_us)
        });
        *debt_us += pace_us;
        if *debt_us >= 1_000 {
            tokio::time::sleep(Duration::from_micros(std::mem::take(debt_us))).await;
        }
        if broken {
            return false;
        }
        if !self.is_cut(from, to) {
            return true;
        }
        trace::count("net.stalled_frames", 1);
        let silence = self.state.lock().silence;
        tokio::time::timeout(silence, self.mended(from, to)).await.is_ok()
    }

    /// Resolves when `from` is no longer cut off from `to`.
    async fn mended(&self, from: ProcessId, to: ProcessId) {
        loop {
            let changed = self.changed.notified();
            if !self.is_cut(from, to) {
                return;
            }
            changed.await;
        }
    }

    async fn wait_in_silence(&self) {
        let silence = self.state.lock().silence;
        tokio::time::sleep(silence).await;
    }
}

#[cfg(test)]
mod tests;
