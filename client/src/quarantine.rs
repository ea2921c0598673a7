//! A node's quarantine, as an operator sees it: what lies there, and putting a good copy back.

use std::time::Duration;

use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::SegmentDigest;

use crate::cluster::{Answer, Client, with_identity};
use crate::status::filled;

/// A node that reads files in full answers within this time: 16 of 32 MiB on a slow disk.
const VERIFY_DEADLINE: Duration = Duration::from_secs(90);

/// Some of the files in a node's quarantine, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantinePage {
    pub files: Vec<QuarantinedFile>,
    /// Whether others follow the last of them.
    pub more: bool,
}

/// A segment file that a node set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantinedFile {
    pub name: String,
    /// `None` for a file whose name is not a segment's.
    pub digest: Option<SegmentDigest>,
    /// Of the file.
    pub bytes: u64,
    /// `bad`, `no-slot` or `in-the-way`; `None` where the name does not say it.
    pub why: Option<String>,
    /// When it was set aside by the node's wall clock, milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Whether it is good as a whole; `None` where it was not verified.
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

/// What became of a copy that was to be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// It is durable in its place, and reported.
    Restored,
    /// The node held the segment, and its file is good.
    HeldBefore,
    Refused {
        why: String,
    },
}

impl Client {
    /// A page of the files in the quarantine of the node at `address`: those whose names follow
    /// `after`, `limit` of them, or as many as fit for zero. With `verify`, the node reads each
    /// file in full, and 16 make a page.
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

    /// Has the node at `address` verify a quarantined copy of `digest` in full and put it back as
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
