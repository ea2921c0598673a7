//! The audit says who did what, on every node the same, also after kills; and its check finds a
//! byte that was changed.

use std::path::PathBuf;

use cairn_tests::cluster::DEADLINE;
use cairn_tests::command::Cairn;
use cairn_tests::files;
use cairn_tests::wait::until;
use serde_json::Value;

use crate::args;
use crate::tokens::Keyed;

fn audit(cairn: &Cairn, flags: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["audit", "--json"];
    arguments.extend(flags);
    let document = cairn.run(arguments).ok().json();
    assert_eq!(document["gaps"], serde_json::json!([]), "{document}");
    document["records"].as_array().expect("records").clone()
}

/// The newest audit file of a node.
fn newest_file(keyed: &Keyed, node: usize) -> PathBuf {
    let directory = keyed.cluster.nodes()[node].data.join("audit");
    let files = files::list(&directory).into_iter().filter(|path| path.extension().is_some());
    directory.join(files.max().expect("an audit file"))
}

#[test]
fn the_audit_says_who_did_what_on_every_node_and_finds_a_flipped_byte() {
    let mut keyed = Keyed::start();
    let source = keyed.cluster.scratch("source");
    files::checkpoint(&source, 1 << 20, 1);
    let rights = ["--subject", "ci", "--right", "write,delete,read", "--namespace", "team/"];
    let ci = keyed.token("ci", &rights);
    let operator = keyed.cluster.cairn();
    ci.run(args(&[&"put", &source, &"team/run@1"])).ok();
    operator.run(args(&[&"put", &source, &"other/run@1"])).ok();
    ci.run(["rm", "team/run@1"]).ok();

    let words = |record: &Value| {
        let word = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        (word("subject"), word("command"), word("result"))
    };
    let of_team: Vec<_> = audit(&operator, &["team"]).iter().map(words).collect();
    let ci_did =
        |command: &str, result: &str| ("ci".to_owned(), command.to_owned(), result.to_owned());
    for did in [ci_did("begin", "accepted"), ci_did("seal_part", "committed")] {
        assert!(of_team.contains(&did), "{did:?}: {of_team:?}");
    }
    assert_eq!(of_team.last(), Some(&ci_did("delete", "accepted")), "{of_team:?}");
    let all = audit(&operator, &[]);
    assert!(all.iter().any(|it| it["namespace"] == "other/run" && it["subject"] == "(key)"));
    assert!(all.iter().any(|it| it["command"] == "init_cluster"));
    // A token sees what it may read, and neither the others' records nor the cluster's.
    let seen = audit(&ci, &[]);
    assert!(!seen.is_empty() && seen.iter().all(|it| it["namespace"] == "team/run"), "{seen:?}");
    assert_eq!(audit(&operator, &["--subject", "nobody"]), Vec::<Value>::new());
    assert_eq!(audit(&operator, &["--since", "2000-01-01T00:00:00Z"]).len(), all.len());
    assert_eq!(audit(&operator, &["--limit", "2"]), all[all.len() - 2..]);
    ci.run(["audit", "--verify"]).fails(4, "may not");

    // A node that was killed has the same once it is back.
    let victim = keyed.cluster.leader();
    keyed.cluster.node(victim).kill().expect("kill");
    operator.run(args(&[&"put", &source, &"team/run@2"])).ok();
    keyed.cluster.node(victim).start().expect("start");
    keyed.cluster.wait_healthy();
    let ids: Vec<String> = (1..=3).map(|id| id.to_string()).collect();
    let of = |id: &str| audit(&operator, &["--node", id]);
    // Starts are recorded too; nothing else happens from here on.
    until("nodes have the same audit", DEADLINE, || {
        let (one, two, three) = (of(&ids[0]), of(&ids[1]), of(&ids[2]));
        (one == two && two == three).then_some(()).ok_or("they differ".to_owned())
    });
    let document = operator.run(["audit", "--verify", "--json"]).ok().json();
    assert_eq!(document["agree"], true, "{document}");
    for node in document["nodes"].as_array().expect("nodes") {
        assert_eq!(node["checked"], node["records"], "{document}");
        assert_eq!(node["chain"], document["nodes"][0]["chain"], "{document}");
    }

    // One bit of a record in the middle.
    let path = newest_file(&keyed, victim);
    let mut bytes = std::fs::read(&path).expect("read the audit file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).expect("write the audit file");
    let ran = operator.run(["audit", "--verify"]).fails(7, "the audit is damaged");
    assert!(ran.text().contains("is damaged at byte"), "{}", ran.text());
    // The others have what the damage hides: a reading misses nothing, and says what is damaged.
    let after = operator.run(["audit", "--json"]).json();
    assert_eq!(after["gaps"], serde_json::json!([]), "{after}");
    // A start does not cut it, and status says it.
    keyed.cluster.node(victim).kill().expect("kill");
    keyed.cluster.node(victim).start().expect("start");
    until("status says that the audit is damaged", DEADLINE, || {
        let text = operator.run(["status"]).text();
        match text.contains("audit file is damaged") {
            true => Ok(()),
            false => Err(text),
        }
    });
    let now = std::fs::read(&path).expect("read the audit file");
    assert_eq!(now[..bytes.len()], bytes[..], "damage is not cut");
}
