//! Downloads: right bytes from whichever replica, or why not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_client::sink::{FileTarget, Plan, Presence};
use cairn_client::{ClientError, GetOptions, LocalSink, MemorySink, MemorySource, Sink, SinkError};
use cairn_types::command::{self, Body, DeleteReason};
use cairn_types::ids::RequestId;
use tokio::time::Instant;

use crate::fake::{Fake, Mood};
use crate::{RACKS, at, contents, files, noise, put_options, source};

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
    let file = FileTarget {
        name: b"model/big".to_vec(),
        mode: 0o644,
        mtime_ns: 0,
        len: part.len() as u64,
        extents: vec![],
    };
    let killed = open();
    let plan = Plan { files: std::slice::from_ref(&file), directories: &[], replace: false };
    killed.begin(&plan).unwrap();
    killed.create(&file).unwrap();
    killed.write_at(&file, 0, &part).unwrap();
    drop(killed);
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

/// Deletes the checkpoint, with all files, once a download knows its manifests.
struct Deleting {
    fake: Arc<Fake>,
    sink: MemorySink,
}

impl Sink for Deleting {
    fn begin(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError> {
        let mut state = self.fake.state.lock();
        let checkpoint = state.catalogue.resolve(&at(1)).unwrap().id;
        let reason = DeleteReason::Asked;
        state.apply(
            RequestId(0),
            Body::Delete(command::Delete {
                checkpoint,
                reason,
                now: true,
                force: false,
                policy_version: None,
                by: String::new(),
            }),
        );
        self.fake.nodes.iter().for_each(|node| node.files.lock().clear());
        self.sink.begin(plan)
    }

    fn check_room(&self, missing: &[(&FileTarget, u64)]) -> Result<(), SinkError> {
        self.sink.check_room(missing)
    }

    fn create(&self, file: &FileTarget) -> Result<(), SinkError> {
        self.sink.create(file)
    }

    fn read_at(
        &self,
        file: &FileTarget,
        from: Presence,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), SinkError> {
        self.sink.read_at(file, from, offset, buffer)
    }

    fn write_at(&self, file: &FileTarget, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        self.sink.write_at(file, offset, bytes)
    }

    fn finish(&self, file: &FileTarget, replace: bool) -> Result<(), SinkError> {
        self.sink.finish(file, replace)
    }

    fn complete(&self) -> Result<(), SinkError> {
        self.sink.complete()
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_deleted_under_a_reader_is_said_so_at_once() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let sink = Arc::new(Deleting { fake: fake.clone(), sink: MemorySink::default() });
    let started = Instant::now();
    let error = client.get(&at(1), sink, GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Deleted { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "after {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn why_a_segment_cannot_be_read_is_said() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let get = || async {
        let sink = Arc::new(MemorySink::default());
        client.get(&at(1), sink, GetOptions::default()).await.unwrap_err()
    };
    (0..4).for_each(|node| fake.set_mood(node, Mood::Busy));
    let error = get().await;
    assert!(matches!(error, ClientError::Busy { .. }), "busy is not damaged: {error}");
    // The one replica that may be right is busy.
    (0..3).for_each(|node| fake.set_mood(node, Mood::Rotten));
    let error = get().await;
    assert!(matches!(error, ClientError::Busy { .. } | ClientError::Damaged { .. }), "{error}");
    fake.set_mood(3, Mood::Rotten);
    let error = get().await;
    assert!(matches!(error, ClientError::Damaged { lost: true, .. }), "{error}");
    assert!(error.hint().unwrap().contains("put the same files again"));
    (0..4).for_each(|node| fake.set_mood(node, Mood::Stuck));
    let error = get().await;
    assert!(matches!(error, ClientError::Damaged { lost: false, .. }), "{error}");
    assert!(error.hint().unwrap().contains("bring the nodes"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_or_hung_replica_costs_one_wait_and_not_one_each() {
    for mood in [Mood::Slow, Mood::Stuck] {
        let fake = Fake::start(&RACKS);
        let client = fake.client();
        // Many segments, one after the other.
        let files = (0..16).map(|at| (format!("{at:02}").into_bytes(), noise(5 << 20, at * 2)));
        let source = MemorySource::new(files.collect()).unwrap();
        client.put(Arc::new(source), put_options(1)).await.unwrap();
        fake.set_mood(1, mood);
        for (round, limit) in [5, 1].into_iter().enumerate() {
            let started = Instant::now();
            let options = GetOptions { parallel: 1, verify_only: true, ..GetOptions::default() };
            client.get(&at(1), Arc::new(MemorySink::default()), options).await.unwrap();
            let took = started.elapsed();
            assert!(took < Duration::from_secs(limit), "{mood:?}: get {round} took {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_was_not_asked_for_is_read_elsewhere_and_raises_no_suspicion() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    (0..2).for_each(|node| fake.set_mood(node, Mood::Foreign));
    let sink = Arc::new(MemorySink::default());
    client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());
    (2..4).for_each(|node| fake.set_mood(node, Mood::Foreign));
    let sink = Arc::new(MemorySink::default());
    let error = client.get(&at(1), sink, GetOptions::default()).await.unwrap_err();
    assert!(format!("{error:?}").contains("codec 7 is not one that this build knows"), "{error:?}");
    assert!(fake.nodes.iter().all(|node| node.suspicions.load(Ordering::Relaxed) == 0));
}
