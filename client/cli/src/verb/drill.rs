//! `cairn drill`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{
    Annotation, Client, ClientError, ClusterStatus, GetOptions, LocalSink, Lost, LostFile, Selector,
};
use cairn_types::ids::{Address, NodeId};
use cairn_types::model::CheckpointInfo;
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::verify::{LostRecord, lost_text};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural, wall_time};
use crate::session::{Session, client_failure, interruptible};
use crate::{address, foreign};

#[derive(Debug, Args)]
pub struct DrillArgs {
    /// NAMESPACE, for its newest good checkpoint, or NAMESPACE@SELECTOR
    address: String,
    /// Read nothing from these nodes, as if they were lost: rack=NAME, host=NAME or node=ID; may be
    /// repeated
    #[arg(long, value_name = "WHAT")]
    lose: Vec<String>,
    /// Shell command to run in the restored directory; it must end with code 0
    #[arg(long, value_name = "COMMAND")]
    check: Option<String>,
    /// Time limit for the check
    #[arg(long, value_name = "TIME", default_value = "10m")]
    check_timeout: humantime::Duration,
    /// Empty directory to restore into; it is kept [default: a temporary one, removed afterwards]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Do not write the result into the checkpoint's labels
    #[arg(long)]
    no_record: bool,
}

/// How a drill ended.
struct Drill {
    checkpoint: CheckpointInfo,
    lost: Vec<LostFile>,
    /// Of the check, if there is one: why it failed.
    check: Option<Result<(), String>>,
    bytes: u64,
    files: u64,
    /// From the start to the end of the check.
    rto: Duration,
    /// From the commit to the start of the drill.
    rpo: Duration,
    /// Whether a majority of the voters is left.
    has_majority: bool,
}

impl Drill {
    fn is_good(&self) -> bool {
        self.lost.is_empty() && !matches!(self.check, Some(Err(_))) && self.has_majority
    }
}

pub fn run(session: &Session, args: DrillArgs) -> Outcome {
    let text = match args.address.contains('@') {
        true => args.address.clone(),
        false => format!("{}@latest", args.address),
    };
    let address = address::parse(&text)?;
    let scratch = Scratch::new(args.dir.as_deref())?;
    let lost = lost(&args.lose)?;
    let runtime = session.runtime()?;
    let (drill, unrecorded) = runtime.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let drill = perform(&client, &address, lost, &args, scratch.path()).await?;
            let unrecorded = match args.no_record {
                true => None,
                false => record(&client, &drill, &args).await.err(),
            };
            session.remember(&client)?;
            Ok((drill, unrecorded))
        })
        .await
    })?;
    session.output.result(&document(&drill, &args), || said(&drill, &args))?;
    if let Some(error) = unrecorded {
        session.output.say(format!("note: the result is not in the checkpoint's labels: {error}"));
    }
    Ok(match (drill.lost.is_empty(), drill.is_good()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Ok,
    })
}

