//! `cairn node quarantine ls|restore`: files that a node set aside, and putting good ones back.

use cairn_client::{Client, NodeInfo, QuarantinedFile, Restored};
use cairn_types::ids::SegmentDigest;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::named;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural, table, wall_time};
use crate::session::{Session, client_failure, interruptible};

/// After this number of segments in a row without an answer, a node is not asked for the others.
const FAILURES_ON_END_MAX: u32 = 3;
/// Refusals and failures that are shown; all are counted.
const REFUSALS_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    verb: QuarantineVerb,
}

#[derive(Debug, Subcommand)]
enum QuarantineVerb {
    /// List the segment files in a node's quarantine
    Ls(LsArgs),
    /// Put good files back as replicas of the node. Each file is read in full first; none is deleted
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// Read each file in full and show whether it is good
    #[arg(long)]
    verify: bool,
    /// List at most this many files
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    limit: u32,
    /// List the files after this name, to continue a list that was cut
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    after: String,
}

#[derive(Debug, Args)]
#[command(override_usage = "cairn node quarantine restore [OPTIONS] <NODE> <DIGEST|--all>")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["digest", "all"]))]
struct RestoreArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// Digest of the segment to put back
    #[arg(value_name = "DIGEST")]
    digest: Option<SegmentDigest>,
    /// Put back every file that is good and needed
    #[arg(long)]
    all: bool,
}

pub fn run(session: &Session, args: QuarantineArgs) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            match args.verb {
                QuarantineVerb::Ls(args) => list(session, &client, &args).await,
                QuarantineVerb::Restore(args) => restore(session, &client, &args).await,
            }
        })
        .await
    })
}

async fn find(client: &Client, text: &str) -> Result<NodeInfo, Failure> {
    let status = client.status().await.map_err(client_failure)?;
    named::find(&status.nodes, text).cloned()
}

async fn list(session: &Session, client: &Client, args: &LsArgs) -> Outcome {
    let node = find(client, &args.node).await?;
    let limit = args.limit.max(1) as usize;
    let (mut files, mut more) = (Vec::new(), true);
    while more && files.len() < limit {
        let after = files.last().map_or(&args.after, |file: &QuarantinedFile| &file.name);
        let left = u32::try_from(limit - files.len()).unwrap_or(u32::MAX);
        let page = client.quarantined(&node.address, after, left, args.verify).await;
        let page = page.map_err(client_failure)?;
        // A page of nothing ends the list, whatever it says.
        more = page.more && !page.files.is_empty();
        files.extend(page.files);
    }
    let next = files.last().filter(|_| more).map(|file| file.name.clone());
    let records = files.iter().map(FileRecord::new).collect();
    let document = FilesDocument { node: node.id.0, files: records, next: next.as_deref() };
    session.output.result(&document, || text(&files))?;
    if let Some(next) = next {
        session.output.say(format!("more files follow: --after {next}"));
    }
    Ok(Exit::Ok)
}

/// `node quarantine ls`.
#[derive(Serialize)]
struct FilesDocument<'a> {
    node: u64,
    files: Vec<FileRecord<'a>>,
    /// The last name of a list that was cut, for `--after`; null at its end.
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct FileRecord<'a> {
    name: &'a str,
    /// Null if the file is not a segment's.
    digest: Option<String>,
    /// Of the file.
    bytes: u64,
    /// `bad`, `no-slot`, `in-the-way`, or null.
    why: Option<&'a str>,
    /// Null if the name does not contain it.
    since_ms: Option<u64>,
    /// Null without `--verify`.
    good: Option<bool>,
}

impl<'a> FileRecord<'a> {
    fn new(file: &'a QuarantinedFile) -> Self {
        Self {
            name: &file.name,
            digest: file.digest.map(|digest| digest.to_string()),
            bytes: file.bytes,
            why: file.why.as_deref(),
            since_ms: file.since_ms,
            good: file.good,
        }
    }
}

