//! What differs between two checkpoints: files, tensors and bytes.
//!
//! ```text
//! manifests of both  -> files: same, changed, only in one       nothing is read
//!                       bytes of the second in segments that the first lacks
//! changed safetensors -> headers are read: tensors by name, type and shape
//!                     -> a tensor's bytes by its segments; read only where cuts do not decide
//! ```

mod tensors;

use std::collections::{BTreeMap, BTreeSet};

use cairn_types::ids::{Address, CheckpointId, SegmentDigest, Selector};
use cairn_types::manifest::{FileEntry, Manifest};
use cairn_types::model::CheckpointInfo;

pub use tensors::TensorChange;

use crate::catalogue::Shown;
use crate::cluster::{Answer, Client};

/// How one of two things relates to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only the second checkpoint has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, with different bytes.
    Changed,
}

/// A file that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileChange {
    /// Relative path, bytes of the source system.
    pub name: Vec<u8>,
    pub change: Change,
    /// Bytes in the first and in the second; 0 where it is missing.
    pub bytes: (u64, u64),
    /// Bytes of it, in the second, that lie in segments which the first does not have anywhere.
    pub bytes_new: u64,
    /// Tensors that are not the same, by name, and the number of those that are; `None` where the
    /// files are not both safetensors, or were not looked into.
    pub tensors: Option<(Vec<TensorChange>, u64)>,
}

/// What differs between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointDiff {
    pub first: CheckpointInfo,
    pub second: CheckpointInfo,
    /// Ascending by name.
    pub files: Vec<FileChange>,
    /// Files with the same bytes in both.
    pub files_same: u64,
    /// Bytes of segments: of both, only of the first, only of the second. The last is what the
    /// second takes of space, and of a put's time, where the first is there.
    pub bytes_shared: u64,
    pub bytes_first_only: u64,
    pub bytes_second_only: u64,
}

impl FileChange {
    pub fn new(name: impl Into<Vec<u8>>, change: Change, bytes: (u64, u64)) -> Self {
        Self { name: name.into(), change, bytes, bytes_new: 0, tensors: None }
    }
}

impl CheckpointDiff {
    /// Of two checkpoints without a file.
    pub fn new(first: CheckpointInfo, second: CheckpointInfo) -> Self {
        Self {
            first,
            second,
            files: Vec::new(),
            files_same: 0,
            bytes_shared: 0,
            bytes_first_only: 0,
            bytes_second_only: 0,
        }
    }
}

impl Client {
    /// Compares two checkpoints. With `tensors`, changed safetensors files are looked into: their
    /// headers are read, and bytes of tensors where their segments do not tell.
    ///
    /// # Errors
    /// Those of [`Client::show`], and of reading where `tensors` is set.
    pub fn diff<'a>(
        &'a self,
        first: &'a Address,
        second: &'a Address,
        tensors: bool,
    ) -> Answer<'a, CheckpointDiff> {
        Box::pin(async move {
            let (first, second) = (self.show(first).await?, self.show(second).await?);
            let mut diff = of_manifests(&first, &second);
            if !tensors {
                return Ok(diff);
            }
            let (old, new) = (Side::of(&first), Side::of(&second));
            for file in diff.files.iter_mut().filter(|file| file.change == Change::Changed) {
                file.tensors = tensors::compare(self, (&old, &new), &file.name).await?;
            }
            Ok(diff)
        })
    }
}

/// One checkpoint's files by name.
struct Side<'a> {
    id: CheckpointId,
    address: Address,
    quarantined: bool,
    files: BTreeMap<&'a [u8], (&'a Manifest, &'a FileEntry, u32)>,
}

impl<'a> Side<'a> {
    fn of(shown: &'a Shown) -> Self {
        let info = &shown.info;
        let mut files = BTreeMap::new();
        for (part, manifest) in (0..).zip(&shown.manifests) {
            for file in &manifest.files {
                // Parts of one checkpoint hold the same bytes under the same name.
                files.entry(file.name.as_slice()).or_insert((manifest, file, part));
            }
        }
        Self {
            id: info.id,
            address: Address {
                namespace: info.namespace.clone(),
                selector: Selector::Step(info.step),
            },
            quarantined: info.quarantine.is_some(),
            files,
        }
    }
}

/// Everything that manifests tell.
fn of_manifests(first: &Shown, second: &Shown) -> CheckpointDiff {
    let (old, new) = (Side::of(first), Side::of(second));
    let (has_old, has_new) = (segments(first), segments(second));
    let bytes_new = |manifest: &Manifest, file: &FileEntry| -> u64 {
        let is_new = |place: u32| {
            let segment = manifest.segments.get(place as usize);
            segment.is_some_and(|(digest, _)| !has_old.contains_key(digest))
        };
        let new = file.extents.iter().filter(|extent| is_new(extent.segment));
        new.map(|extent| u64::from(extent.len)).sum()
    };
    let names: BTreeSet<&[u8]> = old.files.keys().chain(new.files.keys()).copied().collect();
    let (mut files, mut files_same) = (Vec::new(), 0);
    for name in names {
        let (was, is) = (old.files.get(name), new.files.get(name));
        let change = match (was, is) {
            (Some((of_old, old, _)), Some((of_new, new, _))) => {
                if old.len == new.len && of_old.content_of(old) == of_new.content_of(new) {
                    files_same += 1;
                    continue;
                }
                Change::Changed
            }
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
        };
        let lens = (was.map_or(0, |it| it.1.len), is.map_or(0, |it| it.1.len));
        let mut file = FileChange::new(name, change, lens);
        file.bytes_new = is.map_or(0, |(manifest, file, _)| bytes_new(manifest, file));
        files.push(file);
    }
    let sum = |of: &BTreeMap<SegmentDigest, u64>, other: &BTreeMap<_, _>, shared: bool| -> u64 {
        of.iter().filter(|(it, _)| other.contains_key(*it) == shared).map(|(_, len)| len).sum()
    };
    CheckpointDiff {
        files,
        files_same,
        bytes_shared: sum(&has_new, &has_old, true),
        bytes_first_only: sum(&has_old, &has_new, false),
        bytes_second_only: sum(&has_new, &has_old, false),
        ..CheckpointDiff::new(first.info.clone(), second.info.clone())
    }
}

fn segments(shown: &Shown) -> BTreeMap<SegmentDigest, u64> {
    let named = shown.manifests.iter().flat_map(|manifest| &manifest.segments);
    named.map(|(digest, len)| (*digest, u64::from(*len))).collect()
}
