//! The SDK against a small cluster in this process, on paused time.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod fake;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{
    Client, ClientError, ClientOptions, GetOptions, LocalSink, MemorySink, MemorySource,
    PutOptions, PutOutcome, SinkError, Wait,
};
use cairn_core::command::{Body, Refusal, Reply};
use cairn_core::ids::{Address, Attempt, RequestId, Step};
use cairn_core::model::{Liveness, PolicyChange};
use cairn_proto::seam::Env;
use fake::{Fake, FakeDialer, Mood, TestRuntime, address};
use futures::StreamExt;
use tokio::time::Instant;

const RACKS: [&str; 4] = ["a", "b", "c", "a"];

fn begin(step: u64) -> Body {
    Body::Begin {
        namespace: "run".parse().unwrap(),
        step: Step(step),
        parts: 1,
        attempt: Attempt(1),
        change: PolicyChange::default(),
        replace: false,
        labels: BTreeMap::new(),
    }
}

fn put_options(step: u64) -> PutOptions {
    PutOptions::new("run".parse().unwrap(), Step(step))
}

fn at(step: u64) -> Address {
    format!("run@{step}").parse().unwrap()
}

fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..len).map(next).collect::<Vec<u8>>().into()
}

fn files() -> BTreeMap<Vec<u8>, Bytes> {
    BTreeMap::from([
        (b"config.json".to_vec(), noise(1000, 1)),
        (b"empty".to_vec(), Bytes::new()),
        (b"model/big".to_vec(), noise(37 << 20, 2)),
        (b"model/mid".to_vec(), noise(5 << 20, 3)),
        (b"model/small".to_vec(), noise(2 << 20, 4)),
    ])
}

fn source() -> Arc<MemorySource> {
    Arc::new(MemorySource::new(files()).unwrap())
}

fn contents(sink: &MemorySink) -> BTreeMap<Vec<u8>, Bytes> {
    sink.files().into_iter().map(|(name, bytes)| (name, bytes.into())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_command_finds_the_leader_through_any_node() {
    let fake = Fake::start(&RACKS);
    fake.state.lock().leader = Some(2);
    let reply = fake.client().execute(begin(1), Duration::ZERO).await.unwrap();
    assert!(matches!(reply, Reply::Begun(_)));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_retried_under_the_same_request() {
    let fake = Fake::start(&RACKS);
    fake.state.lock().lose_answers = 2;
    fake.client().execute(begin(1), Duration::ZERO).await.unwrap();
    let requests = fake.state.lock().requests.clone();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| *request == requests[0]), "one effect (C4)");
    assert_ne!(requests[0], RequestId(0));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_returned_at_once() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.execute(begin(1), Duration::ZERO).await.unwrap();
    let Body::Begin { namespace, step, parts, change, replace, labels, .. } = begin(1) else {
        unreachable!()
    };
    let attempt = Attempt(0);
    let lower = Body::Begin { namespace, step, parts, attempt, change, replace, labels };
    let error = client.execute(lower, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::Fenced { .. })), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(fake.state.lock().executes, 2);
}

