//! Files as streams: `AsyncRead`, `AsyncSeek` and `AsyncWrite`.

use std::io::SeekFrom;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{ClientError, ErrorKind, MemorySource, PutOutcome};
use cairn_types::command::Refusal;
use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::fake::{Fake, Mood};
use crate::{RACKS, at, files, noise, put_options, source};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn reader_gives_any_range_of_a_file_verified_with_a_replica_lost() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    fake.set_mood(0, Mood::Lying);
    fake.set_mood(1, Mood::Down);
    let big = files()[&b"model/big".to_vec()].clone();

    let mut reader = client.reader(&at(1), "model/big").open().await.unwrap();
    assert_eq!(reader.len(), big.len() as u64);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    assert!(all == big, "the whole file");
    assert_eq!(reader.read(&mut [0; 9]).await.unwrap(), 0, "at its end");

    // Backwards, within what is here, far ahead, from the end, and beyond it.
    for place in [5, 9, 10 << 20, (32 << 20) - 3, big.len() as u64 - 4, big.len() as u64 + 7] {
        assert_eq!(reader.seek(SeekFrom::Start(place)).await.unwrap(), place);
        let mut some = Vec::new();
        (&mut reader).take(1000).read_to_end(&mut some).await.unwrap();
        let from = (place as usize).min(big.len());
        assert!(some == big[from..big.len().min(from + 1000)], "{place}");
    }
    assert!(reader.seek(SeekFrom::End(-(big.len() as i64) - 1)).await.is_err());

    // A range has positions of its own, and bytes that lie in two segments.
    let (start, end) = ((32 << 20) - 5, (32 << 20) + 5);
    let ranged = || client.reader(&at(1), "model/big").range(start..end);
    let mut reader = ranged().open().await.unwrap();
    reader.seek(SeekFrom::End(-3)).await.unwrap();
    let mut last = Vec::new();
    reader.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, big[end as usize - 3..end as usize]);
    let chunks: Vec<Bytes> = ranged().stream().await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), big[start as usize..end as usize]);
}