/// `node quarantine restore`, in segments.
#[derive(Serialize)]
struct RestoreDocument<'a> {
    node: u64,
    restored: u64,
    /// Those that were already replicas of the node.
    held: u64,
    refused: u64,
    /// The first of them.
    refusals: Vec<ReasonRecord<'a>>,
    /// With `--all`: segments of which the node gave no answer.
    failed: u64,
    failures: Vec<ReasonRecord<'a>>,
}

#[derive(Serialize)]
struct ReasonRecord<'a> {
    digest: String,
    reason: &'a str,
}

fn reasons(list: &[(SegmentDigest, String)]) -> Vec<ReasonRecord<'_>> {
    list.iter()
        .map(|(digest, reason)| ReasonRecord { digest: digest.to_string(), reason })
        .collect()
}

fn text(files: &[QuarantinedFile]) -> String {
    if files.is_empty() {
        return "the quarantine is empty\n".to_owned();
    }
    let heads = ["SEGMENT", "FILE SIZE", "WHY", "SINCE", "GOOD"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for file in files {
        let known = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        rows.push(vec![
            file.digest.map_or_else(|| file.name.clone(), |digest| digest.to_string()),
            bytes(file.bytes),
            known(file.why.clone()),
            known(file.since_ms.map(wall_time)),
            known(file.good.map(|good| if good { "yes" } else { "no" }.to_owned())),
        ]);
    }
    table(&rows)
}

/// What became of the files.
#[derive(Debug, Default)]
struct Tally {
    restored: u64,
    held: u64,
    refused: u64,
    /// The first refusals.
    refusals: Vec<(SegmentDigest, String)>,
    /// Asked for and not answered: nothing is known of them.
    failed: u64,
    failures: Vec<(SegmentDigest, String)>,
    failed_on_end: u32,
}

async fn restore(session: &Session, client: &Client, args: &RestoreArgs) -> Outcome {
    let node = find(client, &args.node).await?;
    let mut tally = Tally::default();
    if let Some(digest) = args.digest {
        let restored = client.restore_quarantined(&node.address, digest).await;
        tally.count(digest, restored.map_err(client_failure)?);
    } else {
        let (mut after, mut last) = (String::new(), None);
        'pages: loop {
            let page = client.quarantined(&node.address, &after, 0, false).await;
            let page = page.map_err(client_failure)?;
            for digest in page.files.iter().filter_map(|file| file.digest) {
                // Copies of a segment follow each other.
                if last == Some(digest) {
                    continue;
                }
                last = Some(digest);
                // One that fails says nothing of the next.
                match client.restore_quarantined(&node.address, digest).await {
                    Ok(restored) => tally.count(digest, restored),
                    Err(error) => tally.count_failure(digest, error.to_string()),
                }
                if tally.failed_on_end >= FAILURES_ON_END_MAX {
                    break 'pages;
                }
            }
            match page.files.last() {
                Some(file) if page.more => after.clone_from(&file.name),
                _ => break,
            }
        }
    }
    session.output.result(&tally.document(&node), || tally.text(&node))?;
    if let Some((digest, why)) = tally.failures.first() {
        let text = format!(
            "{} could not be restored on node {}, the first is {digest}: {why}",
            plural(tally.failed, "segment"),
            node.id
        );
        let hint = "run the same command again: it continues with the remaining segments";
        return Err(Failure::new(Exit::Unreachable, anyhow::anyhow!(text)).with_hint(hint));
    }
    match tally.refusals.first() {
        None => Ok(Exit::Ok),
        Some((digest, why)) if args.digest.is_some() => {
            let text = format!("segment {digest} was not restored on node {}: {why}", node.id);
            Err(Failure::new(Exit::Refused, anyhow::anyhow!(text)))
        }
        Some(_) => Ok(Exit::Refused),
    }
}

