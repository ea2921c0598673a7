//! What the clients of `mix` do. A script outlives the lives of its process: a client that died
//! goes on where it was, or starts the same upload again.

mod scan;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{
    Client, ClientError, GetOptions, MemorySink, MemorySource, PutOptions, PutOutcome,
};
use cairn_core::command::Refusal;
use cairn_core::ids::{Address, Attempt, Namespace, Selector, Step};
use cairn_core::model::PolicyChange;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use crate::checkers::c1_history::{Asked, Call, VersionId};
use crate::checkers::linearizable::catalogue::{Input, Output};
use crate::checkpoint_files::{self, Files};
use crate::cluster;
use crate::seed::Stream;
use crate::trace;
use crate::world::{Seat, World};

/// The namespace whose checkpoints the first two clients write together.
const TOGETHER: &str = "together";
/// Its steps.
const TOGETHER_STEPS: u64 = 3;
/// The namespace that all clients write against each other, and its steps.
const AGAINST: &str = "against";
const AGAINST_STEPS: u64 = 3;
/// What a client does under faults, at the most.
const MOVES_MAX: u32 = 24;
/// In calm, one move takes no longer.
const CALM_LIMIT: Duration = Duration::from_secs(120);

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
    moves: u32,
    next_step: u64,
    /// The step after the last one whose put was begun, its attempt and files.
    last: Option<(u64, u64, Files)>,
    /// The last put was not acknowledged.
    unfinished: bool,
    attempts: u64,
    doing: String,
    done: bool,
}

impl Script {
    pub fn new(world: &World, number: u64, clients: u64) -> Arc<Self> {
        let name = format!("c{}", number + 1);
        let state = State {
            chance: world.stream(&name),
            together: world.stream(TOGETHER),
            moves: 0,
            next_step: 1,
            last: None,
            unfinished: false,
            attempts: 1,
            doing: "starting".to_owned(),
            done: false,
        };
        let rack = format!("r{}", number + 1);
        Arc::new(Self { name, rack, number, clients, state: Mutex::new(state) })
    }

