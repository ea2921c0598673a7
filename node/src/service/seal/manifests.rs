//! A part's manifest, from the catalogue or from the replicas of its segments.

use bytes::Bytes;
use cairn_host::envelope::{Reason, refuse};
use cairn_host::seam::Lane;
use cairn_types::blocks::block_count;
use cairn_types::ids::{NodeId, SegmentDigest};
use cairn_types::limits::MANIFEST_BYTES_MAX;
use cairn_types::manifest::Manifest;
use cairn_types::model::{ManifestPlace, SealedPart, SlotState};
use cairn_types::set_digest;
use futures::TryStreamExt;
use tonic::Status;

use crate::remote::{RemoteBlocks, RemoteError};
use crate::shared::{Calls, Member, Replicas};
use crate::store::Reading;

/// Manifests up to this long are decoded where they are, bytes: a fraction of a millisecond.
const DECODE_AT_ONCE: usize = 64 << 10;

/// Bytes of an encoded manifest, as far as the catalogue knows its segments.
pub fn len(member: &Member, place: &ManifestPlace) -> u64 {
    match place {
        ManifestPlace::Inline(bytes) => bytes.len() as u64,
        ManifestPlace::Segments(digests) => member.read(|catalogue| {
            let segments = digests.iter().filter_map(|digest| catalogue.segment_by_digest(digest));
            segments.map(|segment| u64::from(segment.form.raw_len())).sum()
        }),
    }
}

/// Reads and decodes the manifest, and compares it with what the part is sealed as. The inner
/// error says why it could not be restored.
pub async fn read(
    replicas: &Replicas,
    calls: &Calls,
    sealed: &SealedPart,
) -> Result<Result<Manifest, String>, Status> {
    let (bytes, places) = match &sealed.manifest {
        ManifestPlace::Inline(bytes) => (bytes.clone(), Vec::new()),
        ManifestPlace::Segments(digests) => {
            if len(&replicas.member, &sealed.manifest) > MANIFEST_BYTES_MAX {
                return Ok(Err(format!("longer than {MANIFEST_BYTES_MAX} bytes")));
            }
            let mut bytes = Vec::new();
            let mut places = Vec::new();
            for digest in digests {
                let segment = segment(replicas, calls, *digest).await?;
                places.push((*digest, segment.len() as u32));
                bytes.extend_from_slice(&segment);
            }
            (Bytes::from(bytes), places)
        }
    };
    let sealed = sealed.clone();
    if bytes.len() <= DECODE_AT_ONCE {
        return Ok(check(&bytes, &places, &sealed));
    }
    Ok(replicas.this.env.blocking(Lane::Data, move || check(&bytes, &places, &sealed)).await)
}

/// The decoded manifest, if it is the one that the claims speak of. `places` are the segments
/// that hold it.
fn check(
    bytes: &[u8],
    places: &[(SegmentDigest, u32)],
    sealed: &SealedPart,
) -> Result<Manifest, String> {
    let manifest = Manifest::decode(bytes).map_err(|error| error.to_string())?;
    let named = manifest.segments.iter().chain(places).copied();
    if set_digest(named) != sealed.set_digest {
        return Err("it names other segments than the part".to_owned());
    }
    let sum = manifest.files.iter().map(|file| file.len).fold(0u64, u64::saturating_add);
    if (sum, manifest.files.len() as u64) != (sealed.bytes, sealed.files) {
        return Err(format!(
            "it has {} files of {sum} bytes, the part says {} of {}",
            manifest.files.len(),
            sealed.files,
            sealed.bytes
        ));
    }
    Ok(manifest)
}