impl Tally {
    fn count(&mut self, digest: SegmentDigest, restored: Restored) {
        self.failed_on_end = 0;
        let why = match restored {
            Restored::Restored => {
                self.restored += 1;
                return;
            }
            Restored::HeldBefore => {
                self.held += 1;
                return;
            }
            Restored::Refused { why } => why,
            other => format!("{other:?}"),
        };
        self.refused += 1;
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push((digest, why));
        }
    }

    fn count_failure(&mut self, digest: SegmentDigest, why: String) {
        self.failed_on_end += 1;
        self.failed += 1;
        if self.failures.len() < REFUSALS_MAX {
            self.failures.push((digest, why));
        }
    }

    fn document(&self, node: &NodeInfo) -> RestoreDocument<'_> {
        RestoreDocument {
            node: node.id.0,
            restored: self.restored,
            held: self.held,
            refused: self.refused,
            refusals: reasons(&self.refusals),
            failed: self.failed,
            failures: reasons(&self.failures),
        }
    }

    fn text(&self, node: &NodeInfo) -> String {
        let mut text = format!(
            "node {} ({}): {} restored, {} already held, {} refused\n",
            node.id,
            node.host,
            plural(self.restored, "segment"),
            self.held,
            self.refused
        );
        if self.failed > 0 {
            text.push_str(&format!("  {} could not be restored\n", plural(self.failed, "segment")));
        }
        for (digest, why) in self.refusals.iter().chain(&self.failures) {
            text.push_str(&format!("  {digest}  {why}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_is_known_of_each_file() {
        let digest = SegmentDigest([0xab; 32]);
        let mut file = QuarantinedFile::default();
        file.name = format!("{digest}.0.bad.1764449999123");
        file.digest = Some(digest);
        file.bytes = 1 << 20;
        file.why = Some("bad".to_owned());
        file.since_ms = Some(1_764_449_999_123);
        file.good = Some(false);
        let mut strange = QuarantinedFile::default();
        strange.name = "notes".to_owned();
        strange.bytes = 7;
        let shown = text(&[file.clone(), strange.clone()]);
        let rows: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(rows[1][1..], ["1.0 MiB", "bad", "2025-11-29T20:59:59Z", "no"]);
        assert_eq!(rows[2], ["notes", "7 B", "?", "?", "?"]);
        assert_eq!(FileRecord::new(&strange).digest, None);
        assert_eq!(FileRecord::new(&file).good, Some(false));
    }

    #[test]
    fn refusals_are_counted_and_named() {
        let node = named::member(2, "h2");
        let digest = SegmentDigest([1; 32]);
        let refusals = vec![(digest, "no checkpoint names it".to_owned())];
        let tally = Tally { restored: 1, refused: 1, refusals, ..Tally::default() };
        let said = tally.text(&node);
        assert!(said.starts_with("node 2 (h2): 1 segment restored, 0 already held, 1 refused\n"));
        assert!(said.contains(&format!("{digest}  no checkpoint names it")), "{said}");
        assert_eq!(tally.document(&node).refusals[0].reason, "no checkpoint names it");
    }
    #[test]
    fn a_failure_is_counted_and_only_many_on_end_are_the_nodes() {
        let node = named::member(2, "h2");
        let (one, other) = (SegmentDigest([1; 32]), SegmentDigest([2; 32]));
        let mut tally = Tally::default();
        tally.count_failure(one, "a check is under way".to_owned());
        tally.count_failure(one, "a check is under way".to_owned());
        tally.count(other, Restored::Restored);
        assert_eq!((tally.restored, tally.failed, tally.failed_on_end), (1, 2, 0));
        let said = tally.text(&node);
        assert!(said.contains("1 segment restored"), "{said}");
        assert!(said.contains("2 segments could not be restored"), "{said}");
        assert!(said.contains(&format!("{one}  a check is under way")), "{said}");
        assert_eq!(tally.document(&node).failures[0].digest, one.to_string());
    }
}
