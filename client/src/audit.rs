//! Who did what: the audit of the cluster, and the check of each node's file.
//!
//! Numbers of records are the same on every node. Where a node has a gap, because it was given a
//! snapshot or its file is damaged, the others are asked for these records. What nobody has is told
//! as a gap.

use std::time::Duration;

use cairn_proto::refused::refusal_of;
use cairn_proto::wire;
use cairn_types::audit::{AuditEntry, AuditGap};
use cairn_types::ids::{Namespace, NodeId};

use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// Time limit for one page, or for the check of one file of 64 MiB on a slow disk.
const DEADLINE: Duration = Duration::from_secs(60);

/// Which records are wanted; all by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Records that name this namespace or one below it.
    pub namespace: Option<Namespace>,
    /// The name of a token's subject, or `(key)`, `(local)`, `(cluster)`.
    pub subject: Option<String>,
    /// By the wall clocks of leaders, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl AuditQuery {
    pub fn of(namespace: Option<Namespace>, subject: Option<String>, since_ms: u64) -> Self {
        Self { namespace, subject, since_ms }
    }
}

/// What was read beside the records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditReport {
    /// The first record that the first node keeps; older ones were removed.
    pub kept_from: u64,
    /// Damage that nodes have found in their files on the way: node and words.
    pub damage: Vec<(NodeId, String)>,
}

/// A node's file, read in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditCheck {
    pub node: NodeId,
    /// Records of the cluster so far.
    pub count: u64,
    /// The first that is kept; zero where there is none.
    pub first: u64,
    /// Records whose place in the chain was checked.
    pub checked: u64,
    /// Records that the node does not have.
    pub gaps: Vec<AuditGap>,
    /// Empty where everything is as it was written.
    pub damage: Vec<String>,
    /// The chain behind the record that was asked for. `None` where the node does not have it.
    pub hash_at: Option<[u8; 32]>,
}

/// Receives what is read, in the order of the log.
pub type EachEntry<'a> = &'a mut (dyn FnMut(AuditEntry) + Send);

fn malformed(problem: impl ToString) -> ClientError {
    ClientError::Malformed { what: "audit".to_owned(), problem: problem.to_string() }
}

impl Client {
    /// Reads the audit from the first of `addresses` that answers, in the order of the log. The
    /// others are asked for records that it does not have.
    pub fn audit<'a>(
        &'a self,
        addresses: &'a [String],
        query: &'a AuditQuery,
        each: EachEntry<'a>,
    ) -> Answer<'a, AuditReport> {
        Box::pin(async move {
            let mut report = AuditReport::default();
            self.read_audit(addresses, (1, 0), true, query, each, &mut report).await?;
            Ok(report)
        })
    }

    /// Records `range`, to its end if the end is zero. Of those that no node has, `each` gets a gap.
    fn read_audit<'a>(
        &'a self,
        addresses: &'a [String],
        (first, last): (u64, u64),
        is_whole: bool,
        query: &'a AuditQuery,
        each: EachEntry<'a>,
        report: &'a mut AuditReport,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some((address, others)) = addresses.split_first() else {
                let (after_index, until_index, hash) = Default::default();
                each(AuditEntry::Gap(AuditGap { first, last, after_index, until_index, hash }));
                return Ok(());
            };
            let mut next = first;
            loop {
                let page = match self.audit_page(address, (next, last), query).await {
                    Ok(page) => page,
                    // The last one that could answer a whole reading says why it does not.
                    Err(error) if is_whole && others.is_empty() => return Err(error),
                    Err(error @ ClientError::Refused(_)) => return Err(error),
                    Err(_) => {
                        let rest = (next, last);
                        return self.read_audit(others, rest, is_whole, query, each, report).await;
                    }
                };
                let node = NodeId(page.node);
                for text in page.damage {
                    if !report.damage.iter().any(|known| *known == (node, text.clone())) {
                        report.damage.push((node, text));
                    }
                }
                if is_whole && report.kept_from == 0 {
                    report.kept_from = page.kept_from;
                }
                if !is_whole && page.kept_from > next {
                    let until = last.min(page.kept_from - 1);
                    self.read_audit(others, (next, until), false, query, each, report).await?;
                }
                for entry in page.entries {
                    match AuditEntry::from_wire(entry).map_err(malformed)? {
                        AuditEntry::Gap(gap) => {
                            // A gap may begin before what was asked for, and end behind it.
                            let from = gap.first.max(next);
                            let until = if last == 0 { gap.last } else { gap.last.min(last) };
                            let range = (from, until);
                            self.read_audit(others, range, false, query, each, report).await?;
                        }
                        record @ AuditEntry::Record(_) => each(record),
                    }
                }
                if page.next == 0 {
                    return Ok(());
                }
                if page.next <= next {
                    let text = format!("a page of the audit goes on with record {}", page.next);
                    return Err(malformed(text));
                }
                next = page.next;
            }
        })
    }

    async fn audit_page(
        &self,
        address: &str,
        (first, last): (u64, u64),
        query: &AuditQuery,
    ) -> Result<wire::AuditReply, ClientError> {
        let message = wire::AuditRequest {
            first,
            last,
            namespace: query.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
            subject: query.subject.clone().unwrap_or_default(),
            since_ms: query.since_ms,
        };
        let (mut stub, identity) = self.admin(address);
        let call = async move {
            let answer = stub.audit(with_identity(message, &identity)).await;
            match answer.as_ref().err().and_then(refusal_of) {
                Some(refusal) => Ok(tonic::Response::new(Err(refusal))),
                None => answer.map(|reply| tonic::Response::new(Ok(reply.into_inner()))),
            }
        };
        Ok(self.of_one_node(address, DEADLINE, call).await??)
    }

    /// Reads the whole file of the node at `address`. Also tells its chain behind record `at`, if
    /// that is not zero.
    pub fn check_audit<'a>(&'a self, address: &'a str, at: u64) -> Answer<'a, AuditCheck> {
        Box::pin(async move {
            let mut found = AuditCheck::default();
            let (mut file, mut before) = (0, None);
            loop {
                let (mut stub, identity) = self.admin(address);
                let message = wire::AuditCheckRequest { file, at };
                let call = async move {
                    let answer = stub.check_audit(with_identity(message, &identity)).await;
                    match answer.as_ref().err().and_then(refusal_of) {
                        Some(refusal) => Ok(tonic::Response::new(Err(refusal))),
                        None => answer.map(|reply| tonic::Response::new(Ok(reply.into_inner()))),
                    }
                };
                let reply = self.of_one_node(address, DEADLINE, call).await??;
                (found.node, found.count) = (NodeId(reply.node), reply.count);
                found.first = if found.first == 0 { reply.first } else { found.first };
                found.checked += reply.checked;
                for text in reply.damage {
                    if !found.damage.contains(&text) {
                        found.damage.push(text);
                    }
                }
                if before.is_some_and(|before| before != reply.hash_before) {
                    let text =
                        format!("the file of record {} does not follow the one before it", file);
                    if found.damage.is_empty() {
                        found.damage.push(text);
                    }
                }
                for gap in &reply.gaps {
                    found.gaps.push(AuditGap::from_wire(gap).map_err(malformed)?);
                }
                found.hash_at = found.hash_at.or(reply.hash_at.as_ref().try_into().ok());
                before = Some(reply.hash_after);
                match reply.next_file {
                    0 => return Ok(found),
                    next if next <= file => {
                        let text = format!("the file after record {file} is that of {next}");
                        return Err(malformed(text));
                    }
                    next => file = next,
                }
            }
        })
    }
}
