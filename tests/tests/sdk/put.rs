//! Uploads: what is sent, what is not, and what is waited for.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{
    ClientError, FileRange, GetOptions, MemorySink, MemorySource, PutOptions, PutOutcome, Rate,
    SinkError, Wait,
};
use cairn_types::command::{self, Body, Refusal, Reply, StageSegment};
use cairn_types::form::Form;
use cairn_types::ids::{Attempt, RequestId, Run, SegmentDigest};
use cairn_types::model::{Isolation, Liveness, PolicyChange};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::fake::{Fake, Mood};
use crate::{RACKS, at, begin, contents, files, noise, put_options, source};

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

    let range =
        FileRange { file: b"model/big", part: None, start: (32 << 20) - 5, len: Some(1 << 21) };
    let address = at(7);
    let stream = client.read_range(&address, &range).await;
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
async fn a_client_that_knows_the_cluster_puts_without_a_status() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let statuses = fake.state.lock().statuses;
    let executes = fake.state.lock().executes;
    assert_eq!(statuses, 1, "where the nodes are, and how long a lease lasts");
    let small = |seed| {
        let files = BTreeMap::from([(b"f".to_vec(), noise(1000, seed))]);
        Arc::new(MemorySource::new(files).unwrap())
    };
    client.put(small(1), put_options(2)).await.unwrap();
    assert_eq!(fake.state.lock().statuses, statuses);
    assert_eq!(fake.state.lock().executes, executes + 3, "begin, stage, seal");
    let mut writer = client.writer(put_options(3), "f").await.unwrap();
    writer.write_all(&noise(1000, 2)).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(fake.state.lock().statuses, statuses);
    // A node that is down since is gone around; what the client knew of it is old.
    fake.set_mood(1, Mood::Down);
    for step in 4..8 {
        let report = client.put(small(step), put_options(step)).await.unwrap();
        assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_put_sends_nothing_and_a_third_says_so() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let report = client.put(source(), put_options(2)).await.unwrap();
    assert_eq!(report.bytes_sent, 0, "deduplicated against step 1");
    let mut options = put_options(2);
    options.attempt = Some(Attempt(report.attempt.unwrap().0 + 5));
    let report = client.put(source(), options.clone()).await.unwrap();
    assert!(report.already_committed());
    let other = MemorySource::new(BTreeMap::from([(b"x".to_vec(), noise(9, 9))])).unwrap();
    let error = client.put(Arc::new(other), options).await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::StepExists { .. })), "{error}");
    assert!(error.hint().unwrap().contains("replace"));
    let mut options = put_options(3);
    options.dry_run = true;
    let report = client.put(source(), options).await.unwrap();
    assert_eq!((report.bytes_sent, report.outcome), (0, PutOutcome::DryRun));
}

