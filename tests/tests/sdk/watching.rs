//! The stream of a watch, over nodes that end it at every moment and say what they said before.

use std::time::Duration;

use cairn_client::stream::StreamExt;
use cairn_client::{ClientError, Event, EventId, Happened, WatchOptions, Watched};
use cairn_proto::refused::refusal_status;
use cairn_proto::wire;
use cairn_types::command::Refusal;
use cairn_types::convert;
use cairn_types::ids::{CheckpointId, Lineage, Step};
use tonic::Status;

use crate::RACKS;
use crate::fake::Fake;

fn id(index: u64) -> EventId {
    EventId { lineage: Lineage(0), index, place: 0 }
}

fn event(index: u64) -> Event {
    let what = Happened::Committed { checkpoint: CheckpointId(index), step: Step(index) };
    Event { id: id(index), wall_ms: 0, namespace: "run".parse().unwrap(), what }
}

/// A message behind the seam.
fn told(cursor: u64, events: &[u64]) -> Result<wire::WatchReply, Status> {
    let events = events.iter().map(|index| convert::event_to_wire(&event(*index))).collect();
    Ok(wire::WatchReply { cursor: id(cursor).to_string(), events, ..Default::default() })
}

fn there(step: u64) -> Result<wire::WatchReply, Status> {
    let namespace = "run".to_owned();
    let checkpoint = wire::WatchedCheckpoint { id: step, namespace, step, ..Default::default() };
    Ok(wire::WatchReply { checkpoints: vec![checkpoint], ..Default::default() })
}

/// In words: `there 1`, `seam 5`, `event 6`, `cursor 9`.
fn word(told: &Watched) -> String {
    match told {
        Watched::Checkpoint(checkpoint) => format!("there {}", checkpoint.step),
        Watched::Seam(cursor) => format!("seam {}", cursor.index),
        Watched::Event(event) => format!("event {}", event.id.index),
        Watched::Cursor(cursor) => format!("cursor {}", cursor.index),
        other => format!("{other:?}").to_lowercase(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_at_another_node_and_tells_nothing_twice() {
    let fake = Fake::start(&RACKS);
    let gone = || Err(Status::unavailable("the node stops"));
    let floor = id(20);
    let too_old = refusal_status(&Refusal::CursorTooOld { cursor: id(9), floor });
    let watches = [
        // Ends before the seam: what it said is worth nothing.
        vec![there(1), gone()],
        vec![there(1), there(2), told(5, &[]), told(7, &[6, 7])],
        // Says again what is known, and goes back.
        vec![told(7, &[6, 7]), told(6, &[6]), told(8, &[8]), gone()],
        vec![told(8, &[]), told(9, &[])],
        vec![Err(too_old)],
    ];
    fake.state.lock().watches = watches.into();
    let mut watch = fake.client().watch(WatchOptions::default());
    let mut words = Vec::new();
    let error = loop {
        match watch.next().await.unwrap() {
            Ok(told) => words.push(word(&told)),
            Err(error) => break error,
        }
    };
    let wanted =
        "begins, there 1, begins, there 1, there 2, seam 5, event 6, event 7, event 8, cursor 9";
    assert_eq!(words.join(", "), wanted);
    let typed = Refusal::CursorTooOld { cursor: id(9), floor };
    assert!(matches!(&error, ClientError::Refused(refusal) if *refusal == typed), "{error}");
    assert!(watch.next().await.is_none(), "an error ends it");
    let asked: Vec<String> = std::mem::take(&mut fake.state.lock().watched_from);
    let cursors =
        [String::new(), String::new(), id(7).to_string(), id(8).to_string(), id(9).to_string()];
    assert_eq!(asked, cursors);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_does_not_wait_for_a_silent_node() {
    let fake = Fake::start(&RACKS);
    // A stream that stays open and says nothing after this.
    fake.state.lock().watches = [vec![told(5, &[])], vec![told(6, &[6])]].into();
    fake.state.lock().watches_stay_open = true;
    let mut watch = fake.client().watch(WatchOptions { from: Some(id(4)), ..Default::default() });
    let before = tokio::time::Instant::now();
    let mut words = Vec::new();
    for _ in 0..2 {
        words.push(word(&watch.next().await.unwrap().unwrap()));
    }
    assert_eq!(words, ["cursor 5", "event 6"]);
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
}
