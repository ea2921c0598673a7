//! `cairn get`

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::anyhow;
use bytes::Bytes;
use cairn_client::{
    Client, ClientError, GetOptions, GetReport, Include, LocalSink, MemorySink, Sink, SinkError,
};
use cairn_host::seam::Lane;
use cairn_types::ids::Address;
use clap::Args;
use futures::StreamExt;
use globset::Glob;
use serde::Serialize;

use crate::address;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural, written};
use crate::progress::{LOOK_PERIOD, Progress};
use crate::session::{Session, client_failure};

#[derive(Debug, Args)]
pub struct GetArgs {
    /// NAMESPACE@SELECTOR: run1@1000, run1@latest, run1@time:2h (`cairn help selectors`)
    address: String,
    /// Directory for the files, or - to write one file to stdout
    #[arg(value_name = "DIR", required_unless_present = "verify_only")]
    directory: Option<PathBuf>,
    /// Only files with this name or matching this glob; may be repeated
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<OsString>,
    /// Only the files of this part, numbered from 0 as in `cairn show`
    #[arg(long, value_name = "PART")]
    part: Option<u32>,
    /// With -: only these bytes of the file, as START..END, START.. or ..END
    #[arg(long, value_name = "RANGE")]
    range: Option<String>,
    /// Read and verify every byte, write nothing
    #[arg(long)]
    verify_only: bool,
    /// Replace existing files that have other content
    #[arg(long)]
    overwrite: bool,
    /// Restore it although it is in quarantine
    #[arg(long)]
    quarantined: bool,
    /// Start even if the file system has too little free space for the files
    #[arg(long)]
    ignore_free_space: bool,
}

pub fn run(session: &Session, args: GetArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let to_stdout = args.directory.as_ref().is_some_and(|directory| directory.as_os_str() == "-");
    if args.range.is_some() && !to_stdout {
        return Err(Failure::usage("--range needs - as DIR"));
    }
    if to_stdout && !args.verify_only {
        return stream(session, &address, &args);
    }
    let sink: Arc<dyn Sink> = match &args.directory {
        Some(directory) if !args.verify_only => {
            Arc::new(LocalSink::open(directory).map_err(sink_failure)?)
        }
        _ => Arc::new(MemorySink::default()),
    };
    let options = GetOptions {
        include: include(&args.files)?,
        part: args.part,
        verify_only: args.verify_only,
        overwrite: args.overwrite,
        quarantined: args.quarantined,
        ignore_free_space: args.ignore_free_space,
        ..GetOptions::default()
    };
    let wanted_some = !args.files.is_empty();
    let output = session.output;
    let report = session.with_client_about(&address, async |client| {
        let counters = Arc::clone(&options.progress);
        let get = client.get(&address, sink, options);
        tokio::pin!(get);
        let mut progress = Progress::new(output, "get");
        loop {
            match tokio::time::timeout(LOOK_PERIOD, &mut get).await {
                Ok(result) => {
                    progress.finish();
                    return result;
                }
                Err(_) => {
                    let done =
                        counters.bytes_done.load(Relaxed) + counters.bytes_kept.load(Relaxed);
                    progress.show(done, counters.bytes_total.load(Relaxed));
                }
            }
        }
    })?;
    if wanted_some && report.files == 0 {
        let globs: Vec<_> = args.files.iter().map(|glob| glob.to_string_lossy()).collect();
        let error = anyhow!("{address} has no file that matches {}", globs.join(", "));
        return Err(Failure::new(Exit::NotFound, error)
            .with_hint(format!("`cairn show {address}` lists the files")));
    }
    output.result(&document(&report, args.verify_only), || text(&report, args.verify_only))?;
    Ok(Exit::Ok)
}

fn sink_failure(error: SinkError) -> Failure {
    client_failure(ClientError::Sink(error))
}

/// Takes the names that equal one of `globs` or match it.
fn include(globs: &[OsString]) -> Result<Option<Include>, Failure> {
    if globs.is_empty() {
        return Ok(None);
    }
    let literal: Vec<Vec<u8>> = globs.iter().map(|glob| glob.as_bytes().to_vec()).collect();
    let matchers = globs
        .iter()
        .filter_map(|glob| glob.to_str())
        .map(|glob| Glob::new(glob).map(|glob| glob.compile_matcher()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::usage)?;
    Ok(Some(Box::new(move |name: &[u8]| {
        let text = String::from_utf8_lossy(name);
        literal.iter().any(|literal| literal == name)
            || matchers.iter().any(|matcher| matcher.is_match(&*text))
    })))
}

/// `get`.
#[derive(Serialize)]
struct GetDocument<'a> {
    namespace: &'a str,
    step: u64,
    id: u64,
    /// False with `--verify-only`.
    written: bool,
    files: u64,
    bytes: u64,
    /// Already in the directory.
    files_kept: u64,
    bytes_kept: u64,
    bytes_fetched: u64,
    segments_fetched: u64,
    seconds: f64,
}

