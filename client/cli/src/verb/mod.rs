//! One file per verb: its arguments, its run, its printing.

pub mod agent;
pub mod annotate;
pub mod audit;
pub mod bench;
mod clock;
pub mod commit;
pub mod completions;
pub mod demo;
pub mod dev;
pub mod diff;
pub mod drill;
pub mod du;
pub mod get;
pub mod help;
pub mod hold;
#[cfg(test)]
mod json_page;
pub mod keep;
pub mod key;
pub mod ls;
pub mod man;
pub mod named_ref;
pub mod namespace;
pub mod node;
pub mod plan;
pub mod policy;
pub mod put;
pub mod quarantine;
pub mod retention;
pub mod rm;
pub mod rollback;
pub mod room;
pub mod scrub;
pub mod show;
pub mod status;
mod survey;
#[cfg(test)]
mod tables;
pub mod token;
pub mod undelete;
mod uploads;
pub mod verify;
pub mod version;
pub mod wait;
pub mod watch;

use clap::Subcommand;

use crate::exit::Outcome;
use crate::session::Session;

/// A row for each verb, in the order of the help: its help, its name, its arguments. The module's
/// `run` does it.
macro_rules! verbs {
    ($($(#[$about:meta])* $Name:ident($module:ident::$Args:ident),)*) => {
        #[derive(Debug, Subcommand)]
        pub enum Verb {
            $($(#[$about])* $Name($module::$Args),)*
        }

        impl Verb {
            pub fn run(self, session: &Session) -> Outcome {
                match self {
                    $(Self::$Name(args) => $module::run(session, args),)*
                }
            }
        }
    };
}
verbs! {
    /// Store files as a checkpoint, or as one part of it
    #[command(aliases = ["save", "upload"])]
    Put(put::PutArgs),
    /// Restore a checkpoint, a file of it or a range of a file
    #[command(aliases = ["restore", "download"])]
    Get(get::GetArgs),
    /// List checkpoints
    #[command(alias = "list")]
    Ls(ls::LsArgs),
    /// Show a checkpoint: files, segments, replicas, durability; or uploads in progress
    Show(show::ShowArgs),
    /// Show what namespaces take: files, stored and shared bytes, trash
    Du(du::DuArgs),
    /// Say what differs between two checkpoints: files, tensors, bytes
    Diff(diff::DiffArgs),
    /// Read replicas again, or a whole checkpoint, and compare them with their digests
    Verify(verify::VerifyArgs),
    /// Show how far nodes are with reading every replica again; start a pass, or pause
    Scrub(scrub::ScrubArgs),
    /// Restore as if nodes were lost, run a check in it, and measure how long that takes
    Drill(drill::DrillArgs),
    /// Print what happens to checkpoints: commits, deletions, refs, quarantine, full replication
    Watch(watch::WatchArgs),
    /// Wait until a checkpoint is committed or has all its replicas: `cairn wait run1@1000 --for full`
    Wait(wait::WaitArgs),
    /// Commit an upload whose files were added one by one: `cairn commit run1@1000`
    Commit(commit::CommitArgs),
    /// Set or remove labels and metrics of a committed checkpoint
    Annotate(annotate::AnnotateArgs),
    /// Name checkpoints: `production`, `best-so-far`, moved by compare-and-swap
    Ref(named_ref::RefArgs),
    /// Keep checkpoints from deletion
    Hold(hold::HoldArgs),
    /// Say that a checkpoint must not be used, or that it may again
    Quarantine(quarantine::QuarantineArgs),
    /// Put all later steps into quarantine, so that training goes on from a good one
    Rollback(rollback::RollbackArgs),
    /// Delete a checkpoint
    #[command(aliases = ["delete", "remove"])]
    Rm(rm::RmArgs),
    /// Bring back a deleted checkpoint while its grace runs: `cairn undelete run1@1000`
    Undelete(undelete::UndeleteArgs),
    /// Set and show the rules of namespaces: replicas, racks, retention
    Policy(policy::PolicyArgs),
    /// Show what retention deletes and what it keeps, and agree to a large run of it
    Retention(retention::RetentionArgs),
    /// Show the cluster: nodes, racks, leader, health, and how many nodes can be lost
    Status(status::StatusArgs),
    /// Show who did what, and check the nodes' records of it
    Audit(audit::AuditArgs),
    /// Repair the time labels of a namespace
    Namespace(namespace::NamespaceArgs),
    /// Store checkpoints that a program writes, and files at set times: a daemon
    Agent(agent::AgentArgs),
    /// Run or manage nodes
    Node(node::NodeArgs),
    /// Make a cluster key, or print the certificate authority derived from it
    Key(key::KeyArgs),
    /// Make, narrow, show and revoke tokens: who a client is, and what it may do where
    Token(token::TokenArgs),
    /// Run a three-node cluster on this machine, in the foreground
    Dev(dev::DevArgs),
    /// Run a demo: put, kill the leader, restore, verify
    Demo(demo::DemoArgs),
    /// Calculate what a cluster of a given size can do: space, times, failures
    Plan(plan::PlanArgs),
    /// Measure throughput and latency, and the machine's own limits
    Bench(bench::BenchArgs),
    /// Print version, protocol and feature level
    Version(version::VersionArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write man pages
    Man(man::ManArgs),
    /// Explain a verb or a topic
    Help(help::HelpArgs),
}
