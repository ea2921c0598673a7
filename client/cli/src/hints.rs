//! What to do about an error of the SDK, in the words of this command line.
//!
//! The SDK's own hints name no flag. Where one of ours helps, it is named here.

use cairn_client::error::began_text;
use cairn_client::{Attempt, ClientError, Refusal, SetupError, SinkError, SourceError};

/// The hint that follows an error.
pub fn hint(error: &ClientError) -> Option<String> {
    let own = match error {
        ClientError::Refused(refusal) => of_refusal(refusal),
        ClientError::Source(error) => of_source(error).map(str::to_owned),
        ClientError::Sink(error) => of_sink(error).map(str::to_owned),
        error => of_client(error).map(str::to_owned),
    };
    own.or_else(|| error.hint())
}

fn of_client(error: &ClientError) -> Option<&'static str> {
    Some(match error {
        ClientError::Setup(SetupError::NoKey { .. }) => {
            "give --cluster-key FILE, or --insecure to talk to nodes without authentication"
        }
        ClientError::OtherCluster { want_from: None, .. } => {
            "a node may have created a second cluster with --bootstrap on an empty directory: stop it and join it again; if you replaced the cluster on purpose, name the new one with --cluster"
        }
        ClientError::OtherCluster { .. } => {
            "give endpoints of one cluster only; if a node created a second cluster with --bootstrap on an empty directory, stop it and join it again"
        }
        ClientError::Key { what, .. } if what.contains("uses no cluster key") => {
            "leave the key out (--cluster-key, CAIRN_CLUSTER_KEY), or give it to the nodes"
        }
        ClientError::Timeout { .. } => {
            "the cluster may lack a majority or enough nodes; see `cairn status`"
        }
        ClientError::NoSpace { .. } => {
            "`cairn rm --now` frees space at once, or add a node; `cairn status` shows the free \
             space of each node"
        }
        ClientError::Busy { .. } => "the nodes have too many readers; run the same command again",
        ClientError::Deleted { .. } => "`cairn ls` lists the committed checkpoints",
        ClientError::ConflictingParts { .. } => {
            "restore each part into its own directory with --part"
        }
        ClientError::NoSuchFile { .. } => "`cairn show` lists a checkpoint's files",
        ClientError::NoSuchRecord { .. } => {
            "`cairn ls --open` lists committed checkpoints and open uploads, `cairn ls --deleted` \
             those that can be undeleted"
        }
        ClientError::PartWithoutAttempt => {
            "all parts pass the same --attempt, a number that rises with each restart"
        }
        ClientError::UploadOver { .. } => {
            "a higher attempt took it over, or it was aborted or expired; see `cairn ls --open`"
        }
        _ => return None,
    })
}

