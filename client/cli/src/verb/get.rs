//! `cairn get`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, anyhow};
use cairn_client::{
    Client, ClientError, GetOptions, GetReport, LocalSink, MemorySink, Sink, SinkError,
};
use cairn_core::ids::Address;
use clap::Args;
use futures::StreamExt;
use globset::Glob;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural};
use crate::progress::{LOOK_PERIOD, Progress};
use crate::session::{Session, client_failure};

#[derive(Debug, Args)]
pub struct GetArgs {
    /// NAMESPACE@SELECTOR, such as run1@latest or run1@1000
    address: String,
    /// Directory for the files, or - to write one file to stdout
    #[arg(value_name = "DIR", required_unless_present = "verify_only")]
    directory: Option<PathBuf>,
    /// Only files whose name matches; may be given several times
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<String>,
    /// With -: only these bytes of the file; START..END, START.. or ..END
    #[arg(long, value_name = "RANGE")]
    range: Option<String>,
    /// Read and verify every byte, write nothing
    #[arg(long)]
    verify_only: bool,
    /// Replace files that exist with other content
    #[arg(long)]
    overwrite: bool,
}

pub fn run(session: &Session, args: GetArgs) -> Outcome {
    let address: Address = args.address.parse().map_err(Failure::usage)?;
    let to_stdout = args.directory.as_ref().is_some_and(|directory| directory.as_os_str() == "-");
    if args.range.is_some() && !to_stdout {
        return Err(Failure::usage("--range wants - as its directory"));
    }
    if to_stdout && !args.verify_only {
        return stream(session, &address, &args);
    }
    let sink: Arc<dyn Sink> = match &args.directory {
        Some(directory) if !args.verify_only => {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
            let sink = LocalSink::open(directory).map_err(sink_failure)?;
            Arc::new(sink)
        }
        _ => Arc::new(MemorySink::default()),
    };
    let options = GetOptions {
        include: include(&args.files)?,
        verify_only: args.verify_only,
        overwrite: args.overwrite,
        ..GetOptions::default()
    };
    let wanted_some = !args.files.is_empty();
    let output = session.output;
    let report = session.with_client(async |client| {
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
        let error = anyhow!("{address} has no file that matches {}", args.files.join(", "));
        return Err(Failure::new(Exit::NotFound, error)
            .with_hint(format!("`cairn show {address}` lists the files")));
    }
    output.result(&document(&report, args.verify_only), || text(&report, args.verify_only));
    Ok(Exit::Ok)
}

fn sink_failure(error: SinkError) -> Failure {
    client_failure(ClientError::Sink(error))
}

fn include(globs: &[String]) -> Result<Option<cairn_client::Include>, Failure> {
    if globs.is_empty() {
        return Ok(None);
    }
    let matchers = globs
        .iter()
        .map(|glob| Glob::new(glob).map(|glob| glob.compile_matcher()).map_err(Failure::usage))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Box::new(move |name: &[u8]| {
        let name = String::from_utf8_lossy(name);
        matchers.iter().any(|matcher| matcher.is_match(&*name))
    })))
}

fn document(report: &GetReport, verify_only: bool) -> Value {
    json!({
        "namespace": report.checkpoint.namespace.as_str(),
        "step": report.checkpoint.step.0,
        "id": report.checkpoint.id.0,
        "written": !verify_only,
        "files": report.files,
        "bytes": report.bytes,
        "files_kept": report.files_kept,
        "bytes_kept": report.bytes_kept,
        "bytes_fetched": report.bytes_fetched,
        "segments_fetched": report.segments_fetched,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

fn text(report: &GetReport, verify_only: bool) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let name = format!("{}@{}", report.checkpoint.namespace, report.checkpoint.step);
    let verb = if verify_only { "verified" } else { "restored" };
    format!(
        "{verb} {name}: {}, {}; {} fetched, {} there already; {seconds:.1} s, {}/s\n",
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
    session.runtime()?.block_on(async {
        let client = session.client()?;
        crate::session::interruptible(async {
            let name = only_file(&client, address, include).await?;
            let mut pieces =
                client.read_range(address, &name, start, len).await.map_err(client_failure)?;
            let mut out = std::io::stdout().lock();
            while let Some(piece) = pieces.next().await {
                match out.write_all(&piece.map_err(client_failure)?) {
                    // The reader of a pipe has seen enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
                    written => written.context("write to stdout")?,
                }
            }
            let _ = out.flush();
            Ok(Exit::Ok)
        })
        .await
    })
}

async fn only_file(
    client: &Client,
    address: &Address,
    include: Option<cairn_client::Include>,
) -> Result<Vec<u8>, Failure> {
    let info = client.resolve(address).await.map_err(client_failure)?;
    let manifests = client.manifests(&info).await.map_err(client_failure)?;
    let names: Vec<&Vec<u8>> = manifests
        .iter()
        .flat_map(|manifest| &manifest.files)
        .map(|file| &file.name)
        .filter(|name| include.as_ref().is_none_or(|include| include(name)))
        .collect();
    match names.as_slice() {
        [name] => Ok((*name).clone()),
        [] => Err(Failure::new(Exit::NotFound, anyhow!("{address} has no such file"))
            .with_hint(format!("`cairn show {address}` lists the files"))),
        many => Err(Failure::usage(format!("{} files match, - takes one", many.len()))
            .with_hint("choose one with --file NAME")),
    }
}

/// `START..END`, `START..` or `..END`, in bytes: the start and, if bounded, the length.
fn parse_range(text: &str) -> Result<(u64, Option<u64>), Failure> {
    let malformed = || {
        Failure::usage(format!("malformed range {text:?}"))
            .with_hint("wants START..END, START.. or ..END in bytes")
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
