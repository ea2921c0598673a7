//! Catch-up: one segment from other nodes, verified block by block before it is made durable.
//!
//! ```text
//! own quarantine, whole ──► held again
//!    │ no good copy
//!    ▼
//! own bad copies ──► node ──► node ──► own bad copies ...   each continues at the first missing
//!        every block checked against the table              block, as long as it has good ones
//! ```
//!
//! Sources are mixed, so a segment is lost only with the last good copy of one of its blocks. A
//! source with wrong bytes is told so and re-reads its replica.
//!
//! The copy has the form of its first source. If another source has another form, the copy is begun
//! again as raw, which can take blocks of every form (decision 0016).

use std::sync::Arc;

use cairn_core::work::Fetch;
use cairn_proto::wire::SuspectRequest;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_types::blocks::BlockTable;
use cairn_types::convert;
use cairn_types::form::StoredBlocks;
use cairn_types::ids::{NodeId, SegmentDigest};
use tonic::Status;

use crate::remote::{Block, RemoteBlocks, RemoteError};
use crate::shared::{Calls, Member, Replicas};
use crate::store::{Begin, Salvage, StoreError, Writer};

/// Why a fetch did not succeed this time.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no node has a replica to fetch from")]
    NoSource,
    /// Its slot was given up during the transfer.
    #[error("the replica is not wanted here any more")]
    NotWanted,
    #[error("last source, node {node}: {status}")]
    Source { node: NodeId, status: Status },
    /// This node cannot store it.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotWanted(_) => Self::NotWanted,
            error => Self::Store(error),
        }
    }
}

/// Makes one segment durable here from all good blocks that are reachable.
pub async fn segment(
    replicas: &Arc<Replicas>,
    calls: &Arc<Calls>,
    fetch: &Fetch,
) -> Result<(), FetchError> {
    let wanted = wanted(&replicas.member, fetch.digest);
    match replicas.store.recover_from_quarantine_if(fetch.digest, wanted).await {
        Ok(true) => {
            replicas.counters.segments_recovered.add(1);
            return Ok(());
        }
        Ok(false) => {}
        Err(StoreError::NotWanted(_)) => return Err(FetchError::NotWanted),
        Err(error) => {
            tracing::debug!(%error, digest = %fetch.digest, "nothing usable in quarantine")
        }
    }
    Copying::new(replicas, calls, fetch).await.run().await
}

/// Whether this node's applied catalogue gives it a live slot of `digest`. Without a slot no file
/// may be made here, because it would never be destroyed.
fn is_wanted(member: &Member, digest: &SegmentDigest) -> bool {
    member.read(|catalogue| {
        catalogue
            .segment_by_digest(digest)
            .is_some_and(|segment| segment.live_slot_on(member.this.id).is_some())
    })
}

/// [`is_wanted`] as a condition for the store, which calls it under the digest's lock.
pub fn wanted(member: &Arc<Member>, digest: SegmentDigest) -> impl FnOnce() -> bool + Send + use<> {
    let member = Arc::clone(member);
    move || is_wanted(&member, &digest)
}

/// A copy in progress.
struct Copying<'a> {
    replicas: &'a Arc<Replicas>,
    calls: &'a Arc<Calls>,
    fetch: &'a Fetch,
    /// Bad copies of this node.
    own: Option<Salvage>,
    table: Option<BlockTable>,
    /// Whether the copy must be raw: its sources have several forms.
    raw: bool,
    writer: Option<Writer>,
    /// The first missing block.
    next: usize,
}

/// Why a source gave no more blocks.
enum Trouble {
    Source(Status),
    Stop(FetchError),
}

impl From<FetchError> for Trouble {
    fn from(error: FetchError) -> Self {
        Self::Stop(error)
    }
}

/// Whether there is more to copy.
#[derive(PartialEq, Eq)]
enum Step {
    Go,
    /// The segment is durable here already.
    Exists,
}