#[tokio::test(start_paused = true)]
async fn an_election_is_waited_out_and_a_dead_cluster_is_not() {
    let fake = Fake::start(&RACKS);
    fake.state.lock().leader = None;
    fake.set_mood(0, Mood::Down);
    let client = fake.client();
    let waiting = client.execute(begin(1), Duration::ZERO);
    let elect = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        fake.state.lock().leader = Some(3);
    };
    let (reply, ()) = tokio::join!(waiting, elect);
    reply.unwrap();

    (0..4).for_each(|node| fake.set_mood(node, Mood::Down));
    let before = Instant::now();
    let error = client.resolve(&at(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(before.elapsed() <= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn nodes_of_two_clusters_are_never_mixed() {
    let (one, mut two) = (Fake::start(&RACKS), Fake::start(&RACKS));
    Arc::get_mut(&mut two).unwrap().cluster.0 += 1;
    let dialer = FakeDialer {
        clusters: vec![("node".to_owned(), one.clone()), ("alien".to_owned(), two.clone())],
    };
    let runtime = Arc::new(TestRuntime(AtomicU64::new(5)));
    let env = Env { runtime, dialer: Arc::new(dialer) };
    let client = Client::new(env, ClientOptions::new([address(0), "alien0:7100".to_owned()]));
    client.status().await.unwrap();
    // Whichever answered first is the cluster; when it is gone, the other does not take its place.
    let gone = if client.cluster() == Some(one.cluster) { &one } else { &two };
    (0..4).for_each(|node| gone.set_mood(node, Mood::Down));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::OtherCluster { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_is_put_is_what_is_got() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let report = client.put(source(), put_options(7)).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    assert_eq!((report.files, report.bytes), (5, 1000 + (44 << 20)));
    assert_eq!(report.bytes_sent, report.segment_bytes);

    let sink = Arc::new(MemorySink::default());
    let got = client.get(&at(7), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());
    assert_eq!(got.bytes_fetched, 1000 + (44 << 20));

    let again = client.get(&at(7), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!((again.files_kept, again.bytes_fetched), (5, 0));
    sink.insert(b"model/mid", noise(5 << 20, 9).to_vec());
    let error = client.get(&at(7), sink.clone(), GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Sink(SinkError::WouldOverwrite { .. })), "{error}");
    let options = GetOptions { overwrite: true, ..GetOptions::default() };
    client.get(&at(7), sink.clone(), options).await.unwrap();
    assert_eq!(contents(&sink), files());

    let stream = client.read_range(&at(7), b"model/big", (32 << 20) - 5, Some(1 << 21)).await;
    let mut bytes = Vec::new();
    let mut stream = stream.unwrap();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    let big = &files()[&b"model/big".to_vec()];
    assert_eq!(bytes, big[(32 << 20) - 5..(34 << 20) - 5]);

    let shown = client.show(&at(7)).await.unwrap();
    assert_eq!(shown.manifests[0].files.len(), 5);
    assert!(shown.segments.iter().all(|segment| segment.slots.len() == 3));
}

#[tokio::test(start_paused = true)]
async fn a_second_put_sends_nothing_and_a_third_says_so() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let report = client.put(source(), put_options(2)).await.unwrap();
    assert_eq!(report.bytes_sent, 0, "deduplicated against step 1");
    let mut options = put_options(2);
    options.attempt = Some(Attempt(report.attempt.0 + 5));
    let report = client.put(source(), options.clone()).await.unwrap();
    assert!(report.already_committed());
    let other = MemorySource::new(BTreeMap::from([(b"x".to_vec(), noise(9, 9))])).unwrap();
    let error = client.put(Arc::new(other), options).await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::StepExists { .. })), "{error}");
    assert!(error.hint().unwrap().contains("--replace"));
    let mut options = put_options(3);
    options.dry_run = true;
    let report = client.put(source(), options).await.unwrap();
    assert_eq!((report.bytes_sent, report.outcome), (0, PutOutcome::DryRun));
}

