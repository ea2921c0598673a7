//! The newest events of the log on this node, for those who watch.
//!
//! ```text
//!   apply: the entry's events --> ring: | floor | oldest ... newest | end
//!                                           a watcher reads behind its cursor; below the floor it cannot
//! ```
//!
//! The ring is bounded, and there is one of it however many watch: a watcher is a cursor. One whose cursor
//! falls below the floor is told so, and never gets a gap. A catalogue that comes from a snapshot has not
//! applied the entries before it: the ring begins anew behind it.

use std::collections::{BTreeMap, VecDeque};

use cairn_types::event::{Event, EventId};
use cairn_types::limits::EVENTS_MAX;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A cursor behind which this node has not all events any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// All behind this one are there.
    pub floor: EventId,
}

#[derive(Default)]
pub struct Feed(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    /// The last event that is not in the ring.
    floor: EventId,
    /// All up to this one are in the ring or below its floor.
    end: EventId,
    /// Which catalogue the events are of, and how many there were.
    source: u64,
    sources: u64,
    arrivals: u64,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// What a watcher reads at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub events: Vec<Event>,
    /// All up to this one is known now.
    pub cursor: EventId,
}

impl Feed {
    /// The number of a catalogue that has applied nothing yet, or was read from a snapshot.
    pub fn new_source(&self) -> u64 {
        let mut ring = self.0.lock();
        ring.sources += 1;
        ring.sources
    }

    /// What the entry that ends at `end` brought about. To be called for each, in order, while nobody
    /// reads the catalogue.
    pub fn append(&self, source: u64, end: EventId, events: Vec<Event>) {
        let mut ring = self.0.lock();
        let before = EventId { index: end.index.saturating_sub(1), ..end };
        ring.agree(source, before);
        ring.end = end;
        if events.is_empty() {
            return;
        }
        ring.events.extend(events);
        while ring.events.len() > EVENTS_MAX {
            if let Some(dropped) = ring.events.pop_front() {
                ring.floor = dropped.id;
            }
        }
        ring.wake();
    }

    /// Up to which event a catalogue of this source knows all, while that cannot change. `applied` is
    /// the end of its last entry.
    pub fn end(&self, source: u64, applied: EventId) -> EventId {
        let mut ring = self.0.lock();
        ring.agree(source, applied);
        ring.end
    }

    /// At most `most` events behind a cursor, in order.
    pub fn behind(&self, cursor: EventId, most: usize) -> Result<Batch, TooOld> {
        let ring = self.0.lock();
        if cursor < ring.floor {
            return Err(TooOld { floor: ring.floor });
        }
        let first = ring.events.partition_point(|event| event.id <= cursor);
        let events: Vec<Event> = ring.events.range(first..).take(most).cloned().collect();
        let is_all = first + events.len() == ring.events.len();
        let last = events.last().map_or(cursor, |event| event.id);
        Ok(Batch { events, cursor: if is_all { last.max(ring.end) } else { last } })
    }

    /// Resolves once there may be events behind a cursor, or it may have become too old.
    pub async fn changed(&self, cursor: EventId) {
        let reached = {
            let mut ring = self.0.lock();
            let newest = ring.events.back().map_or(ring.floor, |event| event.id);
            if newest > cursor || ring.floor > cursor {
                return;
            }
            ring.waiting.retain(|_, waiter| !waiter.is_closed());
            let (waiter, reached) = oneshot::channel();
            ring.arrivals += 1;
            let place = ring.arrivals;
            ring.waiting.insert(place, waiter);
            reached
        };
        let _ = reached.await;
    }
}

impl Ring {
    /// Begins anew behind `known` where the catalogue is another one.
    fn agree(&mut self, source: u64, known: EventId) {
        if self.source != source {
            self.source = source;
            self.events.clear();
            (self.floor, self.end) = (known, known);
            self.wake();
        }
    }

    /// In the order of their arrival, so that simulations do not differ.
    fn wake(&mut self) {
        for (_, waiter) in std::mem::take(&mut self.waiting) {
            let _ = waiter.send(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
mod tests {
    use cairn_types::event::Happened;
    use cairn_types::ids::{CheckpointId, Lineage, Step};

    use super::*;

    fn end(index: u64) -> EventId {
        EventId::end_of(Lineage(0), index)
    }

    fn events(index: u64, count: u32) -> Vec<Event> {
        let event = |place| Event {
            id: EventId { lineage: Lineage(0), index, place },
            wall_ms: 0,
            namespace: "run".parse().unwrap(),
            what: Happened::Full { checkpoint: CheckpointId(index), step: Step(index) },
        };
        (0..count).map(event).collect()
    }

    #[test]
    fn batches_of_any_size_give_each_event_once() {
        let feed = Feed::default();
        let source = feed.new_source();
        for index in 1..=20 {
            feed.append(source, end(index), events(index, index as u32 % 3));
        }
        let whole = feed.behind(end(0), 100).unwrap();
        assert_eq!(whole.cursor, end(20), "entries without events are known, too");
        for most in 1..=5 {
            let (mut cursor, mut found) = (end(0), Vec::new());
            while cursor != end(20) {
                let batch = feed.behind(cursor, most).unwrap();
                assert!(batch.cursor > cursor && batch.events.len() <= most);
                found.extend(batch.events);
                cursor = batch.cursor;
            }
            assert_eq!(found, whole.events, "{most} at a time");
        }
    }

    #[test]
    fn a_cursor_below_what_is_kept_is_too_old_and_never_a_gap() {
        let feed = Feed::default();
        let source = feed.new_source();
        let count = EVENTS_MAX as u64 + 10;
        for index in 1..=count {
            feed.append(source, end(index), events(index, 1));
        }
        let floor = events(10, 1)[0].id;
        assert_eq!(feed.behind(end(9), 1), Err(TooOld { floor }));
        assert_eq!(feed.behind(floor, 1).unwrap().events, events(11, 1));
        assert_eq!(feed.behind(end(count), 1).unwrap().events, []);
    }

    #[tokio::test]
    async fn a_snapshot_ends_what_its_catalogue_has_not_applied() {
        let feed = Feed::default();
        let first = feed.new_source();
        for index in 1..=5 {
            feed.append(first, end(index), events(index, 1));
        }
        let second = feed.new_source();
        // A watcher waits meanwhile, and hears of it.
        let (heard, known) =
            tokio::join!(feed.changed(end(5)), async { feed.end(second, end(90)) });
        assert_eq!((heard, known), ((), end(90)));
        assert_eq!(feed.behind(end(5), 1), Err(TooOld { floor: end(90) }));
        let third = feed.new_source();
        feed.append(third, end(101), events(101, 1));
        let behind_it = EventId { index: 100, ..end(101) };
        assert_eq!(feed.behind(end(90), 1), Err(TooOld { floor: behind_it }));
        assert_eq!(feed.behind(behind_it, 9).unwrap().events, events(101, 1));
    }
}
