//! One run: a seed and a scenario in, an outcome out.
//!
//! Everything that a run uses is made new on its thread, so that a seed gives the same trace in a
//! sweep as in its own process. A panic in any task is a violation. A scenario that does not end in
//! virtual time is a violation. A scenario that does not end in real time (a deadlock or a busy
//! loop) aborts the process with its last lines.

#![allow(clippy::disallowed_methods, reason = "the watchdog watches real time from outside")]

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Once, mpsc};
use std::time::Duration;

use tracing::field::Field;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::applied::{self, Hear};
use crate::process::Life;
use crate::replay::Tuning;
use crate::trace::{self, Counters, Tail};
use crate::world::{Violation, World};
use crate::{rt, seed::Stream, witness};

/// Period of the check whether a run must stop.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub tuning: Tuning,
    /// The beginning of a trace file, up to its first empty line.
    pub head: String,
    /// The path for the trace. The product's log lines are written between its own lines.
    pub trace: Option<PathBuf>,
    /// Virtual time after which the run stops, even if the scenario is not finished.
    pub until: Option<Duration>,
    /// Virtual time after which the scenario counts as stuck.
    pub virtual_limit: Duration,
    /// Real time after which the process is aborted, if virtual time does not advance for so long.
    pub wall_limit: Duration,
    /// A violation of one of these invariants ends the run.
    pub stop_at: Vec<&'static str>,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tuning: Tuning::default(),
            head: String::new(),
            trace: None,
            until: None,
            virtual_limit: Duration::from_secs(4 * 3600),
            wall_limit: Duration::from_secs(120),
            stop_at: Vec::new(),
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    /// The hash of all trace lines. Equal for equal seeds (S1).
    pub trace_hash: String,
    pub lines: u64,
    pub virtual_ms: u64,
    pub violations: Vec<Violation>,
    pub counters: Counters,
    /// The trace's last lines.
    pub tail: Vec<String>,
    /// The last faults and actions up to the first broken promise.
    pub story: Vec<String>,
    /// Faults of the plan that happened: ordinal, time and description.
    pub faults: Vec<(u32, String)>,
}

/// Plays `scenario` in a world made from the seed.
///
/// Fails only for reasons of the machine: the trace file cannot be made, or no runtime can be
/// built.
pub fn run<F, Fut>(options: &Options, scenario: F) -> io::Result<Outcome>
where
    F: FnOnce(World) -> Fut,
    Fut: Future<Output = ()>,
{
    let tail = trace::reset(options.trace.as_deref(), &options.head)?;
    witness::reset();
    rt::reset(Stream::new(options.seed).fork("shared").next_u64());
    watch_panics();
    applied::reset();
    let _subscriber = subscribe(options.trace.is_some());
    let dog = watch(options, tail);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build()?;

    let world = World::new(options.seed, options.tuning.clone());
    let played = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            trace::start_clock();
            let played = tokio::time::timeout(options.virtual_limit, scenario(world.clone()));
            tokio::select! {
                biased;
                () = broken(&world, &options.stop_at) => {}
                () = reached(options.until) => {}
                end = played => if end.is_err() {
                    world.violation("end", format!("not over after {:?}", options.virtual_limit));
                },
            }
        });
    }));
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.tear_down())));
    let _guard = runtime.enter();
    trace::stop_clock();
    drop(_guard);
    let virtual_ms = trace::now_us() / 1000;
    let asked = trace::counter("raft.truncations_asked");
    let empty = trace::counter("raft.truncations_empty");
    trace::count("raft.truncations", asked.saturating_sub(empty));
    let summary = trace::finish();
    applied::reset();
    drop(world);
    drop(runtime);

    let panics = PANICS.take().unwrap_or_default();
    let mut violations = ended.unwrap_or_default();
    violations
        .extend(panics.into_iter().map(|text| Violation { invariant: "panic".to_owned(), text }));
    if played.is_err() && violations.is_empty() {
        let text = "the scenario panicked".to_owned();
        violations.push(Violation { invariant: "panic".to_owned(), text });
    }
    drop(dog);
    Ok(Outcome {
        seed: options.seed,
        trace_hash: summary.hash,
        lines: summary.lines,
        virtual_ms,
        violations,
        counters: summary.counters,
        tail: summary.tail,
        story: summary.story,
        faults: summary.faults,
    })
}

/// Resolves at this virtual time. Without a time it never resolves.
async fn reached(until: Option<Duration>) {
    match until {
        Some(until) => tokio::time::sleep(until).await,
        None => std::future::pending().await,
    }
}

/// Resolves soon after one of these invariants was violated.
async fn broken(world: &World, invariants: &[&str]) {
    if invariants.is_empty() {
        return std::future::pending().await;
    }
    while !world.is_violated(invariants) {
        tokio::time::sleep(STOP_LOOK).await;
    }
}

