//! Checkpoints of several parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{ClientError, GetOptions, MemorySink, MemorySource, PutOutcome, Wait};
use cairn_types::ids::Attempt;
use tokio::time::Instant;

use crate::fake::Fake;
use crate::{RACKS, at, contents, noise, put_options, source};

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
async fn one_part_alone_can_always_be_read() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    for part in 0..2u32 {
        let files = BTreeMap::from([(b"optim.pt".to_vec(), noise(3 << 20, u64::from(part) * 2))]);
        let mut options = put_options(1);
        (options.part, options.parts, options.attempt) = (part, 2, Some(Attempt(9)));
        client.put(Arc::new(MemorySource::new(files).unwrap()), options).await.unwrap();
    }
    let get = |part, verify_only| {
        let sink = Arc::new(MemorySink::default());
        let options = GetOptions { part, verify_only, ..GetOptions::default() };
        let client = client.clone();
        async move { client.get(&at(1), sink.clone(), options).await.map(|_| contents(&sink)) }
    };
    let error = get(None, false).await.err().unwrap();
    assert!(matches!(error, ClientError::ConflictingParts { first: 0, second: 1, .. }), "{error}");
    assert!(error.hint().unwrap().contains("directory of its own"));
    for part in 0..2u32 {
        let content = noise(3 << 20, u64::from(part) * 2);
        let got = get(Some(part), false).await.unwrap();
        assert!(got == BTreeMap::from([(b"optim.pt".to_vec(), content)]), "part {part}");
        get(Some(part), true).await.unwrap();
    }
    let error = get(Some(2), false).await.err().unwrap();
    assert!(matches!(error, ClientError::NoSuchFile { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn parts_without_an_attempt_and_sources_without_files_are_refused() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let mut options = put_options(1);
    options.parts = 2;
    let error = client.put(source(), options).await.unwrap_err();
    assert!(matches!(error, ClientError::PartWithoutAttempt), "{error}");
    let empty = Arc::new(MemorySource::new(BTreeMap::new()).unwrap());
    let error = client.put(empty, put_options(1)).await.unwrap_err();
    assert!(error.to_string().contains("no file"), "{error}");
    assert_eq!(fake.state.lock().executes, 0);

    let labelled = |value: &str| {
        let mut options = put_options(1);
        options.labels = BTreeMap::from([("loss".to_owned(), value.to_owned())]);
        options
    };
    client.put(source(), labelled("1")).await.unwrap();
    assert!(client.put(source(), labelled("1")).await.unwrap().already_committed());
    // They may have been changed since: what is committed is labelled by `annotate`.
    assert!(client.put(source(), labelled("2")).await.unwrap().already_committed());
}

#[tokio::test(start_paused = true)]
async fn a_rank_waits_for_the_commit_of_the_whole() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let part = |part: u32, attempt: u64| {
        let files = BTreeMap::from([(format!("rank{part}").into_bytes(), noise(999, 3))]);
        let mut options = put_options(1);
        (options.part, options.parts) = (part, 2);
        options.attempt = Some(Attempt(attempt));
        options.wait = Wait::Committed { timeout: Duration::from_secs(30) };
        client.put(Arc::new(MemorySource::new(files).unwrap()), options)
    };
    let late = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        part(1, 1).await
    };
    let (first, second) = tokio::join!(part(0, 1), late);
    for report in [first, second] {
        assert!(matches!(report.unwrap().outcome, PutOutcome::Committed { .. }));
    }
    let mut options = put_options(2);
    (options.parts, options.attempt) = (2, Some(Attempt(1)));
    options.wait = Wait::Committed { timeout: Duration::from_secs(30) };
    let started = Instant::now();
    let report = client.put(source(), options.clone()).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Sealed { .. }), "nobody brings the other part");
    assert!(started.elapsed() >= Duration::from_secs(29));
    // It does not wait for an upload that is over.
    let abort = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        client.delete(&at(2), true).await.unwrap()
    };
    let started = Instant::now();
    let (report, aborted) = tokio::join!(client.put(source(), options), abort);
    assert_eq!(aborted.parts_missing, 1);
    assert!(matches!(report, Err(ClientError::UploadOver { .. })), "{report:?}");
    assert!(started.elapsed() < Duration::from_secs(15));
}
