//! What a second codec costs: this file. Everything else asks the form.
//!
//! A build would have the row of [`RUNS`] in `Codecs::KNOWN`; no product code has a trace of it.

use cairn_node::store::format::{FormatError, file_len, place as place_of};
use cairn_node::store::{Checked, Damage, Reading};
use cairn_types::form::{Codec, Coding, Encoded, FormError};
use cairn_types::limits::BLOCK_BYTES;
use futures::TryStreamExt;

use super::*;

const BLOCK: usize = BLOCK_BYTES as usize;

/// Runs of equal bytes as pairs of their length and the byte.
const RUNS: Coding = Coding { codec: Codec::new(7), feature_level: 3, encode, decode };
const CODECS: Codecs = Codecs::new(&[RUNS]);

fn encode(raw: &[u8]) -> Option<Vec<u8>> {
    let runs = raw.chunk_by(|one, next| one == next).flat_map(|run| run.chunks(255));
    let stored: Vec<u8> = runs.flat_map(|run| [run.len() as u8, run[0]]).collect();
    (stored.len() < raw.len()).then_some(stored)
}

fn decode(stored: &[u8], mut raw: &mut [u8]) -> bool {
    let (pairs, rest) = stored.as_chunks::<2>();
    for [len, byte] in pairs {
        match raw.split_at_mut_checked(usize::from(*len)) {
            Some((run, later)) if *len > 0 => {
                run.fill(*byte);
                raw = later;
            }
            _ => return false,
        }
    }
    raw.is_empty() && rest.is_empty()
}

/// A segment whose blocks shrink to different lengths: one of them not at all, and the last is
/// short.
fn uneven() -> (SegmentDigest, Bytes, Encoded) {
    let mut raw = data(4 * BLOCK + 5000).to_vec();
    raw[..BLOCK].fill(3);
    raw[2 * BLOCK..2 * BLOCK + 900_000].fill(4);
    raw[3 * BLOCK..].fill(5);
    raw[3 * BLOCK + 77] = 6;
    let raw = Bytes::from(raw);
    let encoded = CODECS.encode(RUNS.codec, &raw).unwrap();
    (SegmentDigest::of(&raw), raw, encoded)
}

async fn open_coded(disk: &Arc<dyn Disk>) -> Opened {
    SegmentStore::format(&env(), disk).await.unwrap();
    let config = StoreConfig { reserve_bytes: 0, ..StoreConfig::default() };
    open_knowing(disk, config, CODECS).await.unwrap()
}

