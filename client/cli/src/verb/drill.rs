//! `cairn drill`

use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_agent::drill::{self, Drill, DrillError, DrillPlan};
use clap::Args;
use serde::Serialize;

use super::verify::{LostRecord, lost_text};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural};
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
    /// Shell command to run in the restored directory; with another code than 0 the drill ends with
    /// code 9
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

pub fn run(session: &Session, args: DrillArgs) -> Outcome {
    let text = match args.address.contains('@') {
        true => args.address.clone(),
        false => format!("{}@latest", args.address),
    };
    let address = address::parse(&text)?;
    let scratch = Scratch::new(args.dir.as_deref())?;
    let plan = DrillPlan {
        address,
        lost: drill::lost(&args.lose).map_err(failure)?,
        words: args.lose.clone(),
        check: args.check.as_ref().map(|it| ["/bin/sh", "-c", it].map(str::to_owned).to_vec()),
        check_timeout: args.check_timeout.into(),
    };
    let runtime = session.runtime()?;
    let (drill, unrecorded) = runtime.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let drill = drill::drill(&client, &plan, scratch.path()).await.map_err(failure)?;
            let unrecorded = match args.no_record {
                true => None,
                false => drill::record(&client, &plan, &drill).await.err(),
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
    Ok(match (drill.lost.is_empty(), &drill.check) {
        (false, _) => Exit::Damaged,
        (true, Some(Err(_))) => Exit::CheckFailed,
        (true, _) if !drill.has_majority => Exit::BelowPolicy,
        (true, _) => Exit::Ok,
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

fn failure(error: DrillError) -> Failure {
    match error {
        DrillError::Client(error) => client_failure(error),
        DrillError::Malformed(_) => Failure::usage(error).with_hint("for example --lose rack=a"),
        DrillError::Unknown { .. } => Failure::new(Exit::NotFound, error)
            .with_hint("`cairn node ls` lists nodes, hosts and racks"),
        DrillError::Unsteady => Failure::new(Exit::Failed, error),
    }
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

fn document<'a>(drill: &'a Drill, args: &'a DrillArgs) -> DrillDocument<'a> {
    let info = &drill.checkpoint;
    DrillDocument {
        namespace: info.namespace.as_str(),
        step: info.step.0,
        id: info.id.0,
        good: drill.is_good(),
        lose: &args.lose,
        files: info.files,
        bytes: info.bytes,
        lost: drill.lost.iter().map(LostRecord::new).collect(),
        bytes_lost: drill.bytes_lost(),
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
    let (files, size) = (plural(info.files, "file"), bytes(info.bytes));
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
