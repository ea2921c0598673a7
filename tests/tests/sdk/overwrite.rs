//! Downloads over files that are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_client::sink::{FileTarget, Plan, Presence};
use cairn_client::{ClientError, GetOptions, LocalSink, Sink, SinkError};

use crate::fake::Fake;
use crate::{RACKS, at, files, put_options, source};

#[tokio::test(start_paused = true)]
async fn a_killed_overwrite_goes_on_where_it_was() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(LocalSink::open(dir.path()).unwrap());
    let big = &files()[&b"model/big".to_vec()];
    let name = b"model/big".to_vec();
    let len = big.len() as u64;
    let file = FileTarget { name, mode: 0o644, mtime_ns: 0, len, extents: vec![] };
    // An old file of the same length, then one of another.
    for old in [vec![7; big.len()], vec![7; 100]] {
        std::fs::create_dir_all(dir.path().join("model")).unwrap();
        std::fs::write(dir.path().join("model/big"), &old).unwrap();
        let killed = open();
        let plan = Plan { files: std::slice::from_ref(&file), directories: &[], replace: true };
        killed.begin(&plan).unwrap();
        killed.create(&file).unwrap();
        killed.write_at(&file, 0, &big[..32 << 20]).unwrap();
        drop(killed);
        let options = GetOptions { overwrite: true, ..GetOptions::default() };
        let report = client.get(&at(1), open(), options).await.unwrap();
        assert!(report.bytes_kept >= 32 << 20, "kept {} bytes", report.bytes_kept);
        assert_eq!(std::fs::read(dir.path().join("model/big")).unwrap(), big[..]);
    }
}

/// Another run of the same get, or of another one, that has finished its files a moment before
/// this run ends.
struct Rivalled {
    sink: LocalSink,
    path: std::path::PathBuf,
    content: Bytes,
    rivals: AtomicU64,
}

impl Sink for Rivalled {
    fn begin(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError> {
        self.sink.begin(plan)
    }

    fn resume(&self, files: &[FileTarget]) -> Result<Vec<bool>, SinkError> {
        self.sink.resume(files)
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

    fn replaced(&self, files: &[FileTarget]) -> Result<Vec<usize>, SinkError> {
        if self.rivals.load(Ordering::Relaxed) > 0 {
            self.rivals.fetch_sub(1, Ordering::Relaxed);
            let new = self.path.with_extension("new");
            std::fs::write(&new, &self.content).unwrap();
            std::fs::rename(&new, &self.path).unwrap();
        }
        self.sink.replaced(files)
    }

    fn complete(&self) -> Result<(), SinkError> {
        self.sink.complete()
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_overwrites_at_once_both_succeed_if_the_bytes_are_the_same() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let right = files()[&b"model/small".to_vec()].clone();
    let mut wrong = right.to_vec();
    wrong[0] ^= 1;
    // One file alone is a piece of a segment that is not here: the cluster is asked.
    for (only, content, rivals, succeeds) in [
        (false, right.clone(), 2, true),
        (true, right.clone(), 2, true),
        (false, right, 1000, true),
        (false, Bytes::from(wrong.clone()), 1, false),
        (true, Bytes::from(wrong), 1, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sink = Rivalled {
            sink: LocalSink::open(dir.path()).unwrap(),
            path: dir.path().join("model/small"),
            content: content.clone(),
            rivals: AtomicU64::new(rivals),
        };
        let include: Option<cairn_client::Include> =
            if only { Some(Box::new(|name| name == b"model/small")) } else { None };
        let options = GetOptions { overwrite: true, include, ..GetOptions::default() };
        let got = client.get(&at(1), Arc::new(sink), options).await;
        match got {
            Ok(_) => {
                assert!(succeeds, "other bytes were taken for the checkpoint's");
                let there = std::fs::read(dir.path().join("model/small")).unwrap();
                assert_eq!(there, content);
            }
            Err(ClientError::Sink(SinkError::Replaced { .. })) if !succeeds => {}
            Err(error) => panic!("only {only}, {rivals} rivals: {error}"),
        }
    }
}
