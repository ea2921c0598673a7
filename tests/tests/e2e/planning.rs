//! What `plan` says is what a cluster then holds.

use cairn_tests::cluster::TestCluster;
use cairn_tests::files;

use crate::{args, program};

const MIB: u64 = 1 << 20;

#[test]
fn planned_space_is_what_a_cluster_holds() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("planned");
    let file = |index: u64, seed: u64| {
        files::random_file(&source.join(format!("layer-{index}.bin")), 4 * MIB, seed);
    };
    (0..8).for_each(|index| file(index, index));
    for step in 0..4 {
        // A quarter of the bytes is new each time.
        (0..2).for_each(|index| file((2 * step + index) % 8, 100 * (step + 1) + index));
        let address = format!("plan/measured@{}", step + 1);
        cairn.run(args(&[&"put", &source, &address, &"--wait", &"full"])).ok();
    }
    let diff = cairn.run(["diff", "plan/measured@1", "plan/measured@2", "--json"]).ok().json();
    assert_eq!((&diff["files_same"], diff["files"].as_array().map(Vec::len)), (&6.into(), Some(2)));
    assert_eq!(diff["bytes_second_only"], 8 * MIB);
    let load =
        ["--bytes", "32MiB", "--new-fraction", "0.25", "--interval", "1h", "--keep-last", "4"];
    let machines = ["--nodes", "3", "--disk", "16GiB"];
    let plan = ["plan", "--json"].iter().chain(&load).chain(&machines);
    let plan = cairn.run(plan).ok().json();
    let planned = 3 * plan["bytes_unique"].as_u64().expect("bytes");
    assert_eq!(planned, 3 * (32 + 3 * 8) * MIB);
    let held = cluster.sum(|node| node.bytes_held);
    assert!(held >= planned && held < planned + planned / 50, "planned {planned}, held {held}");
}
