//! `core` alone with a hand-written scheduler: the pure catalogue, steward, placement and work of
//! `cairn-core`, without a runtime, a disk or a network.
//!
//! ```text
//!   client --Mail--> leader --queue--> log --apply--> model (every entry, every promise)
//!   node   --Mail-->  (drops, twice, late)     \----> replica of every node (digest compared)
//!     ^------------------ Mail (bytes, answers, heartbeats) --------'
//! ```
//!
//! In each step the seed picks one possible event: a letter arrives, an entry commits, a replica
//! applies one, a node or a client acts, time passes, or a fault happens. Consensus is a list: when
//! a leader is replaced, its queue survives up to a random entry, and the rest is lost. Everything
//! else is the product's code.
//!
//! | module | owns |
//! |---|---|
//! | this one | one run: its parts, its letters, the first broken promise |
//! | `consensus` | leaders, proposals, the log, replicas and snapshots |
//! | `model` | the promises, checked after every entry |
//! | `machine` | the actions of a node: register, inventory, report, fetch, destroy |
//! | `client` | uploads, deletions, retries with old and new request ids |
//! | `faults` | crashes, lost disks, damaged files, and their limits |
//! | `calm` | the end: faults stop and everything must converge (L1, L2) |
//! | `verb` | the command line |

mod calm;
mod client;
mod consensus;
mod faults;
mod machine;
mod model;
pub mod verb;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_core::work::Fetch;
use cairn_types::command::{Body, Reply};
use cairn_types::ids::{Epoch, Incarnation, NodeId, RequestId, SegmentDigest, SegmentId};
use cairn_types::model::Settings;

use crate::seed::Stream;
use crate::trace::Counters;
use crate::world::Violation;

use self::client::Client;
use self::consensus::Consensus;
use self::faults::Loss;
use self::machine::Machine;
use self::model::Model;

/// Events kept for the report of a failure.
const EVENTS_MAX: usize = 40;
/// Letters on the way. If there is one more, the oldest is lost.
const MAIL_MAX: usize = 150;
/// Probability of a long delay, and the largest number of letters with one.
const LATE: f64 = 0.03;
const LATE_MAX: usize = 60;
/// Numbers of nodes and clients of a run, as ranges without their end.
const MACHINES: std::ops::Range<u64> = 4..7;
const CLIENTS: std::ops::Range<u64> = 2..5;
const RACKS: [&str; 3] = ["a", "b", "c"];

/// The result of one seed.
#[derive(Debug)]
pub struct Outcome {
    pub steps: u64,
    pub entries: u64,
    /// The run ends with the first violation.
    pub violation: Option<Violation>,
    pub counters: Counters,
    /// The last events, if they were requested.
    pub events: VecDeque<String>,
    /// The digest of the catalogue after the log's last entry.
    pub digest: [u8; 32],
}

/// Plays one seed: `steps` steps with all events, then calm. `traced` keeps the last events.
pub fn play(seed: u64, steps: u64, traced: bool) -> Outcome {
    let mut mind = Mind::new(seed, traced);
    let violation = mind.run(steps).err().map(|broken| broken.0);
    Outcome {
        steps: mind.steps,
        entries: mind.model.index,
        violation,
        counters: mind.counters,
        events: mind.events,
        digest: mind.model.catalogue.digest(),
    }
}

/// A broken promise. It ends the run.
#[derive(Debug)]
struct Broken(Violation);

type Kept = Result<(), Broken>;

fn broken(invariant: &str, text: impl Into<String>) -> Broken {
    Broken(Violation { invariant: invariant.to_owned(), text: text.into() })
}

/// A text of `cairn_core::invariants`, which begins with the invariant's name.
fn named(text: &str) -> Broken {
    let (invariant, text) = text.split_once(": ").unwrap_or(("C2", text));
    broken(invariant, text)
}

/// Cluster times short enough to end within a run.
fn settings() -> Settings {
    Settings { lease_ms: 4_000, grace_ms: 3_000, down_after_ms: 1_000, replace_after_ms: 2_000 }
}

/// The sender that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// A client and the number of its request.
    Client(usize, u64),
    /// A node's machine, its life, and the number of its request.
    Machine(usize, u64, u64),
    Nobody,
}

#[derive(Debug, Clone)]
enum Mail {
    Propose { from: Sender, request: RequestId, body: Box<Body> },
    Answer { to: Sender, reply: Reply },
    Bytes { machine: usize, client: usize, segment: SegmentId, digest: SegmentDigest, epoch: Epoch },
    Stored { client: usize, node: NodeId, digest: SegmentDigest },
    Beat { node: NodeId, incarnation: Incarnation },
    Fetched { machine: usize, life: u64, fetch: Fetch },
}

/// One run.
struct Mind {
    chance: Stream,
    now_ms: u64,
    steps: u64,
    consensus: Consensus,
    model: Model,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    mail: VecDeque<Mail>,
    /// Letters with a long delay.
    late: VecDeque<Mail>,
    /// Probability that a letter is lost, and probability that it arrives twice.
    lossy: f64,
    twice: f64,
    /// The damage that is not repaired yet.
    loss: Option<Loss>,
    /// Nodes whose disk is gone. The operator has to remove them.
    gone: BTreeSet<NodeId>,
    /// All contents ever sealed: by namespace, step, attempt and part, with their set digest.
    contents: BTreeMap<client::PartName, BTreeMap<[u8; 32], BTreeSet<SegmentDigest>>>,
    minted: u64,
    counters: Counters,
    traced: bool,
    events: VecDeque<String>,
}