#[tokio::test(start_paused = true)]
async fn puts_that_share_a_rate_keep_to_it_together() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let started = Instant::now();
    client.put(source(), put_options(1)).await.unwrap();
    let unlimited = started.elapsed();
    assert!(unlimited < Duration::from_secs(3), "{unlimited:?}");
    let rate = Rate::new(NonZeroU64::new(10 << 20));
    let put = |step, seed| {
        let files = BTreeMap::from([(b"f".to_vec(), noise(20 << 20, seed))]);
        let source = Arc::new(MemorySource::new(files).unwrap());
        client.put(source, PutOptions { rate: Some(rate.clone()), ..put_options(step) })
    };
    let started = Instant::now();
    let (one, two) = tokio::join!(put(2, 11), put(3, 12));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    // Two replicas at least of 40 MiB, but for what may go at once.
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(7), "{took:?}");
    rate.set(None);
    let started = Instant::now();
    put(4, 13).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_put_goes_around_nodes_that_fail() {
    for mood in [Mood::Down, Mood::Full, Mood::Stuck] {
        let fake = Fake::start(&RACKS);
        let client = fake.client();
        fake.set_mood(1, mood);
        fake.set_mood(2, mood);
        let error = client.put(source(), put_options(1)).await.unwrap_err();
        // Two nodes are left, both in rack a: with a rack missing nothing can be committed.
        let is_full = matches!(error, ClientError::NoSpace { .. });
        assert_eq!(is_full, mood == Mood::Full, "{mood:?}: needs two racks: {error}");

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
    fake.state.lock().apply(RequestId(0), Body::SetLiveness(command::SetLiveness { changes }));
    let started = Instant::now();
    client.put(source(), put_options(1)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_put_without_attempt_takes_over_one_that_died() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let Body::Begin(command::Begin { namespace, step, parts, change, replace, labels, .. }) =
        begin(1)
    else {
        unreachable!()
    };
    let client_name = "a job of next year".to_owned();
    let ahead = Some(Attempt(1_800_000_000_000_000_000));
    let dead = Body::Begin(command::Begin {
        namespace,
        step,
        parts,
        attempt: ahead,
        change,
        replace,
        labels,
        client: client_name.clone(),
        job: String::new(),
    });
    client.execute(dead, Duration::ZERO).await.unwrap();
    let mut options = put_options(1);
    options.attempt = Some(Attempt(1_700_000_000_000));
    let error = client.put(source(), options).await.unwrap_err();
    assert!(error.to_string().contains(&client_name), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("began at 1970-01-01T00:00:00Z by a job of next year"), "{hint}");
    let report = client.put(source(), put_options(1)).await.unwrap();
    assert_eq!(report.attempt, Some(Attempt(1_800_000_000_000_000_001)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_asks_for_other_terms_than_the_commit_has_is_refused() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let put = |change: PolicyChange| {
        let mut options = put_options(1);
        options.change = change;
        client.put(source(), options)
    };
    let soft = Some(Isolation::Soft);
    let first = PolicyChange { isolation: soft, keep_last: Some(2), ..PolicyChange::default() };
    put(first.clone()).await.unwrap();
    for same in [first, PolicyChange::default()] {
        assert!(put(same.clone()).await.unwrap().already_committed(), "{same:?}");
    }
    let none = PolicyChange::default();
    for (what, other) in [
        ("the number of replicas", PolicyChange { replicas: Some(2), ..none.clone() }),
        ("the write quorum", PolicyChange { write_quorum: Some(1), ..none.clone() }),
        ("the rack minimum", PolicyChange { min_racks: Some(1), ..none.clone() }),
        ("isolation", PolicyChange { isolation: Some(Isolation::Hard), ..none.clone() }),
        ("keep-last", PolicyChange { keep_last: Some(3), ..none.clone() }),
        ("keep-last", PolicyChange { keep_last: Some(0), ..none.clone() }),
    ] {
        let error = put(other).await.unwrap_err();
        let is_it =
            matches!(error.refusal(), Some(Refusal::OtherTerms { what: it, .. }) if it == what);
        assert!(is_it, "{what}: {error}");
    }
    // A later commit has another rule; that is not the first one's.
    let mut later = put_options(2);
    later.change.keep_last = Some(5);
    client.put(source(), later).await.unwrap();
    let again = PolicyChange { keep_last: Some(2), ..none };
    assert!(put(again).await.unwrap().already_committed());
}

#[tokio::test(start_paused = true)]
async fn a_put_waits_for_nodes_that_are_down_when_it_begins() {
    let fake = Fake::start(&["a", "b", "c"]);
    let client = fake.client();
    let set = |up: bool| {
        for node in &fake.nodes[1..] {
            let mut state = fake.state.lock();
            let incarnation = state.catalogue.node(node.id).unwrap().incarnation;
            let liveness = if up { Liveness::Up } else { Liveness::Down };
            let changes = vec![(node.id, incarnation, liveness)];
            state.apply(RequestId(0), Body::SetLiveness(command::SetLiveness { changes }));
        }
    };
    set(false);
    let come_back = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        set(true);
    };
    let (report, ()) = tokio::join!(client.put(source(), put_options(1)), come_back);
    report.unwrap();
    // A cluster that has too few at all is not waited for.
    let small = Fake::start(&["a"]);
    let started = Instant::now();
    let error = small.client().put(source(), put_options(1)).await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::NotEnoughHosts { .. })), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_the_cluster_has_no_nodes_for_leaves_no_open_upload() {
    let small = Fake::start(&["a"]);
    let client = small.client();
    let open = async || -> Vec<_> { client.list(None, true).try_collect().await.unwrap() };
    client.put(source(), put_options(1)).await.unwrap_err();
    assert_eq!(open().await, []);
    // An attempt that the caller named may be gone on with, and others may hold parts of it.
    let named = PutOptions { attempt: Some(Attempt(3)), ..put_options(2) };
    client.put(source(), named).await.unwrap_err();
    assert_eq!(open().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn putting_a_step_again_heals_what_lost_its_replicas() {
    let fake = Fake::start(&["a", "b", "c"]);
    let client = fake.client();
    let mut options = put_options(1);
    options.wait = Wait::Full { timeout: Duration::from_secs(30) };
    client.put(source(), options).await.unwrap();
    let digest = *fake.nodes[0].files.lock().keys().next().unwrap();
    let len = fake.nodes[0].files.lock()[&digest].len() as u64;
    for node in &fake.nodes {
        node.files.lock().remove(&digest);
        let mut state = fake.state.lock();
        let incarnation = state.catalogue.node(node.id).unwrap().incarnation;
        let segment = state.catalogue.segment_by_digest(&digest).unwrap();
        let replicas = vec![(segment.id, segment.live_slot_on(node.id).unwrap().epoch)];
        state.apply(
            RequestId(0),
            Body::Lost(command::Lost { node: node.id, incarnation, replicas }),
        );
    }
    let report = client.put(source(), put_options(1)).await.unwrap();
    assert!(report.already_committed());
    assert_eq!((report.segments_sent, report.bytes_sent), (1, len));
    let sink = Arc::new(MemorySink::default());
    client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());
    assert_eq!(client.put(source(), put_options(1)).await.unwrap().bytes_sent, 0);
}

/// Another client, with a codec that this one lacks, has staged every segment before.
#[tokio::test(start_paused = true)]
async fn a_segment_whose_record_has_an_unknown_form_is_sent_raw() {
    let other = Fake::start(&RACKS);
    other.client().put(source(), put_options(1)).await.unwrap();
    let segments: Vec<_> = {
        let state = other.state.lock();
        state.catalogue.segments().iter().map(|it| (it.digest, it.form.raw_len())).collect()
    };
    let fake = Fake::start(&RACKS);
    {
        let mut state = fake.state.lock();
        let Reply::Begun(begun) = state.apply(RequestId(1), begin(2)) else { panic!("not begun") };
        let stage = |(digest, len): &(SegmentDigest, u32)| StageSegment {
            digest: *digest,
            form: Form::told(7, *len, len - 1).unwrap(),
            targets: fake.nodes[..3].iter().map(|node| node.id).collect(),
        };
        let stage = Body::Stage(command::Stage {
            checkpoint: begun.checkpoint,
            attempt: begun.attempt,
            part: 0,
            run: Run(9),
            segments: segments.iter().map(stage).collect(),
        });
        assert!(matches!(state.apply(RequestId(2), stage), Reply::Staged { .. }));
    }
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    {
        let state = fake.state.lock();
        let mut coded = 0;
        for (digest, _) in &segments {
            let record = state.catalogue.segment_by_digest(digest).unwrap();
            coded += usize::from(!record.form.is_raw());
        }
        assert_eq!(coded, segments.len(), "the first Stage fixes the form");
    }
    let sink = Arc::new(MemorySink::default());
    client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());
}