async fn put_coded(
    store: &SegmentStore,
    digest: SegmentDigest,
    blocks: &StoredBlocks,
    stored: &[u8],
) -> Result<Stored, StoreError> {
    let Begin::Writer(mut writer) = store.begin(digest, blocks.clone()).await? else {
        panic!("is held")
    };
    for piece in stored.chunks(300_001) {
        writer.push(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

async fn read(
    store: &SegmentStore,
    digest: SegmentDigest,
    blocks: std::ops::Range<usize>,
    reading: Reading,
) -> Vec<Bytes> {
    store.read_blocks(digest, blocks, reading).unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn a_coded_segment_is_stored_read_in_ranges_and_verified() {
    let (_dir, disk) = file_disk();
    let store = open_coded(&disk).await.store;
    let (digest, raw, Encoded { blocks, bytes }) = uneven();
    assert_eq!(bytes[1].len(), BLOCK, "does not shrink");
    assert!(blocks.form().stored_len() < blocks.form().raw_len() / 2);
    let stored = put_coded(&store, digest, &blocks, &bytes.concat()).await.unwrap();
    assert_eq!((stored.len, stored.existed), (raw.len() as u64, false));
    assert_eq!(store.len_of(digest), Some(raw.len() as u64));
    let file = disk.open(&place(digest), cairn_node::disk::Open::Read).unwrap();
    assert_eq!(file.len().unwrap(), file_len(&blocks));
    assert_eq!(store.room().await.unwrap().held, file_len(&blocks));

    let footer = store.read_table(digest).await.unwrap();
    assert_eq!(footer.blocks, blocks);
    for range in [0..5, 2..3, 4..5, 1..4] {
        assert_eq!(read(&store, digest, range.clone(), Reading::AsStored).await, bytes[range]);
    }
    for range in [0..5, 3..5, 2..3] {
        let want = &raw[range.start * BLOCK..raw.len().min(range.end * BLOCK)];
        assert_eq!(read(&store, digest, range, Reading::Verified).await.concat(), want);
    }
    store.verify(digest).await.unwrap();
    assert!(matches!(store.begin(digest, blocks.clone()).await, Ok(Begin::Exists(_))));

    let again = open_coded(&disk).await;
    assert!(again.found.damaged.is_empty() && again.store.holds(digest));
    again.store.verify(digest).await.unwrap();
    spoil(&disk, &place(digest), u64::from(place_of(&blocks, 2).offset) + 9);
    let verified = again.store.verify(digest).await;
    assert!(matches!(verified, Err(StoreError::Damaged { .. })), "{verified:?}");
}

#[tokio::test]
async fn only_stored_bytes_that_decode_to_the_digest_become_visible() {
    let (_dir, disk) = file_disk();
    let store = open_coded(&disk).await.store;
    let (digest, _, Encoded { blocks, bytes }) = uneven();
    let right = bytes.concat();
    // A run of one byte more than its block has, and one of another byte.
    for (at, change) in [(0, 1), (1, 1), (bytes[0].len() + 10, 1), (right.len() - 1, 3)] {
        let mut wrong = right.clone();
        wrong[at] ^= change;
        let error = put_coded(&store, digest, &blocks, &wrong).await.unwrap_err();
        let typed = match at {
            0 => matches!(error, StoreError::Form(FormError::Undecodable { index: 0, codec: 7 })),
            _ => matches!(error, StoreError::WrongDigest(named) if named == digest),
        };
        assert!(typed, "{at}: {error}");
        assert!(!store.holds(digest) && !disk.exists(&place(digest)).unwrap());
    }
    let short = put_coded(&store, digest, &blocks, &right[..right.len() - 1]).await.unwrap_err();
    assert!(matches!(short, StoreError::WrongLength { .. }));
    put_coded(&store, digest, &blocks, &right).await.unwrap();
}

#[tokio::test]
async fn good_blocks_of_copies_in_several_forms_are_read_together() {
    let (_dir, disk) = file_disk();
    let store = open_coded(&disk).await.store;
    let (digest, raw, Encoded { blocks, bytes }) = uneven();
    let len = raw.len() as u64;
    put_coded(&store, digest, &blocks, &bytes.concat()).await.unwrap();
    for index in [0, 3] {
        spoil(&disk, &place(digest), u64::from(place_of(&blocks, index).offset));
    }
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Bad);
    put(&store, &raw).await.unwrap();
    for index in [1, 2, 4] {
        spoil(&disk, &place(digest), 4096 + index * BLOCK_BYTES);
    }
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Bad);
    let copies = store.salvage(digest, len).await.unwrap().unwrap();
    let table = copies.table().unwrap().clone();
    for index in 0..5 {
        let want = &raw[index * BLOCK..raw.len().min((index + 1) * BLOCK)];
        assert_eq!(copies.block(&table, index).await.unwrap(), want, "block {index}");
    }
    assert!(copies.block(&table, 5).await.is_none());

    // A copy that is good as a whole comes back as it was stored.
    put_coded(&store, digest, &blocks, &bytes.concat()).await.unwrap();
    store.quarantine(digest).await.unwrap();
    assert!(store.recover_from_quarantine(digest).await.unwrap());
    assert_eq!(store.read_table(digest).await.unwrap().blocks, blocks);
    assert_eq!(store.room().await.unwrap().held, file_len(&blocks));
}

#[tokio::test]
async fn a_build_without_the_codec_says_which_one_it_lacks() {
    let (_dir, disk) = file_disk();
    let (digest, _, Encoded { blocks, bytes }) = uneven();
    {
        let store = open_coded(&disk).await.store;
        put_coded(&store, digest, &blocks, &bytes.concat()).await.unwrap();
    }
    let older = open(&disk).await;
    let [(named, Damage::Format(FormatError::Form(error)))] = &older.found.damaged[..] else {
        panic!("{:?}", older.found.damaged)
    };
    assert_eq!((*named, error), (digest, &FormError::UnknownCodec(7)));
    assert!(!older.store.holds(digest) && disk.exists(&place(digest)).unwrap());
    let refused = put_coded(&older.store, SegmentDigest([1; 32]), &blocks, &bytes.concat()).await;
    let unknown = matches!(refused, Err(StoreError::Form(FormError::UnknownCodec(7))));
    assert!(unknown, "{refused:?}");
    // The newer build finds it as it was.
    assert!(open_coded(&disk).await.store.holds(digest));
}
