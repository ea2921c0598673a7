//! Finding nodes and the leader, and asking again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::stream::{StreamExt, TryStreamExt};
use cairn_client::{Client, ClientError, ClientOptions, ErrorKind};
use cairn_host::seam::Env;
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::{Attempt, RequestId, Run};
use cairn_types::model::ManifestPlace;
use tokio::time::Instant;

use crate::fake::{Fake, FakeDialer, Mood, TestRuntime, address};
use crate::{RACKS, at, begin};

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

/// The leader reads a long manifest for far longer than the deadline, and says so.
#[tokio::test(start_paused = true)]
async fn a_seal_that_goes_on_outlasts_the_deadline_and_another_command_does_not() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let Reply::Begun(begun) = client.execute(begin(1), Duration::ZERO).await.unwrap() else {
        panic!("it begins");
    };
    let seal = Body::SealPart(command::SealPart {
        checkpoint: begun.checkpoint,
        attempt: begun.attempt,
        part: 7,
        run: Run(1),
        manifest: ManifestPlace::Inline(Bytes::new()),
        set_digest: [0; 32],
        bytes: 0,
        files: 0,
        compared: 0,
        voids: Vec::new(),
    });
    let busy_for = |seconds| {
        let until = Instant::now() + Duration::from_secs(seconds);
        fake.state.lock().busy_until = Some(until);
    };
    busy_for(20 * 60);
    let error = client.execute(begin(2), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    // The answer comes in the end: this one is a refusal, for there is no part 7.
    let error = client.execute(seal.clone(), Duration::ZERO).await.unwrap_err();
    assert!(error.refusal().is_some(), "{error}");

    busy_for(100 * 60);
    let began = Instant::now();
    let error = client.execute(seal, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(32 * 60), "bounded: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_returned_at_once() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.execute(begin(1), Duration::ZERO).await.unwrap();
    let mut lower = begin(1);
    if let Body::Begin(command::Begin { attempt, .. }) = &mut lower {
        *attempt = Some(Attempt(0));
    }
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

/// Each process of a command line starts at an endpoint by chance: nothing is known of it.
#[tokio::test(start_paused = true)]
async fn frozen_node_costs_a_new_client_less_than_a_second() {
    let fake = Fake::start(&RACKS);
    fake.client().execute(begin(1), Duration::ZERO).await.unwrap();
    for frozen in 0..4 {
        fake.set_mood(frozen, Mood::Silent);
        fake.state.lock().leader = Some((frozen + 1) % 4);
        for _ in 0..8 {
            let client = fake.client();
            let before = Instant::now();
            client.status().await.unwrap();
            assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
            let before = Instant::now();
            client.execute(begin(1), Duration::ZERO).await.unwrap();
            assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        }
        fake.set_mood(frozen, Mood::Well);
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_knows_a_frozen_node_does_not_wait_for_it_again() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    client.execute(begin(1), Duration::ZERO).await.unwrap();
    for node in 0..4 {
        fake.set_mood(node, Mood::Silent);
        fake.state.lock().leader = Some((node + 1) % 4);
        // The first calls may meet it; the others do not.
        for _ in 0..3 {
            client.status().await.unwrap();
            client.execute(begin(1), Duration::ZERO).await.unwrap();
        }
        let before = Instant::now();
        for _ in 0..20 {
            client.status().await.unwrap();
            client.execute(begin(1), Duration::ZERO).await.unwrap();
        }
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        fake.set_mood(node, Mood::Well);
        tokio::time::sleep(Duration::from_secs(90)).await;
    }
}

/// The fake's nodes reach the leader; this client does not.
#[tokio::test(start_paused = true)]
async fn command_reaches_a_leader_that_only_nodes_reach() {
    let fake = Fake::start(&RACKS);
    fake.set_mood(2, Mood::Silent);
    fake.state.lock().leader = Some(2);
    let client = fake.client();
    let before = Instant::now();
    client.execute(begin(1), Duration::ZERO).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    let before = Instant::now();
    for _ in 0..20 {
        client.execute(begin(1), Duration::ZERO).await.unwrap();
    }
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    let requests = fake.state.lock().requests.clone();
    let distinct: std::collections::BTreeSet<_> = requests.iter().collect();
    assert_eq!(distinct.len(), 21, "one id for each command, however often it was sent");
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
async fn list_gives_every_checkpoint_once_and_asks_for_a_page_when_it_is_wanted() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    for step in [5, 1, 4, 2, 3] {
        client.execute(begin(step), Duration::ZERO).await.unwrap();
    }
    let listed: Vec<_> = client.list(None, true).try_collect().await.unwrap();
    let steps: Vec<u64> = listed.iter().map(|info| info.step.0).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
    assert_eq!(fake.state.lock().lists, 5, "pages of one");
    let mut list = client.list(None, true);
    assert_eq!(fake.state.lock().lists, 5, "nothing is asked before it is polled");
    for _ in 0..2 {
        list.try_next().await.unwrap().unwrap();
    }
    assert_eq!(fake.state.lock().lists, 7, "the third page is not asked for yet");
    drop(list);
    let committed: Vec<_> = client.list(None, false).try_collect().await.unwrap();
    assert!(committed.is_empty());
    (0..4).for_each(|node| fake.set_mood(node, Mood::Down));
    let mut list = client.list(None, true);
    assert_eq!(list.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(list.next().await.is_none(), "an error ends it");
}