    pub fn is_done(&self) -> bool {
        self.state.lock().done
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
    seat: Seat,
    sdk: Client,
    script: Arc<Script>,
    shared: Arc<Shared>,
}

pub async fn run(seat: Seat, script: Arc<Script>, shared: Arc<Shared>) {
    let sdk = cluster::sdk(&seat, &shared.addresses);
    let acting = Acting { seat, sdk, script, shared };
    acting.go().await;
    std::future::pending::<()>().await;
}

impl Acting {
    async fn go(&self) {
        while !self.shared.is_calm() && self.script.state.lock().moves < MOVES_MAX {
            self.script.state.lock().moves += 1;
            let pause = self.script.draw(|chance| chance.below(600));
            sleep(Duration::from_millis(pause)).await;
            self.random_move().await;
        }
        while !self.shared.is_calm() {
            sleep(Duration::from_millis(100)).await;
        }
        match timeout(CALM_LIMIT * 3, self.finish()).await {
            Ok(Ok(())) => self.script.state.lock().done = true,
            Ok(Err(text)) => {
                self.seat.violation("L2", format!("{} in calm: {text}", self.script.name));
                self.script.state.lock().done = true;
            }
            Err(_) => {
                let text =
                    format!("{} in calm: stuck in {}", self.script.name, self.script.doing());
                self.seat.violation("L2", text);
                self.script.state.lock().done = true;
            }
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
        let step = self.new_step();
        self.put(step, false).await?;
        match self.get(&self.script.namespace(), Asked::Latest).await? {
            true => Ok(()),
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

    async fn random_move(&self) {
        let (dice, unfinished) = {
            let mut state = self.script.state.lock();
            (state.chance.below(100), state.unfinished)
        };
        let result = match dice {
            0..30 => {
                let step = self.new_step();
                self.put(step, false).await
            }
            30..45 if unfinished => self.put_again().await,
            30..37 => self.replace().await,
            37..52 if self.script.number < 2 => {
                let step = self.script.draw(|chance| chance.range(1..TOGETHER_STEPS + 1));
                self.put_part(step).await
            }
            37..72 => {
                let (name, asked) = self.somewhere();
                self.get(&name, asked).await.map(drop)
            }
            72..82 => {
                let (name, asked) = self.somewhere();
                self.resolve(&name, asked).await
            }
            82..85 => self.range().await,
            85..93 => self.against().await,
            93..98 => self.delete().await,
            _ => self.keep_last().await,
        };
        if let Err(text) = result {
            trace::event(&self.script.name, "failed", format_args!("{text}"));
            trace::count("client.failed_moves", 1);
        }
    }

    fn note(&self, doing: String) {
        trace::event(&self.script.name, "does", format_args!("{doing}"));
        self.script.state.lock().doing = doing;
    }

    fn broken(&self, (invariant, text): (&'static str, String)) {
        self.seat.violation(invariant, format!("{}: {text}", self.script.name));
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
            Some((_, _, files)) if state.chance.chance(0.6) => {
                checkpoint_files::next(files, &mut state.chance)
            }
            _ => {
                let tensors = state.chance.range(1..4) as usize;
                checkpoint_files::checkpoint(&mut state.chance, tensors)
            }
        };
        state.attempts += 1;
        state.last = Some((step, state.attempts, files));
        step
    }

    async fn replace(&self) -> Result<(), String> {
        let step = {
            let mut state = self.script.state.lock();
            let state = &mut *state;
            let Some((_, _, files)) = &state.last else { return Ok(()) };
            let files = checkpoint_files::next(files, &mut state.chance);
            let step = state.chance.range(1..state.next_step);
            state.attempts += 1;
            state.last = Some((step, state.attempts, files));
            step
        };
        self.put(step, true).await
    }

    /// The upload that was cut short: the same attempt sends what is missing.
    async fn put_again(&self) -> Result<(), String> {
        let last = self.script.state.lock().last.as_ref().map(|(step, ..)| *step);
        trace::count("client.puts_again", 1);
        match last {
            Some(step) => self.put(step, true).await,
            None => Ok(()),
        }
    }

    async fn put(&self, step: u64, replace: bool) -> Result<(), String> {
        let Some((_, attempt, files)) = self.script.state.lock().last.clone() else {
            return Ok(());
        };
        let name = self.script.namespace();
        self.note(format!("put {name}@{step} attempt {attempt}"));
        let call = self.put_begins(&name, (step, attempt), &files);
        self.script.state.lock().unfinished = true;
        let mut options = options(&name, (step, attempt))?;
        options.replace = replace;
        let report = self.sdk.put(source(&files)?, options).await;
        let report = report.map_err(|error| format!("put {name}@{step}: {error}"))?;
        self.note(format!("has put {name}@{step}: {:?}", report.outcome));
        trace::count("client.puts", 1);
        trace::count("client.segments_kept", report.segments_kept);
        let mut history = self.shared.history.lock();
        history.visible(&name, (step, attempt));
        history.answer(&call, Output::Done);
        drop(history);
        self.script.state.lock().unfinished = false;
        Ok(())
    }

    fn put_begins(&self, name: &str, version: VersionId, files: &Files) -> Call {
        let mut history = self.shared.history.lock();
        history.put_begins(name, version, files);
        history.call(name, &self.script.name, Input::Put(version))
    }

    /// One step of the namespace that everybody writes and deletes in.
    async fn against(&self) -> Result<(), String> {
        self.shared.history.lock().many_writers(AGAINST);
        let (step, deletes, number) = {
            let chance = &mut self.script.state.lock().chance;
            (chance.range(1..AGAINST_STEPS + 1), chance.chance(0.3), self.script.number)
        };
        if deletes {
            return self.delete_at(AGAINST, step, false).await;
        }
        let files = self.script.draw(|chance| checkpoint_files::checkpoint(chance, 1));
        let attempt = self.seat.env.wall_ms() * 8 + number;
        self.note(format!("put {AGAINST}@{step} attempt {attempt}"));
        let mut options = options(AGAINST, (step, attempt))?;
        options.replace = true;
        let call = self.put_begins(AGAINST, (step, attempt), &files);
        let put = self.sdk.put(source(&files)?, options).await;
        put.map_err(|error| format!("put {AGAINST}@{step}: {error}"))?;
        trace::count("client.puts_against", 1);
        self.shared.history.lock().answer(&call, Output::Done);
        Ok(())
    }

    /// This client's part of a checkpoint that two write.
    async fn put_part(&self, step: u64) -> Result<(), String> {
        let part = |number: u64| -> Files {
            let chance = self.script.state.lock().together.fork(&format!("{step}/{number}"));
            let files = checkpoint_files::checkpoint(&mut chance.clone(), 1);
            let named = |(name, bytes): (Vec<u8>, Bytes)| {
                ([format!("rank-{number}/").as_bytes(), name.as_slice()].concat(), bytes)
            };
            files.into_iter().map(named).collect()
        };
        let id = (step, 1);
        let mut whole = part(0);
        whole.extend(part(1));
        self.note(format!("put part {} of {TOGETHER}@{step}", self.script.number));
        let begun = {
            let mut history = self.shared.history.lock();
            history.put_begins(TOGETHER, id, &whole);
            history.part_begins(TOGETHER, id, self.script.number, 2);
            Instant::now()
        };
        let mut options = options(TOGETHER, id)?;
        (options.part, options.parts) = (self.script.number as u32, 2);
        let report = self.sdk.put(source(&part(self.script.number))?, options).await;
        let report = report.map_err(|error| format!("put part of {TOGETHER}@{step}: {error}"))?;
        trace::count("client.parts", 1);
        if !matches!(report.outcome, PutOutcome::Sealed { .. }) {
            let mut history = self.shared.history.lock();
            history.visible(TOGETHER, id);
            history.saw(TOGETHER, &self.script.name, id, begun);
        }
        Ok(())
    }

    /// Whether something was there.
    async fn get(&self, name: &str, asked: Asked) -> Result<bool, String> {
        self.note(format!("get {name} {asked:?}"));
        let began = Instant::now();
        let sink = Arc::new(MemorySink::default());
        let address = address(name, asked)?;
        match self.sdk.get(&address, sink.clone(), GetOptions::default()).await {
            Ok(report) => {
                let id = (report.checkpoint.step.0, report.checkpoint.attempt.0);
                let files = files_of(&sink);
                trace::count("client.gets", 1);
                let mut history = self.shared.history.lock();
                let judged = history.found(name, asked, id, began, Some(&files));
                drop(history);
                judged.unwrap_or_else(|broken| self.broken(broken));
                Ok(true)
            }
            Err(error) => self.not_got(name, asked, began, &error).map(|()| false),
        }
    }

    async fn resolve(&self, name: &str, asked: Asked) -> Result<(), String> {
        self.note(format!("resolve {name} {asked:?}"));
        let began = Instant::now();
        match self.sdk.resolve(&address(name, asked)?).await {
            Ok(info) => {
                let id = (info.step.0, info.attempt.0);
                trace::count("client.resolves", 1);
                let judged = self.shared.history.lock().found(name, asked, id, began, None);
                judged.unwrap_or_else(|broken| self.broken(broken));
                Ok(())
            }
            Err(error) => self.not_got(name, asked, began, &error),
        }
    }

    /// A checkpoint that is not there is an answer, and is judged; others are failures.
    fn not_got(
        &self,
        name: &str,
        asked: Asked,
        began: Instant,
        error: &ClientError,
    ) -> Result<(), String> {
        if !is_missing(error) {
            return Err(format!("get {name} {asked:?}: {error}"));
        }
        let judged = self.shared.history.lock().missing(name, asked, began);
        judged.unwrap_or_else(|text| self.broken(("C1", text)));
        Ok(())
    }

    /// A piece of a file of an own checkpoint is a piece of a version of it.
    async fn range(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let (step, at, len) = {
            let mut state = self.script.state.lock();
            let end = state.next_step;
            let chance = &mut state.chance;
            (chance.range(1..end.max(2)), chance.below(300_000), chance.range(1..200_000))
        };
        self.note(format!("range {at}+{len} of {name}@{step}"));
        let file = b"model.safetensors";
        let address = address(&name, Asked::Step(step))?;
        let text = |error: ClientError| format!("range of {name}@{step}: {error}");
        let mut stream = self.sdk.read_range(&address, file, at, Some(len)).await.map_err(text)?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(text)?);
        }
        trace::count("client.ranges", 1);
        let contents = self.shared.history.lock().contents(&name, step);
        let same = |files: &Files| {
            let whole = files.get(&file[..]);
            whole.and_then(|it| it.get(at as usize..(at + len) as usize)) == Some(&bytes[..])
        };
        if !contents.iter().any(same) {
            self.broken(("D5", format!("{at}+{len} of {name}@{step} is of no version")));
        }
        Ok(())
    }

    async fn delete(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let (step, now) = {
            let mut state = self.script.state.lock();
            let end = state.next_step;
            (state.chance.range(1..end.max(2)), state.chance.chance(0.5))
        };
        self.delete_at(&name, step, now).await
    }

    async fn delete_at(&self, name: &str, step: u64, now: bool) -> Result<(), String> {
        self.note(format!("delete {name}@{step}, now: {now}"));
        let call = {
            let mut history = self.shared.history.lock();
            history.delete_begins(name, step);
            history.call(name, &self.script.name, Input::Delete(step))
        };
        let deleted = self.sdk.delete(&address(name, Asked::Step(step))?, now).await;
        let mut history = self.shared.history.lock();
        match deleted {
            Ok(info) => {
                trace::count("client.deletes", 1);
                let id: VersionId = (info.step.0, info.attempt.0);
                history.deleted(name, id);
                history.answer(&call, Output::Version(id));
                Ok(())
            }
            Err(error) if is_missing(&error) => {
                history.answer(&call, Output::Missing);
                Ok(())
            }
            Err(ClientError::Refused(_)) => Ok(()),
            Err(error) => Err(format!("delete {name}@{step}: {error}")),
        }
    }

    async fn keep_last(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let count = self.script.draw(|chance| chance.range(1..4)) as u32;
        self.note(format!("keep last {count} of {name}"));
        let call = {
            let mut history = self.shared.history.lock();
            history.keep_last(&name, count as usize);
            history.call(&name, &self.script.name, Input::KeepLast(count))
        };
        let change = PolicyChange { keep_last: Some(count), ..PolicyChange::default() };
        trace::count("client.policies", 1);
        let set = self.sdk.set_policy(&namespace(&name)?, change).await;
        set.map_err(|error| error.to_string())?;
        self.shared.history.lock().answer(&call, Output::Done);
        Ok(())
    }
}

fn is_missing(error: &ClientError) -> bool {
    matches!(error.refusal(), Some(Refusal::NoSuchCheckpoint { .. }))
}

fn files_of(sink: &MemorySink) -> Files {
    sink.files().into_iter().map(|(name, bytes)| (name, bytes.into())).collect()
}

fn source(files: &Files) -> Result<Arc<MemorySource>, String> {
    MemorySource::new(files.clone()).map(Arc::new).map_err(|error| error.to_string())
}

fn options(name: &str, (step, attempt): VersionId) -> Result<PutOptions, String> {
    let mut options = PutOptions::new(namespace(name)?, Step(step));
    options.attempt = Some(Attempt(attempt));
    Ok(options)
}

fn namespace(name: &str) -> Result<Namespace, String> {
    name.parse().map_err(|error| format!("{error}"))
}

fn address(name: &str, asked: Asked) -> Result<Address, String> {
    let selector = match asked {
        Asked::Step(step) => Selector::Step(Step(step)),
        Asked::Latest => Selector::Latest,
    };
    Ok(Address { namespace: namespace(name)?, selector })
}
