//! Notifies the checkers of every entry that a node applies, right after it is applied.
//!
//! The product writes a log line of the lowest level for each entry, and this subscriber receives
//! it. A checker that wakes by time sees many entries at once. The effect of one entry (D2, D3, D4)
//! can be judged only here.

use std::cell::RefCell;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The module in which the product applies entries. The relevant line has a field `applied`.
const TARGET: &str = "cairn_node::raft::machine";

type Listener = Box<dyn Fn(u64)>;

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Calls `listener` with the index of each entry from now on, in the task that applies it. This
/// lasts until the run ends or another listener replaces it. The listener must not drive the node.
pub fn listen(listener: impl Fn(u64) + 'static) {
    LISTENER.set(Some(Box::new(listener)));
}

/// Removes the listener of this thread's run.
pub(crate) fn reset() {
    drop(LISTENER.take());
}

/// Receives this one log line and ignores all others.
pub(crate) struct Hear;

impl Hear {
    /// Returns it as a layer that passes all other lines on.
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
