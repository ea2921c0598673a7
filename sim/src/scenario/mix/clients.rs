//! What the clients of `mix` do. A script outlives the lives of its process: a client that died
//! goes on where it was, or starts the same upload again.

mod marks;
mod notes;
mod reads;
mod scan;
mod streams;
mod trash;
mod writes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Client, ClientError, MemorySink};
use cairn_types::command::Refusal;
use cairn_types::ids::{Address, Selector, Step};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::super::plan::MoveKind;
use super::Shared;
use crate::checkers::c1_history::Asked;
use crate::checkpoint_files::{self, Files};
use crate::cluster;
use crate::seed::Stream;
use crate::trace;
use crate::world::{ProcessParts, World};

/// The namespace whose checkpoints the first two clients write together.
const TOGETHER: &str = "together";
/// Its steps.
const TOGETHER_STEPS: u64 = 3;
/// Earlier checkpoints whose files are put again now and then.
const PAST_MAX: usize = 8;
/// The namespace that all clients write against each other, and its steps.
pub(super) const AGAINST: &str = "against";
const AGAINST_STEPS: u64 = 3;
/// So many fresh checkpoints have a segment of several blocks.
const LARGE: f64 = 0.3;
/// In calm, one move takes no longer.
const CALM_LIMIT: Duration = Duration::from_secs(120);
/// Once things have stopped going wrong, nobody is waited for with what is left to do.
const QUIET_PAUSE_MS: u64 = 700;
/// A client whose read was cut short reads on at once, so often.
const GOES_ON: f64 = 0.7;

pub use scan::scan;

/// One client's part.
pub struct Script {
    pub name: String,
    pub rack: String,
    number: u64,
    clients: u64,
    state: Mutex<State>,
}

struct State {
    chance: Stream,
    together: Stream,
    moves: u64,
    /// In the middle of a move.
    busy: bool,
    next_step: u64,
    /// The step after the last one whose put was begun, its attempt and files.
    last: Option<(u64, u64, Files)>,
    /// The last put was not acknowledged.
    unfinished: bool,
    /// The put that goes on continues one that was cut short.
    cut_short: bool,
    /// What the last read was about and has got, while it is not finished.
    half_read: Option<(String, Asked, Arc<MemorySink>)>,
    /// Steps whose open-ended uploads were begun, as far as they are not known to be over.
    streams: BTreeSet<u64>,
    /// Files of earlier puts, to be put again.
    past: Vec<Files>,
    attempts: u64,
    notes: u64,
    doing: String,
    /// All moves under faults are made.
    played: bool,
    done: bool,
}

impl Script {
    pub fn new(world: &World, number: u64, clients: u64) -> Arc<Self> {
        let name = format!("c{}", number + 1);
        let state = State {
            chance: world.stream(&name),
            together: world.stream(TOGETHER),
            moves: 0,
            busy: false,
            next_step: 1,
            last: None,
            unfinished: false,
            cut_short: false,
            half_read: None,
            streams: BTreeSet::new(),
            past: Vec::new(),
            attempts: 1,
            notes: 0,
            doing: "starting".to_owned(),
            played: false,
            done: false,
        };
        let rack = format!("r{}", number + 1);
        Arc::new(Self { name, rack, number, clients, state: Mutex::new(state) })
    }

    pub fn is_done(&self) -> bool {
        self.state.lock().done
    }

    /// Whether a move is going on.
    pub fn is_busy(&self) -> bool {
        self.state.lock().busy
    }

    /// Its process has died: nothing of it is going on.
    pub fn dies(&self) {
        self.state.lock().busy = false;
    }

    /// Whether all moves under faults are made.
    pub fn has_played(&self) -> bool {
        self.state.lock().played
    }

    /// Whether a read is going on, or was cut short, after some bytes had come.
    pub fn has_half_read(&self) -> bool {
        let state = self.state.lock();
        state.half_read.as_ref().is_some_and(|(_, _, sink)| sink.bytes_written() > 0)
    }

    pub fn doing(&self) -> String {
        self.state.lock().doing.clone()
    }

    fn namespace(&self) -> String {
        format!("run/{}", self.name)
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Stream) -> T) -> T {
        draw(&mut self.state.lock().chance)
    }
}

/// One life of a client.
struct Acting {
    parts: ProcessParts,
    sdk: Client,
    script: Arc<Script>,
    shared: Arc<Shared>,
}

