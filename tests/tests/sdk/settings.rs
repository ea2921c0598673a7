//! What a caller sets: retries, hedging, memory, streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_client::source::SourceEntry;
use cairn_client::{
    Client, ClientError, ClientOptions, ErrorKind, GetOptions, MemorySink, MemorySource,
    PutOutcome, Retry, Source, SourceError,
};
use cairn_host::seam::Env;
use tokio::time::{Instant, timeout};

use crate::fake::{Fake, FakeDialer, Mood, TestRuntime, address};
use crate::{RACKS, at, contents, files, noise, put_options, source};

const SEGMENT: u64 = 32 << 20;

/// Files of one segment each, of which it counts the bytes that were read.
struct Counted {
    entries: Vec<SourceEntry>,
    bytes_read: AtomicU64,
}

impl Counted {
    fn new(files: u8) -> Arc<Self> {
        let entry =
            |index| SourceEntry { name: vec![b'a' + index], mode: 0, mtime_ns: 0, len: SEGMENT };
        Arc::new(Self { entries: (0..files).map(entry).collect(), bytes_read: AtomicU64::new(0) })
    }
}

impl Source for Counted {
    fn entries(&self) -> &[SourceEntry] {
        &self.entries
    }

    fn read_at(&self, index: usize, _: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        buffer.fill(index as u8);
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn call_ends_after_so_many_failed_tries_and_before_its_deadline() {
    let fake = Fake::start(&RACKS);
    (0..4).for_each(|node| fake.set_mood(node, Mood::Down));
    let pause = Duration::from_millis(10);
    let mut options = ClientOptions::new([address(0), address(1)]);
    options.retry = Retry { pause_min: pause, pause_max: pause, tries_max: Some(6) };
    let started = Instant::now();
    let error = fake.client_of(options.clone()).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.is_retryable());
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    options.retry.tries_max = None;
    let started = Instant::now();
    fake.client_of(options).status().await.unwrap_err();
    assert!(started.elapsed() > Duration::from_secs(59), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_try_is_enough_where_the_first_node_only_says_who_leads() {
    let fake = Fake::start(&RACKS);
    fake.state.lock().leader = Some(2);
    let mut options = ClientOptions::new([address(0)]);
    options.retry = Retry { tries_max: Some(1), ..Retry::default() };
    let report = fake.client_of(options).put(source(), put_options(1)).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_hedge_waits_for_the_slow_node() {
    for hedge in [true, false] {
        let fake = Fake::start(&RACKS);
        let mut options = ClientOptions::new([address(0)]);
        options.hedge = hedge;
        let client = fake.client_of(options);
        client.put(source(), put_options(1)).await.unwrap();
        (0..4).for_each(|node| fake.set_mood(node, Mood::Slow));
        let sink = Arc::new(MemorySink::default());
        client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
        assert_eq!(contents(&sink), files());
        (0..4).for_each(|node| fake.set_mood(node, Mood::Well));
        fake.set_mood(0, Mood::Silent);
        let started = Instant::now();
        client.status().await.unwrap();
        assert_eq!(started.elapsed() < Duration::from_secs(4), hedge, "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn upload_reads_no_more_than_its_memory_before_nodes_have_it() {
    let segments_read = async |memory: u64| {
        let fake = Fake::start(&RACKS);
        (0..4).for_each(|node| fake.set_mood(node, Mood::Stuck));
        let mut options = ClientOptions::new([address(0)]);
        options.upload_memory_bytes = memory;
        let (client, source) = (fake.client_of(options), Counted::new(4));
        let put = client.put(source.clone(), put_options(1));
        assert!(timeout(Duration::from_secs(5), put).await.is_err(), "no node takes a segment");
        // Besides, the head of each file is looked at.
        source.bytes_read.load(Ordering::Relaxed) / SEGMENT
    };
    assert_eq!(segments_read(0).await, 1, "the largest segment always fits");
    assert_eq!(segments_read(3 * SEGMENT).await, 3);
}

#[tokio::test(start_paused = true)]
async fn upload_with_the_least_memory_and_one_stream_succeeds() {
    let fake = Fake::start(&RACKS);
    let mut options = ClientOptions::new([address(0)]);
    (options.upload_memory_bytes, options.uploads_parallel) = (0, 0);
    let report = fake.client_of(options).put(source(), put_options(1)).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
}

#[tokio::test(start_paused = true)]
async fn tries_that_find_no_leader_are_spent_too() {
    let fake = Fake::start(&RACKS);
    fake.state.lock().leader = None;
    let mut options = ClientOptions::new([address(0)]);
    options.retry.tries_max = Some(3);
    let error = fake.client_of(options).put(source(), put_options(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// Whether nodes are tried together or by turns is chance.
#[tokio::test(start_paused = true)]
async fn put_to_nodes_that_hang_ends_with_its_deadline_whenever_they_are_tried() {
    for seed in 1..=16 {
        let fake = Fake::start(&RACKS);
        fake.set_mood(1, Mood::Stuck);
        fake.set_mood(2, Mood::Stuck);
        let runtime = Arc::new(TestRuntime(AtomicU64::new(seed)));
        let dialer = Arc::new(FakeDialer { clusters: vec![("node".to_owned(), fake.clone())] });
        let client = Client::new(Env { runtime, dialer }, ClientOptions::new([address(0)]));
        let files = [(b"f".to_vec(), noise(1000, seed))].into();
        let put = client.put(Arc::new(MemorySource::new(files).unwrap()), put_options(1));
        // Nodes of two racks are needed, and those of one answer. Beside the minute, two streams
        // may stall for 10 s each.
        let ended = timeout(Duration::from_secs(90), put).await;
        let error = ended.unwrap_or_else(|_| panic!("seed {seed}: it goes on")).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "seed {seed}: {error}");
    }
}
