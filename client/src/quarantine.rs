//! A node's quarantine for an operator: its files, and how to put a good copy back.

use std::time::Duration;

use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::SegmentDigest;

use crate::cluster::{Answer, Client, with_identity};
use crate::status::filled;

/// Time limit for a node that reads files in full: 16 files of 32 MiB on a slow disk.
const VERIFY_DEADLINE: Duration = Duration::from_secs(90);

/// Some of the files in a node's quarantine, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantinePage {
    pub files: Vec<QuarantinedFile>,
    /// Whether more files follow.
    pub more: bool,
}

/// A segment file that a node set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantinedFile {
    pub name: String,
    /// `None` for a file whose name is not a segment's.
    pub digest: Option<SegmentDigest>,
    /// File bytes.
    pub bytes: u64,
    /// `bad`, `no-slot` or `in-the-way`. `None` if the name does not tell.
    pub why: Option<String>,
    /// The time of the move to quarantine by the node's wall clock, milliseconds since the Unix
    /// epoch.
    pub since_ms: Option<u64>,
    /// Whether it is good as a whole. `None` if it was not verified.
    pub good: Option<bool>,
}

impl QuarantinedFile {
    fn received(sent: wire::QuarantinedFile) -> Self {
        Self {
            name: sent.name,
            digest: sent.digest.as_ref().try_into().ok().map(SegmentDigest),
            bytes: sent.bytes,
            why: filled(sent.why),
            since_ms: sent.since_ms,
            good: sent.good,
        }
    }
}

/// The result of putting a copy back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// It is durable in its place, and reported.
    Restored,
    /// The node already held the segment, and its file is good.
    HeldBefore,
    Refused {
        why: String,
    },
}

impl Client {
    /// A page of the files in the quarantine of the node at `address`. Their names follow `after`.
    /// The page has at most `limit` files; zero means as many as fit. With `verify`, the node reads
    /// each file in full, and a page has 16 files.
    pub fn quarantined<'a>(
        &'a self,
        address: &'a str,
        after: &'a str,
        limit: u32,
        verify: bool,
    ) -> Answer<'a, QuarantinePage> {
        Box::pin(async move {
            let (mut stub, identity) = self.admin(address);
            let message = wire::ListQuarantineRequest { after: after.to_owned(), limit, verify };
            let call = stub.list_quarantine(with_identity(message, &identity));
            let reply = self.of_one_node(address, VERIFY_DEADLINE, call).await?;
            let files = reply.files.into_iter().map(QuarantinedFile::received).collect();
            Ok(QuarantinePage { files, more: reply.more })
        })
    }

    /// Makes the node at `address` verify a quarantined copy of `digest` in full and put it back as
    /// its replica.
    pub fn restore_quarantined<'a>(
        &'a self,
        address: &'a str,
        digest: SegmentDigest,
    ) -> Answer<'a, Restored> {
        Box::pin(async move {
            let (mut stub, identity) = self.admin(address);
            let message = wire::RestoreRequest { digest: convert::digest_to_wire(&digest) };
            let call = stub.restore(with_identity(message, &identity));
            let reply = self.of_one_node(address, VERIFY_DEADLINE, call).await?;
            Ok(match reply.outcome() {
                wire::RestoreOutcome::Restored => Restored::Restored,
                wire::RestoreOutcome::Held => Restored::HeldBefore,
                wire::RestoreOutcome::Refused | wire::RestoreOutcome::Unspecified => {
                    Restored::Refused { why: reply.refused }
                }
            })
        })
    }
}
