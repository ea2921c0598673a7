//! The client for programs that are not async, outside and within a runtime.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{
    Client, ClientBuilder, ClientError, ErrorKind, GetOptions, MemorySink, PutOptions, blocking,
};
use cairn_host::seam::Env;

use crate::fake::{Fake, FakeDialer, Mood, TestRuntime, address};
use crate::{RACKS, at, contents, files, noise, put_options, source};

fn builder(fake: Arc<Fake>) -> ClientBuilder {
    let runtime = Arc::new(TestRuntime(AtomicU64::new(1)));
    let dialer = FakeDialer { clusters: vec![("node".to_owned(), fake)] };
    Client::builder().endpoints([address(0)]).env(Env { runtime, dialer: Arc::new(dialer) })
}

fn write(client: &blocking::Client, options: PutOptions, content: &[u8]) {
    let mut writer = client.writer(options, "f").unwrap();
    writer.write_all(content).unwrap();
    writer.flush().unwrap();
    writer.finish().unwrap();
}

/// One of everything.
fn use_it() {
    let client = blocking::Client::connect(builder(Fake::start(&RACKS))).unwrap();
    let content = noise(100_000, 3);
    write(&client, put_options(1), &content);
    client.put(source(), put_options(2)).unwrap();
    let steps: Vec<u64> = client.list(None, false).map(|info| info.unwrap().step.0).collect();
    assert_eq!(steps, [1, 2]);

    let mut reader = client.reader(&at(1), "f", 100..).unwrap();
    assert_eq!(reader.inner().len(), content.len() as u64 - 100);
    assert_eq!(reader.seek(SeekFrom::Current(5)).unwrap(), 5);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(Bytes::from(rest), content.slice(105..));

    let sink = Arc::new(MemorySink::default());
    client.get(&at(2), sink.clone(), GetOptions::default()).unwrap();
    assert_eq!(contents(&sink), files());
    assert_eq!(client.wait(client.inner().status()).unwrap().nodes.len(), 4);

    client.delete(&at(2), true).unwrap();
    assert_eq!(client.resolve(&at(2)).unwrap_err().kind(), ErrorKind::NotFound);
    let missing = client.reader(&at(2), "f", ..).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let mut dropped = client.writer(put_options(3), "f").unwrap();
    dropped.write_all(&content).unwrap();
    drop(dropped);
    assert_eq!(client.resolve(&at(3)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn blocking_client_works_on_a_plain_thread() {
    use_it();
}

#[tokio::test]
async fn blocking_client_works_within_a_runtime_of_one_thread() {
    use_it();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_client_works_within_a_runtime_of_several_threads() {
    use_it();
}

#[tokio::test]
async fn blocking_reader_that_outlives_its_client_reads_on_and_ends_within_a_runtime() {
    let client = blocking::Client::connect(builder(Fake::start(&RACKS))).unwrap();
    let content = noise(10_000, 3);
    write(&client, put_options(1), &content);
    let mut reader = client.reader(&at(1), "f", ..).unwrap();
    drop(client);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(Bytes::from(all), content);
    // The threads end here: to drop a runtime within this one would panic.
    drop(reader);
}

#[test]
fn blocking_client_says_why_it_cannot_be_made() {
    let error = blocking::Client::connect(Client::builder()).err().unwrap();
    assert!(matches!(error, ClientError::Setup(_)), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let fake = Fake::start(&RACKS);
    fake.set_mood(0, Mood::Down);
    let nobody = builder(fake).deadline(Duration::from_millis(100));
    let error = blocking::Client::connect(nobody).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