thread_local! {
    /// Panics of the run on this thread, if a run is active.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// tokio swallows the panic of a spawned task, so the hook stores it.
fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let process =
                Life::current().map_or("scenario".to_owned(), |life| life.name.to_string());
            let caught = PANICS.try_with(|panics| match panics.try_borrow_mut() {
                Ok(mut panics) => {
                    panics.as_mut().map(|list| list.push(format!("{process}: {info}"))).is_some()
                }
                Err(_) => false,
            });
            if !caught.unwrap_or(false) {
                previous(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

/// Dropping it stops the watchdog.
struct Dog(#[allow(dead_code, reason = "its drop is the message")] mpsc::Sender<()>);

fn watch(options: &Options, tail: Tail) -> Dog {
    let (alive, over) = mpsc::channel();
    let (seed, limit, head) = (options.seed, options.wall_limit, options.head.clone());
    std::thread::spawn(move || {
        let mut before = None;
        while over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            // On a busy machine a run takes longer, but it advances.
            let now = last_moment(&tail);
            if now.is_some() && now != before {
                before = now;
                continue;
            }
            let mut text = format!(
                "{head}seed {seed}: virtual time stood still for {limit:?} of real time; last lines:\n"
            );
            // If the run hangs inside the trace, there is nothing to show.
            for line in tail.try_lock().iter().flat_map(|tail| tail.iter()) {
                text.push_str(line);
                text.push('\n');
            }
            let _ = io::stderr().write_all(text.as_bytes());
            std::process::abort();
        }
    });
    Dog(alive)
}

/// Virtual time of the last line. None if it cannot be read, because a run may hang inside the
/// trace.
fn last_moment(tail: &Tail) -> Option<String> {
    let tail = tail.try_lock()?;
    let (moment, _) = tail.back()?.split_once(' ')?;
    Some(moment.to_owned())
}

/// Receives on this thread the product's log lines about applied entries and log truncations. If
/// requested, also writes its log lines to the trace file.
fn subscribe(log_into_trace: bool) -> tracing::subscriber::DefaultGuard {
    let heard = tracing_subscriber::registry().with(Hear.beside()).with(truncations());
    if !log_into_trace {
        return tracing::subscriber::set_default(heard);
    }
    let lines =
        tracing_subscriber::fmt::layer().with_writer(TraceWriter).without_time().with_ansi(false);
    // openraft logs a page with every tick.
    let quiet = Targets::new()
        .with_default(tracing::Level::DEBUG)
        .with_target("openraft", tracing::Level::INFO);
    tracing::subscriber::set_default(heard.with(lines.with_filter(quiet)))
}

/// openraft has no callback for a truncation of its log, but it logs one.
fn truncations<S: tracing::Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let only = Targets::new().with_target(TRUNCATES_IN, tracing::Level::DEBUG);
    Truncations.with_filter(only)
}

const TRUNCATES_IN: &str = "openraft::engine::handler::following_handler";
const TRUNCATES: &str = "truncate logs since";
/// Follows the other line if there was nothing to truncate.
const TRUNCATES_NOTHING: &str = "skip truncating";

struct Truncations;

impl<S: tracing::Subscriber> Layer<S> for Truncations {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() != "message" {
                return;
            }
            let text = format!("{value:?}");
            trace::count("raft.truncations_asked", text.starts_with(TRUNCATES).into());
            trace::count("raft.truncations_empty", text.starts_with(TRUNCATES_NOTHING).into());
        });
    }
}

#[derive(Clone, Copy)]
struct TraceWriter;

impl<'a> MakeWriter<'a> for TraceWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for TraceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let process = Life::current().map_or("-".to_owned(), |life| life.name.to_string());
        let line = String::from_utf8_lossy(bytes);
        trace::remark(&process, "log", format_args!("{}", line.trim_end()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Spec;

    #[test]
    fn panic_in_any_task_is_a_violation() {
        let outcome = run(&Options::new(1), |world| async move {
            let id = world.add(Spec::new("n1", "r1", |_| async { panic!("boom") }));
            world.start(id);
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        let violations = outcome.unwrap().violations;
        assert_eq!(violations.len(), 1);
        assert!(violations[0].text.contains("n1") && violations[0].text.contains("boom"));
        let outcome = run(&Options::new(1), |_| async { panic!("root") }).unwrap();
        assert_eq!(outcome.violations[0].invariant, "panic");
    }

    #[test]
    fn watchdog_sees_time_pass_in_the_last_line_and_nothing_where_the_trace_hangs() {
        let tail = Tail::default();
        assert_eq!(last_moment(&tail), None);
        tail.lock().push_back("7.250 | n1 | starts | as r1".to_owned());
        assert_eq!(last_moment(&tail).as_deref(), Some("7.250"));
        let _hangs = tail.lock();
        assert_eq!(last_moment(&tail), None);
    }

    #[test]
    fn scenario_without_an_end_is_a_violation() {
        let outcome = run(&Options::new(1), |_| std::future::pending()).unwrap();
        assert_eq!(outcome.violations[0].invariant, "end");
    }

    #[test]
    fn process_whose_boot_returns_has_exited_and_can_start_again() {
        let outcome = run(&Options::new(1), |world| async move {
            let id = world.add(Spec::new("n1", "r1", |parts| async move {
                parts.env.spawn("left behind", std::future::pending());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }));
            let life = world.start(id).map(|parts| parts.life);
            assert!(world.is_up(id));
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(!world.is_up(id) && life.is_some_and(|life| life.tasks() == 0));
            assert!(world.start(id).is_some());
        });
        assert_eq!(outcome.unwrap().violations, []);
    }

    #[test]
    fn crashed_process_is_gone_and_lives_again_with_other_numbers() {
        let outcome = run(&Options::new(1), |world| async move {
            let id = world.add(Spec::new("n1", "r1", |parts| async move {
                trace::event("n1", "free", format_args!("{}", parts.env.random_u64()));
                std::future::pending::<()>().await;
            }));
            let first = world.start(id).map(|parts| parts.life);
            tokio::task::yield_now().await;
            let second = world.restart(id, crate::disk::Crash::Power).map(|parts| parts.life);
            tokio::task::yield_now().await;
            assert!(first.is_some_and(|life| life.is_over() && life.tasks() == 0));
            assert!(second.is_some_and(|life| !life.is_over() && life.number == 2));
        });
        let outcome = outcome.unwrap();
        assert_eq!(outcome.violations, []);
        let drawn: Vec<_> = outcome.tail.iter().filter(|line| line.contains("free")).collect();
        assert_eq!(drawn.len(), 2);
        assert_ne!(drawn[0].rsplit(' ').next(), drawn[1].rsplit(' ').next());
    }
}