/// Where the checkpoint is restored.
enum Scratch {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Scratch {
    fn new(directory: Option<&Path>) -> Result<Self, Failure> {
        let Some(directory) = directory else {
            let made = tempfile::Builder::new().prefix("cairn-drill-").tempdir();
            return Ok(Self::Temporary(made?));
        };
        std::fs::create_dir_all(directory)?;
        if std::fs::read_dir(directory)?.next().is_some() {
            // What is there already would not be restored.
            let text = format!("{} is not empty", directory.display());
            return Err(Failure::usage(text)
                .with_hint("a drill restores everything: give it an empty directory"));
        }
        Ok(Self::Kept(directory.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(made) => made.path(),
        }
    }
}

/// What is taken as lost.
fn lost(words: &[String]) -> Result<Lost, Failure> {
    let mut lost = Lost::default();
    for word in words {
        let malformed = || {
            Failure::usage(format!("malformed --lose {word:?}"))
                .with_hint("expected rack=NAME, host=NAME or node=ID, such as rack=a")
        };
        let (kind, name) = word.split_once('=').ok_or_else(malformed)?;
        match kind {
            "rack" => drop(lost.racks.insert(name.to_owned())),
            "host" => drop(lost.hosts.insert(name.to_owned())),
            "node" => {
                lost.nodes.insert(NodeId(name.parse().map_err(|_| malformed())?));
            }
            _ => return Err(malformed()),
        }
    }
    Ok(lost)
}

/// A drill that loses what is not there would show nothing.
fn check_names(lost: &Lost, status: &ClusterStatus) -> Result<(), Failure> {
    let members = || status.nodes.iter().filter(|node| !node.removed);
    let racks: BTreeSet<&str> = members().map(|node| node.rack.as_str()).collect();
    let hosts: BTreeSet<&str> = members().map(|node| node.host.as_str()).collect();
    let unknown = |kind: &str, name: &dyn std::fmt::Display| {
        let text = format!("no node has {kind} {name}");
        Err(Failure::new(Exit::NotFound, anyhow::anyhow!(text))
            .with_hint("`cairn node ls` lists nodes, hosts and racks"))
    };
    if let Some(rack) = lost.racks.iter().find(|rack| !racks.contains(rack.as_str())) {
        return unknown("rack", rack);
    }
    if let Some(host) = lost.hosts.iter().find(|host| !hosts.contains(host.as_str())) {
        return unknown("host", host);
    }
    match lost.nodes.iter().find(|id| !members().any(|node| node.id == **id)) {
        Some(node) => unknown("id", node),
        None => Ok(()),
    }
}

async fn perform(
    client: &Client,
    address: &Address,
    lost: Lost,
    args: &DrillArgs,
    scratch: &Path,
) -> Result<Drill, Failure> {
    let started = Instant::now();
    let status = client.status().await.map_err(client_failure)?;
    check_names(&lost, &status)?;
    let voters = status.nodes.iter().filter(|node| node.voter);
    let left = voters.clone().filter(|node| !lost.has(node)).count();
    let has_majority = left * 2 > voters.count();
    let checkpoint = client.resolve(address).await.map_err(client_failure)?;
    let committed_ms = checkpoint.commit.as_ref().map_or(0, |commit| commit.wall_ms);
    let rpo = Duration::from_millis(client.env().wall_ms().saturating_sub(committed_ms));
    // The very checkpoint, whatever `latest` is by now.
    let exact = Address {
        namespace: checkpoint.namespace.clone(),
        selector: Selector::Step(checkpoint.step),
    };
    let survivors = client.as_if_lost(lost);
    let mut drill = Drill {
        bytes: checkpoint.bytes,
        files: checkpoint.files,
        checkpoint,
        lost: Vec::new(),
        check: None,
        rto: Duration::ZERO,
        rpo,
        has_majority,
    };
    match restore(&survivors, &exact, scratch).await {
        Ok(()) => {}
        Err(ClientError::Damaged { .. }) => {
            drill.lost = survivors.lost_files(&drill.checkpoint).await.map_err(client_failure)?;
            if drill.lost.is_empty() {
                let text = "a restore failed, and a second one did not: run the drill again";
                return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)));
            }
        }
        Err(error) => return Err(client_failure(error)),
    }
    if let (Some(command), true) = (&args.check, drill.lost.is_empty()) {
        let command = ["/bin/sh", "-c", command].map(str::to_owned);
        let limit = args.check_timeout.into();
        let ran = cairn_agent::hooks::run(&command, &[], Some(scratch), limit).await;
        drill.check = Some(ran);
    }
    drill.rto = started.elapsed();
    Ok(drill)
}

/// Restores everything, and then compares every byte on the disk with its digest: a second get into
/// the same directory keeps what is right and fetches nothing.
async fn restore(client: &Client, address: &Address, scratch: &Path) -> Result<(), ClientError> {
    let sink = || LocalSink::open(scratch).map(Arc::new).map_err(ClientError::Sink);
    let restored = client.get(address, sink()?, GetOptions::default()).await?;
    let compared = client.get(address, sink()?, GetOptions::default()).await?;
    match compared.bytes_kept == restored.bytes && compared.files_kept == restored.files {
        true => Ok(()),
        false => Err(ClientError::Malformed {
            what: format!("compare {}", scratch.display()),
            problem: "the disk does not give back what was written".to_owned(),
        }),
    }
}

