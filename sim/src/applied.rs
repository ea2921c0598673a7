//! Tells the checkers of every entry that a node applies, in the moment it has done so.
//!
//! The product says it in a log line of the lowest level; this is the subscriber that hears it.
//! Many entries are applied between two looks of a checker that wakes by time; what one entry did
//! (D2, D3, D4) can be judged only here.

use std::cell::RefCell;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where the product applies entries. The line that counts has a field `applied`.
const TARGET: &str = "cairn_node::raft::machine";

type Listener = Box<dyn Fn(u64)>;

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Calls `listener` with the index of each entry from now on, in the task that applies it, until
/// the run ends or another takes its place. It must not drive the node.
pub fn listen(listener: impl Fn(u64) + 'static) {
    LISTENER.set(Some(Box::new(listener)));
}

/// Forgets the listener of this thread's run.
pub(crate) fn reset() {
    drop(LISTENER.take());
}

/// Hears one line and nothing else.
pub(crate) struct Hear;

impl Hear {
    /// As a layer that leaves the lines it does not hear to others.
    pub(crate) fn beside<S>(self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        self.with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE))
    }

    fn hear(event: &Event<'_>) {
        let mut index = Index(None);
        event.record(&mut index);
        if let Some(index) = index.0 {
            LISTENER.with_borrow(|listener| {
                if let Some(listener) = listener {
                    listener(index);
                }
            });
        }
    }
}

impl<S: Subscriber> Layer<S> for Hear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        Self::hear(event);
    }
}

/// The value of the field `applied`.
struct Index(Option<u64>);

impl Visit for Index {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "applied" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