#[tokio::test(start_paused = true)]
async fn two_parts_make_one_checkpoint() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let part = |part: u32| {
        let files = BTreeMap::from([
            (format!("rank{part}").into_bytes(), noise(6 << 20, 20 + u64::from(part))),
            (b"shared".to_vec(), noise(5 << 20, 30)),
        ]);
        let mut options = put_options(1);
        (options.part, options.parts, options.attempt) = (part, 2, Some(Attempt(9)));
        (Arc::new(MemorySource::new(files).unwrap()), options)
    };
    let ((one, first), (two, second)) = (part(0), part(1));
    let report = client.put(one, first).await.unwrap();
    assert_eq!(report.outcome, PutOutcome::Sealed { parts_sealed: 1, parts: 2 });
    assert!(client.resolve(&at(1)).await.is_err(), "not visible before it is whole (C2)");
    let report = client.put(two, second.clone()).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    let (two, _) = part(1);
    assert!(client.put(two, second).await.unwrap().already_committed());
    let sink = Arc::new(MemorySink::default());
    client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(sink.files().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_put_goes_around_nodes_that_fail() {
    for mood in [Mood::Down, Mood::Full, Mood::Stuck] {
        let fake = Fake::start(&RACKS);
        let client = fake.client();
        fake.set_mood(1, mood);
        fake.set_mood(2, mood);
        let report = client.put(source(), put_options(1)).await;
        // Two nodes are left, both in rack a: with a rack missing nothing can be committed.
        assert!(report.is_err(), "{mood:?}: needs two racks");

        fake.set_mood(2, Mood::Well);
        let started = Instant::now();
        client.put(source(), put_options(2)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(60), "{mood:?}");
        let sink = Arc::new(MemorySink::default());
        client.get(&at(2), sink.clone(), GetOptions::default()).await.unwrap();
        assert_eq!(contents(&sink), files());
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_is_repeated_until_reports_arrive() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    (1..4).for_each(|node| fake.set_mood(node, Mood::Mute));
    let put = client.put(source(), put_options(1));
    let speak = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        (1..4).for_each(|node| fake.unmute(node));
    };
    let (report, ()) = tokio::join!(put, speak);
    assert!(matches!(report.unwrap().outcome, PutOutcome::Committed { .. }));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_full_replication_is_not_a_failure() {
    let fake = Fake::start(&["a", "b", "c"]);
    let client = fake.client();
    fake.set_mood(2, Mood::Full);
    let mut options = put_options(1);
    options.wait = Wait::Full { timeout: Duration::from_secs(30) };
    let report = client.put(source(), options).await.unwrap();
    assert_eq!(report.full, Some(false));
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    fake.set_mood(2, Mood::Well);
    let mut options = put_options(2);
    options.wait = Wait::Full { timeout: Duration::from_secs(30) };
    let source = MemorySource::new(BTreeMap::from([(b"x".to_vec(), noise(999, 1))])).unwrap();
    let report = client.put(Arc::new(source), options).await.unwrap();
    assert_eq!(report.full, Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_reader_never_sees_wrong_bytes() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    fake.set_mood(0, Mood::Lying);
    fake.set_mood(1, Mood::Stuck);
    let sink = Arc::new(MemorySink::default());
    client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());

    (0..4).for_each(|node| fake.set_mood(node, Mood::Rotten));
    let error = client.get(&at(1), Arc::new(MemorySink::default()), GetOptions::default()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ClientError::Damaged { .. }), "{error}");
    let suspicions: u64 =
        fake.nodes.iter().map(|node| node.suspicions.load(Ordering::Relaxed)).sum();
    assert!(suspicions > 0);
    let verify = GetOptions { verify_only: true, ..GetOptions::default() };
    assert!(client.get(&at(1), sink, verify).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_killed_get_goes_on_where_it_was() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(LocalSink::open(dir.path()).unwrap());
    // What a killed one leaves: a part file with one segment right and one wrong.
    let big = &files()[&b"model/big".to_vec()];
    let mut part = big.to_vec();
    part[36 << 20] ^= 1;
    std::fs::create_dir(dir.path().join("model")).unwrap();
    std::fs::write(dir.path().join("model/big.cairn-part"), &part).unwrap();
    let report = client.get(&at(1), open(), GetOptions::default()).await.unwrap();
    assert_eq!(report.bytes_kept, 32 << 20);
    assert_eq!(report.bytes_fetched, (12 << 20) + 1000);
    for (name, content) in files() {
        let path = dir.path().join(String::from_utf8(name).unwrap());
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
    assert_eq!(std::fs::read_dir(dir.path().join("model")).unwrap().count(), 3);
    let only = GetOptions {
        include: Some(Box::new(|name| name == b"model/small")),
        ..GetOptions::default()
    };
    let report = client.get(&at(1), open(), only).await.unwrap();
    assert_eq!(report.files_kept, 1, "compared with the network where a pack is not all here");
}

#[tokio::test(start_paused = true)]
async fn a_down_node_is_not_waited_for() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    fake.set_mood(3, Mood::Silent);
    let node = fake.nodes[3].id;
    let incarnation = {
        let state = fake.state.lock();
        state.catalogue.node(node).unwrap().incarnation
    };
    let changes = vec![(node, incarnation, Liveness::Down)];
    fake.state.lock().apply(RequestId(0), Body::SetLiveness { changes });
    let started = Instant::now();
    client.put(source(), put_options(1)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}