#[tokio::test(start_paused = true)]
async fn short_read_fetches_a_block_and_not_the_segment() {
    let fake = Fake::start(&["a"; 3]);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let started = tokio::time::Instant::now();
    (0..3).for_each(|node| fake.set_mood(node, Mood::Slow));
    let mut reader = client.reader(&at(1), "model/big").range(..100).open().await.unwrap();
    reader.read_to_end(&mut Vec::new()).await.unwrap();
    // A chunk takes such a node almost a second; the segment has 48.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn reader_says_what_is_missing_or_wrong() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    for (step, file, range) in [(2, "empty", 0..0), (1, "none", 0..0), (1, "config.json", 0..1001)]
    {
        let error = client.reader(&at(step), file).range(range).open().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.is_retryable());
    }
    let mut reader = client.reader(&at(1), "config.json").open().await.unwrap();
    (0..4).for_each(|node| fake.set_mood(node, Mood::Rotten));
    let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    let error = error.downcast::<ClientError>().unwrap();
    assert!(matches!(error, ClientError::Damaged { .. }), "{error}");
    // The same reader goes on once a replica is there again.
    (0..4).for_each(|node| fake.set_mood(node, Mood::Well));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, files()[&b"config.json".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn written_file_is_committed_by_finish_and_only_by_it() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let content = noise(70 * MIB + 9, 5);
    let write = async |step: u64, content: &[u8]| {
        let mut writer = client.writer(put_options(step), "model.bin").await.unwrap();
        for piece in content.chunks(3 * MIB + 1) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
        writer
    };
    let report = write(1, &content).await.finish().await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    assert_eq!((report.files, report.bytes, report.segments), (1, content.len() as u64, 3));
    let mut read = Vec::new();
    let mut reader = client.reader(&at(1), "model.bin").open().await.unwrap();
    reader.read_to_end(&mut read).await.unwrap();
    assert!(read == content);

    drop(write(2, &content).await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let error = client.resolve(&at(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "a dropped writer commits nothing");

    // Written again: the same is success, something else is not, and no length is special.
    assert!(write(1, &content).await.finish().await.unwrap().already_committed());
    let error = write(1, &content[1..]).await.finish().await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::StepExists { .. })), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    for (step, len) in [(10, 0), (11, 1), (12, 32 * MIB), (13, 64 * MIB)] {
        let report = write(step, &content[..len]).await.finish().await.unwrap();
        assert_eq!(report.bytes, len as u64);
        let mut reader = client.reader(&at(step), "model.bin").open().await.unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert!(read == content[..len], "{len} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn written_file_is_cut_as_a_file_that_is_put() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let content = noise(40 * MIB, 8);
    let source = MemorySource::new([(b"f".to_vec(), content.clone())].into()).unwrap();
    client.put(std::sync::Arc::new(source), put_options(1)).await.unwrap();
    let mut writer = client.writer(put_options(1), "f").await.unwrap();
    writer.write_all(&content).await.unwrap();
    assert!(writer.finish().await.unwrap().already_committed(), "byte for byte one manifest");
}

#[tokio::test(start_paused = true)]
async fn segment_that_lost_its_quorum_before_the_seal_is_fetched_back_and_sent_again() {
    let fake = Fake::start(&["a", "b", "c"]);
    let client = fake.client();
    (1..3).for_each(|node| fake.set_mood(node, Mood::Mute));
    let content = noise(33 * MIB, 6);
    let mut writer = client.writer(put_options(1), "f").await.unwrap();
    writer.write_all(&content).await.unwrap();
    let speak = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        // What they held is gone; one node has it.
        for node in 1..3 {
            fake.nodes[node].files.lock().clear();
            fake.set_mood(node, Mood::Well);
        }
    };
    let (report, ()) = tokio::join!(writer.finish(), speak);
    assert!(matches!(report.unwrap().outcome, PutOutcome::Committed { .. }));
    let mut read = Vec::new();
    let mut reader = client.reader(&at(1), "f").open().await.unwrap();
    reader.read_to_end(&mut read).await.unwrap();
    assert!(read == content);
}

#[tokio::test(start_paused = true)]
async fn writer_of_an_upload_that_fails_says_so_while_it_writes() {
    let fake = Fake::start(&["a"]);
    let client = fake.client();
    let mut writer = client.writer(put_options(1), "f").await.unwrap();
    // The step asks for more nodes than there are. Memory is bounded: it cannot take all of it.
    let error = loop {
        match writer.write_all(&vec![7; 16 * MIB]).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    let failed = writer.finish().await.unwrap_err();
    assert!(matches!(failed.refusal(), Some(Refusal::NotEnoughHosts { .. })), "{failed}");
    assert_eq!(error.to_string(), failed.to_string());
}

#[tokio::test(start_paused = true)]
async fn open_checkpoint_reads_ranges_of_its_files_while_latest_moves_on() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let latest = format!("{}@latest", at(1).namespace).parse().unwrap();
    let opened = client.open(&latest, false).await.unwrap();
    let files = files();
    let listed: Vec<(Vec<u8>, u64)> =
        opened.files().map(|file| (file.name.clone(), file.len)).collect();
    let wanted: Vec<(Vec<u8>, u64)> =
        files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
    assert_eq!(listed, wanted);

    let other = MemorySource::new([(b"config.json".to_vec(), Bytes::from_static(b"{}"))].into());
    client.put(std::sync::Arc::new(other.unwrap()), put_options(2)).await.unwrap();
    assert_eq!(client.resolve(&latest).await.unwrap().step, put_options(2).step);
    assert_eq!(opened.info().step, put_options(1).step);

    let big = &files[&b"model/big".to_vec()];
    let end = big.len() as u64;
    let read = |range: std::ops::Range<u64>| {
        let stream = opened.bytes("model/big", range).unwrap();
        async { stream.try_collect::<Vec<Bytes>>().await.unwrap().concat() }
    };
    let (first, last, none) = tokio::join!(read(3..9), read(end - 5..end), read(7..7));
    assert_eq!((&first[..], &last[..]), (&big[3..9], &big[big.len() - 5..]));
    assert!(none.is_empty());
    let mut whole = Vec::new();
    opened.reader("model/big").unwrap().read_to_end(&mut whole).await.unwrap();
    assert!(whole == *big);

    let missing = |result: Option<ClientError>| {
        let error = result.expect("an error");
        assert!(matches!(error, ClientError::NoSuchFile { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    };
    missing(opened.bytes("model/big", 0..end + 1).err());
    missing(opened.bytes("model/gone", 0..0).err());
    missing(opened.reader("model").err());
}