impl Mind {
    fn new(seed: u64, traced: bool) -> Self {
        let mut chance = Stream::new(seed).fork("mind");
        let count = chance.range(MACHINES) as usize;
        let machines = (0..count).map(|at| Machine::new(at, RACKS[at % RACKS.len()])).collect();
        let clients = (0..chance.range(CLIENTS)).map(|_| Client::default()).collect();
        let (lossy, twice) = (chance.unit() * 0.15, chance.unit() * 0.15);
        Self {
            chance,
            now_ms: 0,
            steps: 0,
            consensus: Consensus::default(),
            model: Model::default(),
            machines,
            clients,
            mail: VecDeque::new(),
            late: VecDeque::new(),
            lossy,
            twice,
            loss: None,
            gone: BTreeSet::new(),
            contents: BTreeMap::new(),
            minted: 0,
            counters: Counters::new(),
            traced,
            events: VecDeque::new(),
        }
    }

    fn run(&mut self, steps: u64) -> Kept {
        self.found()?;
        while self.steps < steps {
            self.steps += 1;
            self.step()?;
        }
        self.calm()
    }

    /// Does one possible event.
    fn step(&mut self) -> Kept {
        match self.chance.below(1_000) {
            0..330 => self.some_times(Self::deliver_any),
            330..480 => self.some_times(Self::commit_next),
            480..620 => {
                let machine = self.any_machine();
                self.apply_some(machine)
            }
            620..820 => {
                let machine = self.any_machine();
                self.act_machine(machine)
            }
            820..930 => {
                let client = self.chance.below(self.clients.len() as u64) as usize;
                self.act_client(client);
                Ok(())
            }
            930..955 => {
                self.lead();
                Ok(())
            }
            955..986 => {
                self.now_ms += self.chance.range(1..30);
                Ok(())
            }
            986..994 => self.something_breaks(),
            994..998 => self.deliver_late(),
            _ => {
                // Sometimes long enough for leases and graces to end.
                let long = self.chance.chance(0.2);
                self.now_ms += if long { self.chance.range(500..6_000) } else { 0 };
                Ok(())
            }
        }
    }

    fn some_times(&mut self, act: fn(&mut Self) -> Kept) -> Kept {
        (0..self.chance.range(1..4)).try_for_each(|_| act(self))
    }

    fn any_machine(&mut self) -> usize {
        self.chance.below(self.machines.len() as u64) as usize
    }

    /// Letters on their way arrive in any order, once, twice or never.
    fn deliver_any(&mut self) -> Kept {
        let at = self.chance.below(self.mail.len() as u64) as usize;
        // Early letters are slightly more likely, so that most requests get an answer in time.
        let at = at.min(self.chance.below(self.mail.len() as u64) as usize);
        let Some(letter) = self.mail.remove(at) else { return Ok(()) };
        if self.chance.chance(self.lossy) {
            self.count("letters.lost");
            return Ok(());
        }
        if self.chance.chance(self.twice) {
            self.count("letters.twice");
            self.mail.push_back(letter.clone());
        }
        if self.chance.chance(LATE) && self.late.len() < LATE_MAX {
            self.late.push_back(letter);
            return Ok(());
        }
        self.deliver(letter)
    }

    /// Delivers a letter from a much earlier state of the cluster.
    fn deliver_late(&mut self) -> Kept {
        let at = self.chance.below(self.late.len() as u64) as usize;
        let Some(letter) = self.late.remove(at) else { return Ok(()) };
        self.count("letters.late");
        self.deliver(letter)
    }

    fn deliver(&mut self, letter: Mail) -> Kept {
        match letter {
            Mail::Propose { from, request, body } => self.propose(from, request, *body),
            Mail::Answer { to: Sender::Client(client, tag), reply } => {
                self.answer_client(client, tag, reply);
            }
            Mail::Answer { to: Sender::Machine(machine, life, tag), reply } => {
                return self.answer_machine(machine, life, tag, reply);
            }
            Mail::Answer { to: Sender::Nobody, .. } => {}
            Mail::Bytes { machine, client, segment, digest, epoch } => {
                self.receive(machine, client, segment, digest, epoch);
            }
            Mail::Stored { client, node, digest } => self.stored(client, node, digest),
            Mail::Beat { node, incarnation } => self.hear(node, incarnation),
            Mail::Fetched { machine, life, fetch } => self.fetched(machine, life, &fetch),
        }
        Ok(())
    }

    fn send(&mut self, letter: Mail) {
        if self.mail.len() >= MAIL_MAX {
            self.mail.pop_front();
            self.count("letters.crowded_out");
        }
        self.mail.push_back(letter);
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    fn mint(&mut self) -> u64 {
        self.minted += 1;
        self.minted
    }

    fn note(&mut self, event: impl FnOnce() -> String) {
        if self.traced {
            if self.events.len() >= EVENTS_MAX {
                self.events.pop_front();
            }
            let event = format!("step {} at {} ms: {}", self.steps, self.now_ms, event());
            self.events.push_back(event);
        }
    }
}

#[cfg(test)]
mod tests;
