//! `watch` and `wait` as a user meets them: no event is lost or told twice, whichever node dies.

use cairn_client::stream::StreamExt;
use cairn_client::{Client, ClientError, Event, EventId, Happened, WatchOptions, Watched};
use cairn_tests::cluster::{DEADLINE, TestCluster};
use cairn_tests::files;
use tokio::time::timeout;

use crate::{args, program};

fn put(cluster: &TestCluster, namespace: &str, step: u64) {
    let directory = cluster.scratch_directory(&format!("{}-{step}", namespace.replace('/', "-")));
    files::random_file(&directory.join("weights.bin"), 100_000, step);
    let name = format!("{namespace}@{step}");
    cluster.cairn().run(args(&[&"put", &directory, &name])).ok();
}

fn options(namespace: &str, from: Option<EventId>) -> WatchOptions {
    WatchOptions { prefix: Some(namespace.parse().expect("a namespace")), from }
}

/// All that is told until a ref moves.
async fn until_a_ref_moves(
    client: Client,
    options: WatchOptions,
) -> Result<Vec<Watched>, ClientError> {
    let mut watch = client.watch(options);
    let mut told = Vec::new();
    while let Some(next) = timeout(DEADLINE, watch.next()).await.expect("something in time") {
        let next = next?;
        let is_last = matches!(&next, Watched::Event(event) if event.what.name() == "ref-moved");
        told.push(next);
        if is_last {
            break;
        }
    }
    Ok(told)
}

fn events(told: &[Watched]) -> Vec<&Event> {
    let mut events = Vec::new();
    for told in told {
        if let Watched::Event(event) = told {
            events.push(event);
        }
    }
    events
}

#[test]
fn a_watch_outlives_its_node_and_tells_each_event_once() {
    let mut cluster = TestCluster::start(program());
    put(&cluster, "w/run", 1);
    let client = cluster.new_client(cluster.endpoints());
    let watching = cluster.runtime().spawn(until_a_ref_moves(client, options("w", None)));
    let mut step = 1;
    // Each node in turn, so that the one that serves the watch is among them.
    for dead in 0..3 {
        step += 1;
        put(&cluster, "w/run", step);
        cluster.node(dead).kill().expect("kill the node");
        step += 1;
        put(&cluster, "w/run", step);
        put(&cluster, "other", step);
        cluster.node(dead).start().expect("start the node again");
        cluster.wait_healthy();
    }
    cluster.cairn().run(["ref", "set", "w/run@done", "latest"]).ok();
    let told = cluster.run(watching).expect("the watch").expect("no error");

    let seam = told.iter().position(|it| matches!(it, Watched::Seam(_))).expect("a seam");
    let begins = told[..seam].iter().rposition(|it| *it == Watched::Begins).expect("a begin");
    let mut steps: Vec<u64> = Vec::new();
    for it in &told[begins..] {
        match it {
            Watched::Checkpoint(checkpoint) => steps.push(checkpoint.step.0),
            Watched::Event(Event { what: Happened::Committed { step, .. }, .. }) => {
                steps.push(step.0);
            }
            _ => {}
        }
    }
    assert_eq!(steps, (1..=step).collect::<Vec<_>>(), "each commit once: {told:?}");
    let ids: Vec<EventId> = told.iter().filter_map(Watched::cursor).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    let full = events(&told).iter().filter(|it| it.what.name() == "full").count() as u64;
    assert!((1..=step).contains(&full), "{full} of {step} became full");

    // Every node tells the same behind the same cursor.
    let from = told[seam].cursor();
    let wanted: Vec<Event> = events(&told).into_iter().cloned().collect();
    for endpoint in cluster.endpoints() {
        let client = cluster.new_client(vec![endpoint.clone()]);
        let again = cluster.run(until_a_ref_moves(client, options("w", from))).expect("no error");
        let again: Vec<Event> = events(&again).into_iter().cloned().collect();
        assert_eq!(again, wanted, "{endpoint}");
    }
    let cairn = cluster.cairn();
    cairn.run(["watch", "w", "--from", "0/0.0"]).fails(4, "too old").hints("without --from");
    cairn.run(["watch", "w", "--from", "7/1.0"]).fails(2, "ahead of this cluster");
    cairn.run(["watch", "--from", "yesterday"]).fails(2, "malformed cursor");
    let from = from.expect("a cursor").to_string();
    let lines = cairn.run(["watch", "w", "--from", &from, "--events", "2", "--json"]).ok().text();
    let told: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a document a line"))
        .filter(|document: &serde_json::Value| document["told"] == "event")
        .collect();
    let cursors: Vec<String> = wanted.iter().take(2).map(|event| event.id.to_string()).collect();
    let printed: Vec<&str> = told.iter().filter_map(|it| it["cursor"].as_str()).collect();
    assert_eq!(printed, cursors, "{lines}");
}

