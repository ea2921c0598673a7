//! End to end: real node processes, sockets and disks, and the binary as users run it.
//!
//! | module | shows |
//! |---|---|
//! | [`model`] | a real model survives its leader, and costs nothing to store twice |
//! | [`kills`] | leader, follower and client die with bytes in flight, and nothing is lost |
//! | [`bad_endpoints`], [`bad_identity`], [`bad_files`], [`bad_disk`] | bad input ends in clear errors |
//! | [`agent`] | each finished checkpoint is stored once, however often the agent is killed |
//! | [`reading`], [`writing`], [`operating`], [`secured`] | what each verb promises |
//! | [`browsers`] | web pages reach no cluster without a key |
//! | [`hostile`] | Raft calls of a stranger end no node |
//! | [`dev`] | clusters for trying things touch no other cluster and leave nothing running |
//! | [`ranks`] | sixteen processes put one checkpoint while some of them and the leader die |
//! | [`verifying`] | verification finds each planted flip; a drill says what would be lost |
//! | [`restoring`] | a get beside other gets and deletions, and what it leaves in its directory |
//! | [`membership`] | nodes removed, replaced, stopped, started by mistake; two clusters |
//! | [`limits`] | what hung disks, strangers and slow peers may cost a node |
//! | [`output`] | results arrive or the exit code says so; nobody else's text acts on a terminal |
//! | [`planning`] | what `plan` says is what a cluster then holds |
//! | [`readme`] | README's first steps and real nodes, as they are written |
//! | [`runbook`] | the operator's procedures, as they are written |
//! | [`memory`] | memory does not grow with the checkpoint |
//! | [`workspace`] | arrows between crates, and what no file may name |

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real processes from outside; nothing here runs in the simulator"
)]

mod agent;
mod audit;
mod bad_disk;
mod bad_endpoints;
mod bad_files;
mod bad_identity;
mod browsers;
mod dev;
mod hostile;
mod kills;
mod limits;
mod marks;
mod membership;
mod memory;
mod model;
mod operating;
mod output;
mod planning;
mod quarantine;
mod ranks;
mod reading;
mod readme;
mod restoring;
mod retention;
mod runbook;
mod secured;
mod tokens;
mod verifying;
mod watching;
mod workspace;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The binary: built together with these tests, or the one that `CAIRN_TEST_PROGRAM` names (a
/// release build, for what is promised of one).
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let built = env!("CARGO_BIN_EXE_cairn-under-test");
        std::env::var_os("CAIRN_TEST_PROGRAM").map_or(PathBuf::from(built), PathBuf::from)
    });
    &PROGRAM
}

/// Path arguments beside flags.
pub fn args<'a>(arguments: &[&'a (dyn AsRef<std::ffi::OsStr> + 'a)]) -> Vec<&'a std::ffi::OsStr> {
    arguments.iter().map(|argument| (**argument).as_ref()).collect()
}