pub async fn run(parts: ProcessParts, script: Arc<Script>, shared: Arc<Shared>) {
    let sdk = cluster::sdk(&parts, &shared.addresses);
    let acting = Acting { parts, sdk, script, shared };
    acting.script.state.lock().busy = false;
    acting.go().await;
    std::future::pending::<()>().await;
}

impl Acting {
    async fn go(&self) {
        let plan = &self.shared.plan;
        while let Some(longest_ms) = self.next_pause() {
            let pause = self.script.draw(|chance| chance.below(longest_ms));
            sleep(Duration::from_millis(pause)).await;
            self.script.state.lock().busy = true;
            let finished = self.random_move().await;
            let mut state = self.script.state.lock();
            state.moves += u64::from(finished);
            state.busy = false;
        }
        self.script.state.lock().played = true;
        while !self.shared.is_calm() {
            sleep(Duration::from_millis(100)).await;
        }
        match timeout(plan.paced(CALM_LIMIT * 3), self.finish()).await {
            Ok(Ok(())) => self.script.state.lock().done = true,
            Ok(Err(text)) => {
                self.parts.violation("L2", format!("{} in calm: {text}", self.script.name));
                self.script.state.lock().done = true;
            }
            Err(_) => {
                let text =
                    format!("{} in calm: stuck in {}", self.script.name, self.script.doing());
                self.parts.violation("L2", text);
                self.script.state.lock().done = true;
            }
        }
    }

    /// Before the next move, at the most. One that is through with its part goes on now and then
    /// as long as things go wrong, so that every fault may meet somebody.
    fn next_pause(&self) -> Option<u64> {
        let plan = &self.shared.plan;
        let through = self.script.state.lock().moves >= plan.moves;
        match through {
            false if self.shared.has_faults() => Some(plan.move_pause_ms),
            false => (!self.shared.is_calm()).then_some(plan.move_pause_ms.min(QUIET_PAUSE_MS)),
            true => self.shared.has_faults().then_some(plan.move_pause_ms.max(4 * plan.pause_ms)),
        }
    }

    /// Once nothing is wrong, everything works.
    async fn finish(&self) -> Result<(), String> {
        if self.script.number < 2 {
            // A part that was sealed may have expired with its upload: both again, until both
            // have seen the commit.
            for step in 1..=TOGETHER_STEPS {
                self.together_until_committed(step).await?;
            }
        }
        self.end_streams().await?;
        let step = self.new_step();
        self.put(step, false).await?;
        match self.get(&self.script.namespace(), Asked::Latest).await? {
            true => self.comes_back(step).await,
            false => Err("latest is not found after a put".to_owned()),
        }
    }

    async fn together_until_committed(&self, step: u64) -> Result<(), String> {
        for _ in 0..40 {
            self.put_part(step).await?;
            for _ in 0..10 {
                if self.get(TOGETHER, Asked::Step(step)).await? {
                    return Ok(());
                }
                sleep(Duration::from_millis(500)).await;
            }
        }
        Err(format!("{TOGETHER}@{step} is never committed"))
    }