/// The bytes of one segment, verified: from this node, else from any node that has a slot of it.
/// Also from an Assigned one: its report may be on its way.
async fn segment(
    replicas: &Replicas,
    calls: &Calls,
    digest: SegmentDigest,
) -> Result<Bytes, Status> {
    let mut last = match local(replicas, digest).await {
        Ok(bytes) => return Ok(bytes),
        Err(text) => format!("node {}: {text}", replicas.this.id),
    };
    let mut nodes: Vec<(bool, NodeId)> = replicas.member.read(|catalogue| {
        let slots = catalogue.segment_by_digest(&digest).into_iter().flat_map(|it| it.live_slots());
        let others = slots.filter(|slot| slot.node != replicas.this.id);
        others.map(|slot| (slot.state != SlotState::Durable, slot.node)).collect()
    });
    nodes.sort_unstable();
    for (_, node) in nodes {
        match remote(replicas, calls, digest, node).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => last = format!("node {node}: {}", error.into_status().message()),
        }
    }
    let text = format!("segment {digest} of a manifest cannot be read yet: {last}");
    Err(refuse(Reason::NotYet, text))
}

async fn local(replicas: &Replicas, digest: SegmentDigest) -> Result<Bytes, String> {
    let len = replicas.store.len_of(digest).ok_or("not held")?;
    let blocks = replicas.store.read_blocks(digest, 0..block_count(len), Reading::Verified);
    let blocks: Vec<Bytes> = blocks
        .map_err(|error| error.to_string())?
        .try_collect()
        .await
        .map_err(|error| error.to_string())?;
    let bytes = joined(blocks, len);
    // The blocks were checked against the footer; this is what Raft ordered.
    match SegmentDigest::of(&bytes) == digest {
        true => Ok(bytes),
        false => Err("its bytes are not what they should be".to_owned()),
    }
}

async fn remote(
    replicas: &Replicas,
    calls: &Calls,
    digest: SegmentDigest,
    node: NodeId,
) -> Result<Bytes, RemoteError> {
    let mut blocks = RemoteBlocks::open(calls, replicas.store.codecs(), node, digest, 0).await?;
    let mut bytes = Vec::with_capacity(blocks.table().segment_len() as usize);
    while let Some(block) = blocks.next().await? {
        bytes.extend_from_slice(&block.raw);
    }
    Ok(bytes.into())
}

fn joined(blocks: Vec<Bytes>, len: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(len as usize);
    blocks.iter().for_each(|block| bytes.extend_from_slice(block));
    bytes.into()
}

#[cfg(test)]
mod tests {
    use cairn_types::manifest::{Extent, FileEntry};

    use super::*;

    fn sealed(manifest: &Manifest) -> SealedPart {
        SealedPart {
            manifest: ManifestPlace::Inline(manifest.encode().into()),
            set_digest: set_digest(manifest.segments.iter().copied()),
            bytes: 5,
            files: 1,
        }
    }

    fn manifest() -> Manifest {
        let file = FileEntry {
            name: b"f".to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len: 5,
            extents: vec![Extent { segment: 0, offset: 0, len: 5 }],
            content: None,
        };
        Manifest {
            segments: vec![(SegmentDigest::of(b"hello"), 5)],
            files: vec![file],
            directories: vec![],
        }
    }

    #[test]
    fn a_manifest_must_be_readable_and_name_what_the_part_has() {
        let (good, place) = (manifest(), (SegmentDigest::of(b"manifest"), 8));
        let claims = sealed(&good);
        assert_eq!(check(&good.encode(), &[], &claims), Ok(good.clone()));
        let problem = |bytes: &[u8], places: &[_], claims: &SealedPart| {
            check(bytes, places, claims).unwrap_err()
        };
        assert!(problem(&[0xff; 100], &[], &claims).contains("undecodable"));
        assert!(problem(&[], &[], &claims).contains("version"));
        assert!(problem(&good.encode(), &[place], &claims).contains("other segments"));
        let mut elsewhere = good.clone();
        elsewhere.segments.push((SegmentDigest::of(b"not staged"), 10));
        assert!(problem(&elsewhere.encode(), &[], &claims).contains("other segments"));
        for (bytes, files) in [(6, 1), (5, 2), (u64::MAX, u64::MAX)] {
            let lies = SealedPart { bytes, files, ..claims.clone() };
            assert!(problem(&good.encode(), &[], &lies).contains("the part says"));
        }
    }
}
