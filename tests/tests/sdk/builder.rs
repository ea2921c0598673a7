//! Making a client.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cairn_client::{Client, ClientBuilder, ClientError, ClusterId, ClusterKey, SetupError};
use cairn_host::seam::Env;
use tokio::time::Instant;

use crate::RACKS;
use crate::fake::{Fake, FakeDialer, Mood, TestRuntime, address};

fn builder(clusters: &[(&str, &Arc<Fake>)]) -> ClientBuilder {
    let clusters = clusters.iter().map(|(name, fake)| ((*name).to_owned(), (*fake).clone()));
    let dialer = Arc::new(FakeDialer { clusters: clusters.collect() });
    let runtime = Arc::new(TestRuntime(AtomicU64::new(1)));
    Client::builder().env(Env { runtime, dialer })
}

#[tokio::test(start_paused = true)]
async fn connected_client_has_heard_from_the_cluster() {
    let fake = Fake::start(&RACKS);
    let client = builder(&[("node", &fake)]).endpoints([address(1)]).rack("b").connect().await;
    let client = client.unwrap();
    assert_eq!(client.cluster(), Some(fake.cluster));
    assert_eq!(client.nodes().len(), 4);
    assert_eq!(client.options().rack.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn connect_fails_in_time_where_nobody_answers() {
    let fake = Fake::start(&RACKS);
    (0..4).for_each(|node| fake.set_mood(node, Mood::Down));
    let started = Instant::now();
    let deadline = Duration::from_secs(7);
    let connect = builder(&[("node", &fake)]).endpoints([address(0)]).deadline(deadline);
    let error = connect.connect().await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() <= deadline, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connect_refuses_another_cluster_than_the_one_that_is_meant() {
    let fake = Fake::start(&RACKS);
    let other = ClusterId(fake.cluster.0 + 1);
    let connect = builder(&[("node", &fake)]).endpoints([address(0)]).cluster(other);
    let error = connect.connect().await.err().unwrap();
    assert!(matches!(error, ClientError::OtherCluster { want, .. } if want == other), "{error}");
}

#[tokio::test(start_paused = true)]
async fn key_beside_an_environment_is_refused() {
    let fake = Fake::start(&RACKS);
    let key = ClusterKey::from_text(&ClusterKey::generate()).unwrap();
    let built = builder(&[("node", &fake)]).endpoints([address(0)]).key(key).build();
    assert!(matches!(built.err(), Some(ClientError::Setup(SetupError::KeyAndEnv))));
}