fn of_refusal(refusal: &Refusal) -> Option<String> {
    let hint = match refusal {
        Refusal::FeatureLevel { .. } => {
            "some nodes run an older build (`cairn status` names them): upgrade them first"
        }
        Refusal::StepExists { .. } => {
            "a step is written once; --replace replaces it with this upload"
        }
        Refusal::Fenced { current, client, began_wall_ms, .. } => {
            return Some(fenced_hint(*current, client, *began_wall_ms));
        }
        Refusal::RolledBack { .. } => {
            "stop this job: it writes what was rolled back; start it again from `@latest`, with a \
             higher --attempt"
        }
        Refusal::OtherJob { attempt, current, client, began_wall_ms, .. } => {
            return Some(other_job_hint(*attempt, current, client, *began_wall_ms));
        }
        Refusal::OtherTerms { .. } => {
            "parts of one checkpoint and a repeated put must use the same settings; --replace commits \
             the step again"
        }
        Refusal::NameClash { .. } => {
            "parts are restored into one directory; put each below its own one with --prefix, \
             such as --prefix rank0"
        }
        Refusal::NotAllowed { .. } => {
            "`cairn token show` prints what a token may do; an operator makes others with `cairn token \
             new`"
        }
        Refusal::NotOwner { .. } => {
            "use the token it was begun with; an operator may end it with `cairn rm`"
        }
        Refusal::BadToken(_) => {
            "an operator makes another one with `cairn token new`; give it with --token-file or \
             CAIRN_TOKEN"
        }
        Refusal::NotInTrash(_) => {
            "`cairn ls --deleted` lists what can be undeleted: not what was deleted with --now, and \
             nothing after the grace"
        }
        Refusal::StepTaken { .. } => {
            "`cairn rm --now` deletes the newer one for good, if it is not needed"
        }
        Refusal::PolicyChanged { .. } => {
            "the policy has changed: look at `cairn retention plan` again"
        }
        Refusal::KeptByPolicy { .. } => {
            "`cairn policy show` lists the rules; `cairn policy set --keep-last` changes one"
        }
        Refusal::NoSuchCheckpoint { .. } => "`cairn ls` lists the committed checkpoints",
        Refusal::NotEnoughHosts { shortage, .. } | Refusal::NotEnoughRacks { shortage, .. }
            if shortage.has_full() =>
        {
            "`cairn rm --now` frees space at once, or add a node; `cairn status` shows the free \
             space of each node"
        }
        Refusal::NotEnoughHosts { shortage, .. } | Refusal::NotEnoughRacks { shortage, .. }
            if shortage.down() > 0 =>
        {
            "bring back the nodes that are down, or start other nodes"
        }
        Refusal::NotEnoughHosts { .. } => {
            "start more nodes on other hosts, or lower --replicas and --write-quorum"
        }
        Refusal::NotEnoughRacks { .. } => {
            "start nodes in other racks, or allow fewer with --isolation soft or --min-racks"
        }
        Refusal::Protected { .. } => {
            "`cairn hold rm` and `cairn ref rm` end the protection; `cairn rm --force` deletes it anyway"
        }
        Refusal::CursorTooOld { .. } => {
            "`cairn watch` without --from begins with what is there, and goes on from then"
        }
        Refusal::WatcherTooSlow => "go on with --from and the last cursor that was printed",
        Refusal::NoBestMetric { namespace, metric } => {
            let metric = if metric.is_empty() { "loss" } else { metric };
            return Some(format!(
                "name the side, such as {namespace}@best:{metric}:min, or set it once with \
                 `cairn policy set {namespace} --best {metric}:min`"
            ));
        }
        Refusal::RefMoved { .. } => "`cairn ref ls` shows each ref and its generation",
        Refusal::NoSuchRef { .. } => "`cairn ref ls` lists the refs of a namespace",
        Refusal::NoSuchHold { .. } => "`cairn hold ls` lists holds and their owners",
        Refusal::Quarantined { .. } => {
            "`cairn get --quarantined` restores it anyway; `cairn quarantine --lift` takes it out; \
             a higher --attempt may write its step again"
        }
        Refusal::LastReplicas { .. } => {
            "bring back or start other nodes and wait until `cairn status` shows full replication"
        }
        Refusal::NoMajority { .. } => {
            "bring back voters that are down or join other nodes, and wait until `cairn status` says that a voter can be lost"
        }
        Refusal::TooFewHosts { .. } => {
            "join another node on another host first, or pass --accept-fewer-hosts"
        }
        Refusal::NodeRemoved(_) => "`cairn node ls --all` lists removed nodes too",
        Refusal::UnknownNode(_) => "`cairn node ls` lists the nodes",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn other_job_hint(attempt: Attempt, job: &str, client: &str, began_wall_ms: u64) -> String {
    let (began, next) = (began_text(client, began_wall_ms), attempt.0.saturating_add(1));
    format!(
        "job {job} began it at {began}; if that job is gone, pass --attempt {next} on all ranks, or \
         abort its upload with `cairn rm --open`; ranks of one job pass the same --job"
    )
}

/// Says what the other upload is, so that a person can tell a rival from a wrong clock.
fn fenced_hint(current: Attempt, client: &str, began_wall_ms: u64) -> String {
    let began = began_text(client, began_wall_ms);
    format!(
        "attempt {current} began at {began}; to take over, pass a higher --attempt, or none for a \
         single part"
    )
}

fn of_source(error: &SourceError) -> Option<&'static str> {
    let hint = match error {
        SourceError::Symlink { .. } => {
            "--follow-links uploads what links point to, --skip-links leaves them out"
        }
        SourceError::DeadLink { .. } => "remove the link, or leave it out with --exclude",
        SourceError::LinkCycle { .. } => "leave the link out with --exclude",
        SourceError::SpecialFile { .. } => {
            "only files and directories can be kept; leave it out with --exclude"
        }
        SourceError::Empty => {
            "check that the directory is mounted and not empty; --allow-empty allows an upload without files"
        }
        _ => return None,
    };
    Some(hint)
}

fn of_sink(error: &SinkError) -> Option<&'static str> {
    let hint = match error {
        SinkError::WouldOverwrite { .. } => "restore into another directory, or pass --overwrite",
        SinkError::NoRoom { .. } => {
            "free some space; --ignore-free-space goes on (for a file system that compresses)"
        }
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step may have a committed checkpoint beside the upload, which plain `rm` deletes.
    #[test]
    fn the_way_out_of_another_jobs_upload_deletes_no_checkpoint() {
        let refusal = Refusal::OtherJob {
            attempt: Attempt(3),
            got: "57".to_owned(),
            current: "41".to_owned(),
            client: String::new(),
            began_wall_ms: 0,
        };
        let hint = hint(&ClientError::Refused(refusal)).unwrap();
        assert!(hint.contains("--attempt 4") && hint.contains("`cairn rm --open`"), "{hint}");
        assert_eq!(hint.matches("cairn rm").count(), 1, "{hint}");
    }
}
