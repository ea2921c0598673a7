//! Memory is bounded however large the checkpoint. 256 MiB beside 1 GiB by default; 1 GiB beside
//! 8 GiB with `CAIRN_TEST_LARGE=1`. A peak is a matter of chance, and of how long one looks: as many
//! bytes go through in small checkpoints as in the large one.

use cairn_tests::cluster::TestCluster;
use cairn_tests::command::Running;
use cairn_tests::files;

use crate::{args, program};

const MIB: u64 = 1 << 20;
const CLIENT_BYTES_MAX: u64 = 300 * MIB;
const NODE_BYTES_MAX: u64 = 400 * MIB;

/// Peak resident bytes of client (put, get) and of the largest node.
#[derive(Debug)]
struct Peaks {
    put: u64,
    get: u64,
    node: u64,
}

#[test]
fn peak_memory_does_not_grow_with_the_checkpoint() {
    let full = std::env::var_os("CAIRN_TEST_LARGE").is_some();
    // At 256 MiB not all buffers are in use yet.
    let (small, large, slack) = if full { (1024, 8192, 0) } else { (256, 1024, 24 * MIB) };
    let (less, more) = (peaks(small * MIB, large / small), peaks(large * MIB, 1));
    eprintln!("at {small} MiB {less:?}; at {large} MiB {more:?}");
    for (what, less, more) in
        [("put", less.put, more.put), ("get", less.get, more.get), ("node", less.node, more.node)]
    {
        assert!(
            more * 100 <= less * 120 + slack * 100,
            "{what}: {less} bytes at first, then {more}"
        );
    }
    assert!(more.put < CLIENT_BYTES_MAX && more.get < CLIENT_BYTES_MAX, "{more:?}");
    assert!(more.node < NODE_BYTES_MAX, "{more:?}");
}

/// Of `rounds` checkpoints of so many bytes, one after the other.
fn peaks(bytes: u64, rounds: u64) -> Peaks {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("source");
    let mut peaks = Peaks { put: 0, get: 0, node: 0 };
    for round in 1..=rounds {
        files::random_file(&source.join("weights.bin"), bytes, bytes + round);
        let address = format!("memory@{round}");
        let put = cairn.start(args(&[&"put", &source, &address, &"--wait", &"full"]));
        peaks.put = peaks.put.max(peak(put));
        let get = cairn.start(args(&[&"get", &address, &"--verify-only"]));
        peaks.get = peaks.get.max(peak(get));
        cairn.run(args(&[&"rm", &address, &"--now"])).ok();
    }
    let nodes = (0..3).map(|index| cluster.node_status(index).rss_peak_bytes);
    peaks.node = nodes.max().unwrap_or_default();
    peaks
}

/// Runs to the end; the largest `VmHWM` seen on the way.
fn peak(mut running: Running) -> u64 {
    let path = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    while running.is_running() {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.finish().ok();
    peak
}