/// How blocks are added to a copy.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    AsStored,
    /// As their raw bytes.
    Raw,
    /// As raw bytes, and the earlier blocks must be converted to raw too.
    AfreshRaw,
}

/// `begun` holds the blocks of the copy if it is begun.
fn fit(begun: Option<&StoredBlocks>, stored: &StoredBlocks) -> Fit {
    match begun {
        None => Fit::AsStored,
        Some(begun) if begun == stored => Fit::AsStored,
        Some(begun) if begun.is_raw() => Fit::Raw,
        Some(_) => Fit::AfreshRaw,
    }
}

impl<'a> Copying<'a> {
    async fn new(replicas: &'a Arc<Replicas>, calls: &'a Arc<Calls>, fetch: &'a Fetch) -> Self {
        let own = match replicas.store.salvage(fetch.digest, u64::from(fetch.len)).await {
            Ok(own) => own,
            Err(error) => {
                tracing::debug!(%error, digest = %fetch.digest, "cannot read bad copies");
                None
            }
        };
        let table = own.as_ref().and_then(|own| own.table().cloned());
        Self { replicas, calls, fetch, own, table, raw: false, writer: None, next: 0 }
    }

    /// Asks all sources in turn for as long as one of them gives at least one more block.
    async fn run(mut self) -> Result<(), FetchError> {
        let mut last = FetchError::NoSource;
        loop {
            let before = (self.next, self.raw);
            if self.copy_own().await? == Step::Exists {
                return Ok(());
            }
            for source in self.fetch.sources.iter().chain(&self.fetch.remains) {
                if self.is_complete() {
                    break;
                }
                if !is_wanted(&self.replicas.member, &self.fetch.digest) {
                    return Err(FetchError::NotWanted);
                }
                match self.copy_from(*source).await {
                    Ok(Step::Go) => {}
                    Ok(Step::Exists) => return Ok(()),
                    Err(Trouble::Source(status)) => {
                        last = FetchError::Source { node: *source, status };
                    }
                    Err(Trouble::Stop(error)) => return Err(error),
                }
            }
            if self.is_complete() {
                return self.finish().await;
            }
            if (self.next, self.raw) == before {
                return Err(last);
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.table.as_ref().is_some_and(|table| self.next == table.values().len())
    }

    /// Takes the next blocks from this node's own bad copies.
    async fn copy_own(&mut self) -> Result<Step, FetchError> {
        let (Some(own), Some(table)) = (self.own.take(), self.table.clone()) else {
            return Ok(Step::Go);
        };
        let mut step = Step::Go;
        while step == Step::Go && self.next < table.values().len() {
            let Some(block) = own.block(&table, self.next).await else { break };
            // The copies may have several forms, so their blocks come as raw bytes.
            let stored = StoredBlocks::raw(self.fetch.len);
            let block = Block { stored: block.clone(), raw: block };
            if !self.takes(&stored) {
                break;
            }
            step = self.push(&stored, block).await?;
        }
        self.own = Some(own);
        Ok(step)
    }

    /// Takes the next blocks from another node, until one of them is wrong.
    async fn copy_from(&mut self, source: NodeId) -> Result<Step, Trouble> {
        let opened = RemoteBlocks::open(
            self.calls,
            self.replicas.store.codecs(),
            source,
            self.fetch.digest,
            self.next,
        )
        .await;
        let mut blocks = opened.map_err(|error| self.trouble(source, error))?;
        let table = blocks.table().clone();
        self.table = Some(table);
        let stored = blocks.stored().clone();
        if !self.takes(&stored) {
            return Ok(Step::Go);
        }
        while let Some(block) = blocks.next().await.map_err(|error| self.trouble(source, error))? {
            self.replicas.counters.bytes_fetched.add(block.stored.len() as u64);
            if self.push(&stored, block).await? == Step::Exists {
                return Ok(Step::Exists);
            }
        }
        Ok(Step::Go)
    }

    /// Tells a source with wrong bytes about it.
    fn trouble(&self, source: NodeId, error: RemoteError) -> Trouble {
        if matches!(error, RemoteError::Wrong(_)) {
            self.tell(source);
        }
        Trouble::Source(error.into_status())
    }

    /// Whether the copy continues with blocks in this form. If not, it is begun again as raw, from
    /// the first block. That happens at most once, because raw takes blocks of every form.
    fn takes(&mut self, stored: &StoredBlocks) -> bool {
        match fit(self.writer.as_ref().map(Writer::blocks), stored) {
            Fit::AsStored => return true,
            Fit::Raw => self.raw = true,
            Fit::AfreshRaw => {
                tracing::debug!(digest = %self.fetch.digest, "copied as raw: sources differ in form");
                (self.raw, self.writer, self.next) = (true, None, 0);
                return false;
            }
        }
        true
    }

    /// Adds the next block, which is verified and came in the form `stored`.
    async fn push(&mut self, stored: &StoredBlocks, block: Block) -> Result<Step, FetchError> {
        let raw = || StoredBlocks::raw(self.fetch.len);
        let form = if self.raw { raw() } else { stored.clone() };
        let bytes = if self.raw { block.raw } else { block.stored };
        if self.writer.is_none() {
            match self.replicas.store.begin(self.fetch.digest, form).await? {
                Begin::Exists(_) => return Ok(Step::Exists),
                Begin::Writer(writer) => self.writer = Some(writer),
            }
        }
        if let Some(writer) = &mut self.writer {
            writer.push(bytes).await?;
            self.next += 1;
        }
        Ok(Step::Go)
    }

    async fn finish(self) -> Result<(), FetchError> {
        // A segment has at least one block, so there is a writer.
        let Some(writer) = self.writer else { return Err(FetchError::NoSource) };
        writer.finish_if(wanted(&self.replicas.member, self.fetch.digest)).await?;
        self.replicas.note_written(self.fetch.digest);
        self.replicas.counters.segments_fetched.add(1);
        Ok(())
    }

    /// Tells a source that its bytes are wrong. This is a hint: no task waits for it, and the next
    /// fetch from that source repeats it.
    fn tell(&self, source: NodeId) {
        let (calls, digest) = (Arc::clone(self.calls), self.fetch.digest);
        tracing::warn!(%source, %digest, "a source gave wrong bytes, and is told so");
        self.replicas.counters.sources_suspected.add(1);
        self.calls.this.env.spawn("suspect source", async move {
            let Some(address) = calls.member.address_of(source) else { return };
            let mut client = SegmentsClient::new(calls.transport(&address));
            let message = SuspectRequest { digest: convert::digest_to_wire(&digest) };
            let call = client.suspect(calls.request(Some(source), message));
            match tokio::time::timeout(calls.this.call_deadline(), call).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => tracing::debug!(%source, %status, "suspicion was refused"),
                Err(_) => tracing::debug!(%source, "suspicion was not heard in time"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::form::{Codec, Codecs, Coding};

    use super::*;

    const CODECS: Codecs = Codecs::new(&[Coding {
        codec: Codec::new(9),
        feature_level: 1,
        encode: |_| None,
        decode: |_, _| false,
    }]);

    #[test]
    fn a_copy_of_sources_in_several_forms_is_begun_again_as_raw_once() {
        let raw = StoredBlocks::raw(2 << 20);
        let coded = |first| CODECS.blocks(9, 2 << 20, &[first, 7]).unwrap();
        let (one, other) = (coded(5), coded(6));
        assert_eq!(fit(None, &one), Fit::AsStored);
        assert_eq!(fit(Some(&one), &one), Fit::AsStored);
        assert_eq!(fit(Some(&one), &other), Fit::AfreshRaw);
        assert_eq!(fit(Some(&one), &raw), Fit::AfreshRaw);
        // It is then raw and takes every form.
        assert_eq!(fit(Some(&raw), &one), Fit::Raw);
        assert_eq!(fit(Some(&raw), &raw), Fit::AsStored);
    }
}
