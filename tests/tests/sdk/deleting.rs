//! A step with a committed checkpoint, an open upload and deleted ones: each kind is deleted by a
//! method of its own.

use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Client, ClientError, GetOptions, MemorySink};
use cairn_types::ids::{Attempt, CheckpointId, Namespace, Step};
use cairn_types::model::CheckpointState;

use crate::fake::Fake;
use crate::{RACKS, at, put_options, source};

fn run() -> Namespace {
    "run".parse().unwrap()
}

async fn put(client: &Client) -> CheckpointId {
    let mut options = put_options(1);
    options.replace = true;
    client.put(source(), options).await.unwrap().checkpoint.unwrap()
}

/// One part of two: the upload stays open.
async fn open(client: &Client) -> CheckpointId {
    let mut options = put_options(1);
    (options.parts, options.attempt, options.replace) = (2, Some(Attempt(9)), true);
    client.put(source(), options).await.unwrap().checkpoint.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_abort_takes_the_upload_and_leaves_the_committed_checkpoint() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let committed = put(&client).await;
    let error = client.abort_upload(&run(), Step(1), true).await.unwrap_err();
    assert!(matches!(error, ClientError::NoSuchRecord { .. }), "{error}");
    assert_eq!(error.to_string(), "run@1 has no open upload");
    let upload = open(&client).await;
    assert_eq!(client.open_upload(&run(), Step(1)).await.unwrap().id, upload);
    assert_eq!(client.abort_upload(&run(), Step(1), true).await.unwrap().id, upload);
    assert_eq!(client.resolve(&at(1)).await.unwrap().id, committed);
    assert!(client.open_upload(&run(), Step(1)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_is_freed_at_once_and_alone() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let error = client.free_deleted(&run(), Step(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::NoSuchRecord { .. }), "{error}");
    let mut deleted = Vec::new();
    for _ in 0..2 {
        deleted.push(put(&client).await);
        client.delete(&at(1), false).await.unwrap();
    }
    // Neither a delete with `now` nor one without looks at them.
    for now in [false, true] {
        assert!(client.deletable(&at(1)).await.is_err());
        assert!(client.delete(&at(1), now).await.is_err());
    }
    let committed = put(&client).await;
    let upload = open(&client).await;
    let ids = |found: Vec<cairn_client::CheckpointInfo>| {
        assert!(found.iter().all(|info| info.state == CheckpointState::Deleted), "{found:?}");
        found.iter().map(|info| info.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(client.deleted(&run(), Step(1)).await.unwrap()), deleted);
    assert_eq!(ids(client.free_deleted(&run(), Step(1)).await.unwrap()), deleted);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.resolve(&at(1)).await.unwrap().id, committed);
    assert_eq!(client.open_upload(&run(), Step(1)).await.unwrap().id, upload);
    // The committed one is what a plain delete takes, and then the upload.
    assert_eq!(client.delete(&at(1), true).await.unwrap().id, committed);
    assert_eq!(client.delete(&at(1), true).await.unwrap().id, upload);
}

/// Nobody named what a node that lies resolves an address to.
#[tokio::test(start_paused = true)]
async fn an_answer_to_another_question_deletes_and_restores_nothing() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let kept = put(&client).await;
    client.put(source(), put_options(2)).await.unwrap();
    fake.state.lock().resolve_as = Some(at(1));
    let error = client.delete(&at(2), true).await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
    let sink = Arc::new(MemorySink::default());
    let error = client.get(&at(2), sink.clone(), GetOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("run@1 where run@2 was asked for"), "{error}");
    assert!(sink.files().is_empty());
    fake.state.lock().resolve_as = None;
    assert_eq!(client.resolve(&at(1)).await.unwrap().id, kept);
    client.resolve(&at(2)).await.unwrap();
}
