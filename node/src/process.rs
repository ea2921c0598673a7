//! The resources that this process has used: for `/metrics`, `NodeStatus` and `cairn bench`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of all threads and peak resident memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ms: u64,
    pub rss_peak_bytes: u64,
}

/// Read from `/proc/self`. Zeros if that does not exist.
pub fn usage() -> Usage {
    usage_of("self").unwrap_or_default()
}

fn usage_of(process: &str) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Fields after the command name, which may itself hold spaces: utime and stime are the 12th
    // and 13th of them, in clock ticks.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse().ok())?;
    Some(Usage { cpu_ms: ticks * 1000 / ticks_per_second, rss_peak_bytes: peak_kib << 10 })
}

/// More descriptors than this are of no use to a node.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard one, because a thousand clients would use up a
/// shell's usual 1,024. Returns the limit now in force.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    let soft = limit.current.unwrap_or(DESCRIPTORS_MAX);
    if soft >= hard {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: limit.maximum }) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files could not be raised");
            soft
        }
    }
}