    /// Whether it was finished.
    async fn random_move(&self) -> bool {
        let (chance, unfinished) = {
            let mut state = self.script.state.lock();
            let number = state.chance.next_u64();
            (state.chance.fork(&format!("move {number}")), state.unfinished)
        };
        let may = |kind| match kind {
            MoveKind::PutAgain => unfinished,
            MoveKind::PutPart => self.script.number < 2,
            // While a node has an older build, these are refused.
            MoveKind::Rules | MoveKind::Undelete => self.shared.plan.older == 0,
            _ => true,
        };
        let Some(kind) = self.shared.plan.next_move(&chance, may) else { return true };
        let goes_on = self.script.has_half_read() && chance.fork("goes on").chance(GOES_ON);
        let kind = if goes_on { MoveKind::Get } else { kind };
        trace::count(kind.counter(), 1);
        let result = match kind {
            MoveKind::Put => {
                let step = self.new_step();
                self.put(step, false).await
            }
            MoveKind::PutAgain => self.put_again().await,
            MoveKind::Replace => self.replace().await,
            MoveKind::PutPart => {
                let step = self.script.draw(|chance| chance.range(1..TOGETHER_STEPS + 1));
                self.put_part(step).await
            }
            MoveKind::Get => {
                let half_read = self.script.state.lock().half_read.clone();
                let again = half_read.map(|(name, asked, _)| (name, asked));
                let (name, asked) = again.unwrap_or_else(|| self.somewhere());
                self.get(&name, asked).await.map(drop)
            }
            MoveKind::Resolve => {
                let (name, asked) = self.somewhere();
                self.resolve(&name, asked).await
            }
            MoveKind::Range => self.range().await,
            MoveKind::Against => self.against().await,
            MoveKind::Delete => self.delete().await,
            MoveKind::DeleteAndPutAgain => self.delete_and_put_again().await,
            MoveKind::KeepLast => self.keep_last().await,
            MoveKind::List => self.list().await,
            MoveKind::Annotate => self.annotate().await,
            MoveKind::TakeOver => self.take_over().await,
            MoveKind::Crowd => self.crowd().await,
            MoveKind::Ref => self.move_ref().await,
            MoveKind::Hold => self.hold().await,
            MoveKind::Quarantine => self.quarantine().await,
            MoveKind::RollBack => self.roll_back().await,
            MoveKind::Rules => self.rules().await,
            MoveKind::Undelete => self.undelete().await,
        };
        match &result {
            Ok(()) => trace::count("client.finished", 1),
            Err(text) => {
                trace::event(&self.script.name, "failed", format_args!("{text}"));
                trace::count("client.failed_moves", 1);
            }
        }
        result.is_ok()
    }

    fn note(&self, doing: String) {
        trace::event(&self.script.name, "does", format_args!("{doing}"));
        self.script.state.lock().doing = doing;
    }

    fn broken(&self, (invariant, text): (&'static str, String)) {
        self.parts.violation(invariant, format!("{}: {text}", self.script.name));
    }

    fn somewhere(&self) -> (String, Asked) {
        let (clients, steps) = (self.script.clients, self.script.state.lock().next_step);
        self.script.draw(|chance| match chance.below(clients + 2) {
            number if number > clients => {
                let asked = match chance.chance(0.5) {
                    true => Asked::Latest,
                    false => Asked::Step(chance.range(1..AGAINST_STEPS + 1)),
                };
                (AGAINST.to_owned(), asked)
            }
            0 => (TOGETHER.to_owned(), Asked::Step(chance.range(1..TOGETHER_STEPS + 1))),
            number => {
                let asked = match chance.chance(0.5) {
                    true => Asked::Latest,
                    false => Asked::Step(chance.range(1..steps + 1)),
                };
                (format!("run/c{number}"), asked)
            }
        })
    }

    /// A step nobody has used, with files that share most bytes with the last ones or none.
    fn new_step(&self) -> u64 {
        let mut state = self.script.state.lock();
        let step = state.next_step;
        state.next_step += 1;
        let state = &mut *state;
        let files = match &state.last {
            // What others upload too, or what may be deleted by now.
            _ if state.chance.chance(0.15) => {
                let mut base = state.together.fork("base");
                checkpoint_files::checkpoint(&mut base, 2)
            }
            Some(_) if state.chance.chance(0.2) => {
                state.chance.pick(&state.past).cloned().unwrap_or_default()
            }
            Some((_, _, files)) if state.chance.chance(0.6) => {
                checkpoint_files::next(files, &mut state.chance)
            }
            _ if state.chance.chance(LARGE) => {
                trace::count("client.large", 1);
                checkpoint_files::large(&mut state.chance)
            }
            _ => {
                let tensors = state.chance.range(1..4) as usize;
                checkpoint_files::checkpoint(&mut state.chance, tensors)
            }
        };
        state.attempts += 1;
        if state.past.len() == PAST_MAX {
            state.past.remove(0);
        }
        state.past.push(files.clone());
        state.last = Some((step, state.attempts, files));
        step
    }
}

pub(super) fn is_missing(error: &ClientError) -> bool {
    matches!(error.refusal(), Some(Refusal::NoSuchCheckpoint { .. }))
}

pub(super) fn files_of(sink: &MemorySink) -> Files {
    sink.files().into_iter().map(|(name, bytes)| (name, bytes.into())).collect()
}

pub(super) fn address(name: &str, asked: Asked) -> Result<Address, String> {
    let selector = match asked {
        Asked::Step(step) => Selector::Step(Step(step)),
        Asked::Latest => Selector::Latest,
    };
    Ok(Address { namespace: writes::namespace(name)?, selector })
}
