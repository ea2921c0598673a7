//! Open-ended uploads: files are added one by one until the upload is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::{
    ClientError, ErrorKind, GetOptions, MemorySink, MemorySource, OpenUpload, UploadFile,
    UploadOptions,
};
use cairn_types::command::Refusal;
use cairn_types::ids::{Attempt, Step};
use tokio::io::AsyncWriteExt;

use crate::fake::Fake;
use crate::{RACKS, at, contents, noise, put_options};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn options(step: u64, attempt: u64) -> UploadOptions {
    let mut options = UploadOptions::new("run".parse().unwrap(), Step(step));
    options.attempt = Some(Attempt(attempt));
    options
}

async fn written(upload: &OpenUpload, name: &str, content: &[u8]) -> UploadFile {
    let mut file = upload.file(name).await.unwrap();
    for piece in content.chunks(300_007) {
        file.write_all(piece).await.unwrap();
    }
    file
}

async fn restored(client: &cairn_client::Client, step: u64) -> BTreeMap<Vec<u8>, Bytes> {
    let sink = Arc::new(MemorySink::default());
    client.get(&at(step), sink.clone(), GetOptions::default()).await.unwrap();
    contents(&sink)
}

#[tokio::test(start_paused = true)]
async fn close_commits_the_last_of_each_name_of_all_writers_and_nothing_else() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let one = client.upload(options(1, 7)).await.unwrap();
    let two = client.upload(options(1, 7)).await.unwrap();
    assert_eq!((one.checkpoint(), one.attempt()), (two.checkpoint(), two.attempt()));
    let (old, big, new) = (noise(100, 1), noise(33 * MIB, 2), noise(200, 3));
    for (upload, name, content) in [
        (&one, "a", &old),
        (&one, "model/b", &big),
        (&two, "model/c", &old),
        (&two, "a", &new),
        (&one, "d", &old),
        (&one, "empty", &Bytes::new()),
    ] {
        let report = written(upload, name, content).await.finish().await.unwrap();
        assert_eq!(report.bytes, content.len() as u64);
        assert!(client.resolve(&at(1)).await.is_err(), "not before it is closed");
    }
    written(&two, "model/b", &new).await.discard().await.unwrap();
    drop(written(&one, "a", &big).await);
    assert!(one.remove("d").await.unwrap());
    assert!(!one.remove("d").await.unwrap(), "it is gone");
    let info = client.open_upload(&"run".parse().unwrap(), Step(1)).await.unwrap();
    assert_eq!((info.parts_wanted, info.open_ended), (4, true));
    fake.state.lock().lose_answers = 1;
    let closed = one.close().await.unwrap();
    assert_eq!(closed.durability.segments_unavailable, 0);
    let want = [("a", new), ("empty", Bytes::new()), ("model/b", big), ("model/c", old)];
    let want = want.map(|(name, bytes)| (name.as_bytes().to_vec(), bytes));
    assert!(restored(&client, 1).await == BTreeMap::from(want));
    // The step is frozen.
    let late = two.file("late").await.unwrap().finish().await.unwrap_err();
    assert!(matches!(late.refusal(), Some(Refusal::NotOpen(_))), "{late}");
    let over = client.upload(options(1, 7)).await.err().unwrap();
    assert!(matches!(over, ClientError::UploadOver { .. }), "{over}");
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_no_file_and_says_so() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let upload = client.upload(options(1, 7)).await.unwrap();
    let file = written(&upload, "a", b"half").await;
    let error = upload.close().await.unwrap_err();
    assert!(matches!(error, ClientError::UnfinishedFiles { count: 1 }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    file.finish().await.unwrap();
    // Whoever comes may close it.
    client.close_upload(&"run".parse().unwrap(), Step(1)).await.unwrap();
    assert_eq!(restored(&client, 1).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_without_files_is_not_committed() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let error = client.upload(options(1, 7)).await.unwrap().close().await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::NothingSealed(_))), "{error}");
    let error = client.upload(options(2, 7)).await.unwrap().file("../a").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_higher_attempt_fences_the_writers_of_the_lower_one() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let old = client.upload(options(1, 7)).await.unwrap();
    written(&old, "old", b"old").await.finish().await.unwrap();
    let new = client.upload(options(1, 8)).await.unwrap();
    let late = written(&old, "late", b"late").await.finish().await.unwrap_err();
    assert!(matches!(late.refusal(), Some(Refusal::Fenced { .. })), "{late}");
    written(&new, "new", b"new").await.finish().await.unwrap();
    new.close().await.unwrap();
    let names: Vec<_> = restored(&client, 1).await.into_keys().collect();
    assert_eq!(names, [b"new".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_upload_is_over() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let (upload, other) =
        (client.upload(options(1, 7)).await.unwrap(), client.upload(options(1, 7)).await.unwrap());
    written(&upload, "a", b"a").await.finish().await.unwrap();
    upload.abort().await.unwrap();
    assert!(matches!(other.close().await.unwrap_err().refusal(), Some(Refusal::NotOpen(_))));
}

/// A safetensors file of tensors of these lengths.
fn tensors(lens: &[usize], seed: u64) -> Vec<u8> {
    let mut end = 0;
    let tensor = |(index, len): (usize, &usize)| {
        let from = end;
        end += len;
        format!(
            "\"t{index}\":{{\"dtype\":\"U8\",\"shape\":[{len}],\"data_offsets\":[{from},{end}]}}"
        )
    };
    let header = lens.iter().enumerate().map(tensor).collect::<Vec<_>>().join(",");
    let header = format!("{{{header}}}");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&noise(lens.iter().sum(), seed));
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_streamed_safetensors_file_is_cut_at_its_tensors() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    // So few that the manifest is inline: the fake cluster reads no other.
    let content = tensors(&[300 * KIB, 5 * MIB, 256 * KIB], 9);
    let files = BTreeMap::from([(b"model".to_vec(), Bytes::from(content.clone()))]);
    client.put(Arc::new(MemorySource::new(files).unwrap()), put_options(1)).await.unwrap();
    let upload = client.upload(options(2, 7)).await.unwrap();
    let report = written(&upload, "model", &content).await.finish().await.unwrap();
    assert_eq!((report.segments_sent, report.bytes_sent), (0, 0), "each segment was there");
    // One tensor changes.
    let mut changed = content.clone();
    let at = content.len() - 256 * KIB - 5;
    changed[at] ^= 1;
    let report = written(&upload, "model", &changed).await.finish().await.unwrap();
    assert_eq!((report.segments_sent, report.bytes_sent), (1, 5 * MIB as u64));
    upload.close().await.unwrap();
    assert!(restored(&client, 2).await == BTreeMap::from([(b"model".to_vec(), changed.into())]));
}