fn document(report: &GetReport, verify_only: bool) -> GetDocument<'_> {
    GetDocument {
        namespace: report.checkpoint.namespace.as_str(),
        step: report.checkpoint.step.0,
        id: report.checkpoint.id.0,
        written: !verify_only,
        files: report.files,
        bytes: report.bytes,
        files_kept: report.files_kept,
        bytes_kept: report.bytes_kept,
        bytes_fetched: report.bytes_fetched,
        segments_fetched: report.segments_fetched,
        seconds: report.elapsed.as_secs_f64(),
    }
}

fn text(report: &GetReport, verify_only: bool) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let name = format!("{}@{}", report.checkpoint.namespace, report.checkpoint.step);
    let verb = if verify_only { "verified" } else { "restored" };
    format!(
        "{verb} {name}: {}, {}; {} fetched, {} already there; {seconds:.1} s, {}/s\n",
        plural(report.files, "file"),
        bytes(report.bytes),
        bytes(report.bytes_fetched),
        bytes(report.bytes_kept),
        bytes((report.bytes as f64 / seconds.max(0.001)) as u64)
    )
}

/// Writes one file, or a range of it, to stdout.
fn stream(session: &Session, address: &Address, args: &GetArgs) -> Outcome {
    let (start, len) = match &args.range {
        Some(range) => parse_range(range)?,
        None => (0, None),
    };
    let include = include(&args.files)?;
    let runtime = session.runtime()?;
    let done = runtime.block_on(async {
        let client = session.client()?;
        crate::session::interruptible(async {
            session.survey(&client).await?;
            let name = only_file(&client, address, args.part, include).await?;
            let end =
                len.map_or(Bound::Unbounded, |len| Bound::Excluded(start.saturating_add(len)));
            let reader = client.reader(address, &name).part(args.part);
            let reader = reader.quarantined(args.quarantined).range((Bound::Included(start), end));
            let mut pieces = reader.stream().await.map_err(client_failure)?;
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(client_failure)?;
                // A reader that does not read stops this job, and no thread of the runtime.
                let result = client.env().blocking(Lane::Client, move || write(&piece)).await;
                match result {
                    // The reader of a pipe has seen enough.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                    result => written(result)?,
                }
            }
            Ok(Exit::Ok)
        })
        .await
    });
    // A write to a pipe that nobody reads may never end.
    runtime.shutdown_background();
    done
}

fn write(piece: &Bytes) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(piece)?;
    out.flush()
}

async fn only_file(
    client: &Client,
    address: &Address,
    part: Option<u32>,
    include: Option<Include>,
) -> Result<Vec<u8>, Failure> {
    let info = client.resolve(address).await.map_err(client_failure)?;
    let manifests = client.part_manifests(&info, part).await.map_err(client_failure)?;
    let mut names: Vec<&Vec<u8>> = manifests
        .iter()
        .flat_map(|(_, manifest)| &manifest.files)
        .map(|file| &file.name)
        .filter(|name| include.as_ref().is_none_or(|include| include(name)))
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [name] => Ok((*name).clone()),
        [] => Err(Failure::new(Exit::NotFound, anyhow!("{address} has no such file"))
            .with_hint(format!("`cairn show {address}` lists the files"))),
        many => Err(Failure::usage(format!("{} files match, and - takes one file", many.len()))
            .with_hint("choose one with --file NAME")),
    }
}

/// `START..END`, `START..` or `..END`, in bytes: the start and, if bounded, the length.
fn parse_range(text: &str) -> Result<(u64, Option<u64>), Failure> {
    let malformed = || {
        Failure::usage(format!("malformed range {text:?}"))
            .with_hint("expected START..END, START.. or ..END in bytes")
    };
    let (start, end) = text.split_once("..").ok_or_else(malformed)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
    let start = if start.is_empty() { 0 } else { number(start)? };
    if end.is_empty() {
        return Ok((start, None));
    }
    let end = number(end)?;
    let len = end.checked_sub(start).ok_or_else(malformed)?;
    Ok((start, Some(len)))
}