#[test]
fn a_script_waits_for_a_checkpoint_that_is_not_there_yet() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let waited = cairn.start(["wait", "watching/wait@1", "--for", "full", "--json"]);
    cairn
        .run(["wait", "watching/wait@2", "--wait-timeout", "1s"])
        .fails(8, "watching/wait@2 is not committed");
    put(&cluster, "watching/wait", 1);
    let document = waited.finish().ok().json();
    assert_eq!(document["step"], 1);
    assert_eq!(document["replicas_min"], document["replicas_wanted"], "{document}");
    cairn.run(["quarantine", "watching/wait@1", "--reason", "nan"]).ok();
    cairn.run(["wait", "watching/wait@1"]).fails(4, "in quarantine");
    cairn.run(["wait", "watching/wait@latest"]).fails(2, "names no step");
}

#[test]
fn ls_filters_sorts_and_goes_on_behind_a_cursor() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    for step in 1..=4 {
        put(&cluster, "watching/ls", step);
    }
    cairn.run(["annotate", "watching/ls@2", "--label", "eval=done", "--metric", "loss=1.5"]).ok();
    cairn.run(["annotate", "watching/ls@3", "--label", "eval=no", "--metric", "loss=2"]).ok();
    cairn.run(["quarantine", "watching/ls@4", "--reason", "nan"]).ok();
    let steps = |flags: &[&str]| -> Vec<u64> {
        let listed = cairn.run([&["ls", "watching/ls", "--json"], flags].concat()).ok().json();
        let found = listed["checkpoints"].as_array().cloned().unwrap_or_default();
        found.iter().filter_map(|it| it["step"].as_u64()).collect()
    };
    assert_eq!(steps(&["--label", "eval"]), [2, 3]);
    assert_eq!(steps(&["--label", "eval=done"]), [2]);
    assert_eq!(steps(&["--state", "quarantined"]), [4]);
    assert_eq!(steps(&["--state", "open,deleted"]), [0; 0]);
    assert_eq!(steps(&["--sort", "time"]), [4, 3, 2, 1]);
    assert_eq!(steps(&["--as-of", "1h"]), [0; 0]);
    assert_eq!(steps(&["--as-of", "0s"]).len(), 4);
    let first = cairn.run(["ls", "watching/ls", "--limit", "3", "--json"]).ok().json();
    let next = first["next"].as_str().expect("a cursor");
    assert_eq!(steps(&["--after", next]), [4]);
    let resolved = |selector: &str| {
        let address = format!("watching/ls@{selector}");
        cairn.run(["show", &address, "--json"]).ok().json()["step"].as_u64()
    };
    assert_eq!(resolved("best:loss:min"), Some(2));
    cairn.run(["show", "watching/ls@best"]).fails(2, "names no metric").hints("policy set");
    cairn.run(["policy", "set", "watching", "--best", "loss:max"]).ok();
    assert_eq!((resolved("best"), resolved("best:loss")), (Some(3), Some(3)));
    cairn.run(["policy", "unset", "watching", "best"]).ok();
}
