//! Futures that are dropped: what ends, what is left, and what the same call finds then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_client::{ErrorKind, GetOptions, MemorySink, PutOutcome, Wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::fake::{Fake, FakeNode, Mood};
use crate::{RACKS, at, contents, files, noise, put_options, source};

/// Calls that nodes have taken, of one kind.
fn count(fake: &Fake, of: impl Fn(&FakeNode) -> &AtomicU64) -> u64 {
    fake.nodes.iter().map(|node| of(node).load(Ordering::Relaxed)).sum()
}

fn mood_of_all(fake: &Fake, mood: Mood) {
    (0..RACKS.len()).for_each(|node| fake.set_mood(node, mood));
}

#[tokio::test(start_paused = true)]
async fn put_that_is_dropped_ends_and_the_next_one_sends_nothing_again() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    // Nodes store, and their reports do not arrive: the put cannot commit.
    mood_of_all(&fake, Mood::Mute);
    let put = client.put(source(), put_options(1));
    assert!(timeout(Duration::from_secs(20), put).await.is_err());
    let (executes, puts) = (fake.state.lock().executes, count(&fake, |node| &node.puts));
    sleep(Duration::from_secs(120)).await;
    assert_eq!(fake.state.lock().executes, executes, "not even the lease is renewed");
    assert_eq!(count(&fake, |node| &node.puts), puts);
    assert_eq!(client.resolve(&at(1)).await.unwrap_err().kind(), ErrorKind::NotFound);

    (0..RACKS.len()).for_each(|node| fake.unmute(node));
    let report = client.put(source(), put_options(1)).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    assert_eq!(report.bytes_sent, 0, "what was there was not sent again");
}

#[tokio::test(start_paused = true)]
async fn put_that_is_dropped_after_its_commit_was_committed() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let mut options = put_options(1);
    // All replicas never come: the put waits, though it has committed.
    fake.set_mood(0, Mood::Mute);
    options.wait = Wait::Full { timeout: Duration::from_secs(600) };
    assert!(timeout(Duration::from_secs(60), client.put(source(), options)).await.is_err());
    let report = client.put(source(), put_options(1)).await.unwrap();
    assert!(report.already_committed());
}

#[tokio::test(start_paused = true)]
async fn writer_that_is_dropped_ends_its_upload_and_keeps_what_was_sent() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let content = noise(65 << 20, 5);
    let mut writer = client.writer(put_options(1), "f").await.unwrap();
    writer.write_all(&content).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(writer);
    let (executes, puts) = (fake.state.lock().executes, count(&fake, |node| &node.puts));
    sleep(Duration::from_secs(120)).await;
    assert_eq!(fake.state.lock().executes, executes, "not even the lease is renewed");
    assert_eq!(count(&fake, |node| &node.puts), puts);

    let mut writer = client.writer(put_options(1), "f").await.unwrap();
    writer.write_all(&content).await.unwrap();
    let report = writer.finish().await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    assert!(report.bytes_kept >= 32 << 20, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn get_that_is_dropped_ends_and_the_next_one_goes_on() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    mood_of_all(&fake, Mood::Slow);
    let sink = Arc::new(MemorySink::default());
    let address = at(1);
    let get = client.get(&address, sink.clone(), GetOptions::default());
    assert!(timeout(Duration::from_secs(10), get).await.is_err());
    let (gets, written) = (count(&fake, |node| &node.gets), sink.bytes_written());
    sleep(Duration::from_secs(120)).await;
    assert_eq!((count(&fake, |node| &node.gets), sink.bytes_written()), (gets, written));

    mood_of_all(&fake, Mood::Well);
    let report = client.get(&address, sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());
    assert!(report.bytes_kept > 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn reader_that_is_dropped_fetches_nothing_more() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.put(source(), put_options(1)).await.unwrap();
    let mut reader = client.reader(&at(1), "model/big").open().await.unwrap();
    mood_of_all(&fake, Mood::Slow);
    reader.read_exact(&mut [0; 9]).await.unwrap();
    drop(reader);
    let gets = count(&fake, |node| &node.gets);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(count(&fake, |node| &node.gets), gets);
}