async fn record(client: &Client, drill: &Drill, args: &DrillArgs) -> Result<(), ClientError> {
    let result = if drill.is_good() { "good" } else { "bad" };
    let at = wall_time(client.env().wall_ms());
    let (rto, rpo) = (drill.rto.as_secs_f64(), drill.rpo.as_secs());
    let mut value = format!("{result} {at} rto={rto:.1}s rpo={rpo}s");
    for lose in &args.lose {
        value.push_str(&format!(" {lose}"));
    }
    // A label has a bound; names of racks may be long.
    let end = (0..=value.len().min(255)).rev().find(|end| value.is_char_boundary(*end));
    value.truncate(end.unwrap_or(0));
    let info = &drill.checkpoint;
    let address =
        Address { namespace: info.namespace.clone(), selector: Selector::Step(info.step) };
    let labels = BTreeMap::from([("cairn.drill".to_owned(), value)]);
    client.annotate(&address, Annotation { labels, ..Annotation::default() }).await.map(drop)
}

/// `drill`.
#[derive(Serialize)]
struct DrillDocument<'a> {
    namespace: &'a str,
    step: u64,
    id: u64,
    good: bool,
    /// What was taken as lost.
    lose: &'a [String],
    files: u64,
    bytes: u64,
    lost: Vec<LostRecord<'a>>,
    bytes_lost: u64,
    /// Whether a majority of the voters would be left.
    has_majority: bool,
    /// `passed`, or why the check failed; null without one.
    check: Option<&'a str>,
    rto_seconds: f64,
    rpo_seconds: f64,
}

fn bytes_lost(drill: &Drill) -> u64 {
    drill.lost.iter().map(|file| file.bytes).sum()
}

fn document<'a>(drill: &'a Drill, args: &'a DrillArgs) -> DrillDocument<'a> {
    let info = &drill.checkpoint;
    DrillDocument {
        namespace: info.namespace.as_str(),
        step: info.step.0,
        id: info.id.0,
        good: drill.is_good(),
        lose: &args.lose,
        files: drill.files,
        bytes: drill.bytes,
        lost: drill.lost.iter().map(LostRecord::new).collect(),
        bytes_lost: bytes_lost(drill),
        has_majority: drill.has_majority,
        check: drill.check.as_ref().map(|check| match check {
            Ok(()) => "passed",
            Err(why) => why.as_str(),
        }),
        rto_seconds: drill.rto.as_secs_f64(),
        rpo_seconds: drill.rpo.as_secs_f64(),
    }
}

fn said(drill: &Drill, args: &DrillArgs) -> String {
    let info = &drill.checkpoint;
    let name = format!("{}@{}", info.namespace, info.step);
    let without = match args.lose.is_empty() {
        true => String::new(),
        false => format!(" without {}", foreign::text(&args.lose.join(", "))),
    };
    let (files, size) = (plural(drill.files, "file"), bytes(drill.bytes));
    let mut text = match drill.lost.is_empty() {
        true => format!("{name} is restored{without}: {files}, {size}, each byte compared\n"),
        false => format!("{name} cannot be restored{without}\n"),
    };
    text.push_str(&lost_text(&drill.lost));
    if !drill.has_majority {
        text.push_str(
            "  no majority of the voters would be left: the catalogue would not answer\n",
        );
    }
    match &drill.check {
        Some(Ok(())) => text.push_str("  check      passed\n"),
        Some(Err(why)) => {
            text.push_str(&format!("  check      failed: {}\n", foreign::text(why)));
        }
        None => {}
    }
    if drill.lost.is_empty() {
        text.push_str(&format!("  time taken {:.1} s (RTO)\n", drill.rto.as_secs_f64()));
        let age = Duration::from_secs(drill.rpo.as_secs());
        let age = humantime::format_duration(age);
        text.push_str(&format!("  age        {age} since the commit (RPO)\n"));
    }
    text
}
