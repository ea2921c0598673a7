//! What a caller sees of a call that runs: progress and spans.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_client::{GetOptions, GetProgress, MemorySink, Progress};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fake::Fake;
use crate::{RACKS, at, contents, files, noise, put_options, source};

#[tokio::test(start_paused = true)]
async fn progress_of_a_put_is_told_up_to_its_end() {
    let fake = Fake::start(&RACKS);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let mut options = put_options(1);
    options.progress = Progress::watched(move |progress| {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        told.lock().push((of(&progress.bytes_total), of(&progress.bytes_acked)));
    });
    let report = fake.client().put(source(), options).await.unwrap();
    let seen = seen.lock();
    assert_eq!(seen.first(), Some(&(report.bytes, 0)), "first the plan");
    assert_eq!(seen.last().map(|(_, acked)| *acked), Some(report.bytes_sent));
    assert!(seen.is_sorted(), "counters only rise");
}

#[tokio::test(start_paused = true)]
async fn progress_of_a_get_is_told_up_to_its_end() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let last = Arc::new(Mutex::new((0, 0, 0)));
    let told = last.clone();
    let progress = GetProgress::watched(move |progress| {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        *told.lock() =
            (of(&progress.bytes_total), of(&progress.bytes_done), of(&progress.files_done));
    });
    let options = GetOptions { progress, ..GetOptions::default() };
    let report = client.get(&at(1), Arc::new(MemorySink::default()), options).await.unwrap();
    assert_eq!(*last.lock(), (report.bytes, report.bytes, report.files));
}

#[tokio::test(start_paused = true)]
async fn callback_that_panics_is_not_called_again_and_harms_nothing() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let calls = Arc::new(AtomicU64::new(0));
    let (of_put, of_get) = (calls.clone(), calls.clone());
    let mut options = put_options(1);
    options.progress = Progress::watched(move |_| {
        of_put.fetch_add(1, Ordering::Relaxed);
        panic!("not told, on purpose");
    });
    client.put(source(), options).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let progress = GetProgress::watched(move |_| {
        of_get.fetch_add(1, Ordering::Relaxed);
        panic!("not told, on purpose");
    });
    let sink = Arc::new(MemorySink::default());
    let options = GetOptions { progress, ..GetOptions::default() };
    client.get(&at(1), sink.clone(), options).await.unwrap();
    assert_eq!(contents(&sink), files());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

/// The spans of this thread: each span's name and that of the one it began in.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    spans: Vec<(&'static str, Option<&'static str>)>,
    entered: Vec<usize>,
}

impl Spans {
    fn has(&self, name: &'static str, parent: Option<&'static str>) -> bool {
        self.0.lock().spans.contains(&(name, parent))
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("cairn_client")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut seen = self.0.lock();
        let parent = seen.entered.last().map(|place| seen.spans[*place].0);
        seen.spans.push((span.metadata().name(), parent));
        Id::from_u64(seen.spans.len() as u64)
    }

    fn enter(&self, span: &Id) {
        self.0.lock().entered.push(span.into_u64() as usize - 1);
    }

    fn exit(&self, _: &Id) {
        self.0.lock().entered.pop();
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}
}

#[tokio::test(start_paused = true)]
async fn what_a_user_waits_for_has_a_span() {
    let spans = Spans::default();
    // With a single subscriber in the process, a span that another test's thread meets first is
    // judged by that thread, which has none, and stays off.
    let _second = tracing::Dispatch::new(Spans::default());
    let _guard = tracing::subscriber::set_default(spans.clone());
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    for below in ["stage", "segment", "seal", "call"] {
        assert!(spans.has(below, Some("put")), "no {below} in a put: {:?}", spans.0.lock().spans);
    }
    assert!(spans.has("call", Some("seal")) && spans.has("put", None));
    client.get(&at(1), Arc::new(MemorySink::default()), GetOptions::default()).await.unwrap();
    assert!(spans.has("segment", Some("get")) && spans.has("call", Some("get")));
    let mut reader = client.reader(&at(1), "config.json").open().await.unwrap();
    assert_eq!(reader.read_to_end(&mut Vec::new()).await.unwrap(), 1000);
    assert!(spans.has("call", Some("open")));

    let before = spans.0.lock().spans.len();
    let mut writer = client.writer(put_options(2), "f").await.unwrap();
    writer.write_all(&noise(1000, 1)).await.unwrap();
    writer.finish().await.unwrap();
    let seen = spans.0.lock();
    assert!(seen.spans[before..].contains(&("seal", Some("put"))), "a writer is a put");
}
