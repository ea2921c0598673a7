//! Whether the parts of a checkpoint fit into one directory.
//!
//! A restore writes the files of all parts into one directory. Two parts may name the same file
//! if it holds the same bytes in both; a file in one part may not be a directory in another.
//! [`TakenNames`] collects the names of parts one by one and tells the first clash. Names are
//! kept as hashes, so that a checkpoint of millions of files stays checkable in memory.

use std::collections::BTreeMap;

use crate::manifest::Manifest;

/// The first 128 bits of a BLAKE3: names and contents are compared by it.
pub(crate) type Short = [u8; 16];

/// Why a part does not fit beside those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    pub name: Vec<u8>,
    /// The part that has the name already.
    pub other: u32,
    pub kind: ClashKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClashKind {
    /// Both are files, and their bytes differ.
    Content,
    /// The name is a file in one part and a directory in the other.
    FileAndDirectory,
}

/// The names of some parts together.
#[derive(Debug, Clone, Default)]
pub struct TakenNames {
    /// By name: content, and the first part that has it.
    files: BTreeMap<Short, (Short, u32)>,
    /// Every directory that a part names or implies, and the first part that does.
    directories: BTreeMap<Short, u32>,
}

impl TakenNames {
    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first name of `manifest` that one directory cannot hold beside the names taken.
    pub fn clash(&self, manifest: &Manifest) -> Option<Clash> {
        let clash = |name: &[u8], other: u32, kind| Clash { name: name.to_vec(), other, kind };
        for file in &manifest.files {
            let name = short(&file.name);
            if let Some(other) = self.directories.get(&name) {
                return Some(clash(&file.name, *other, ClashKind::FileAndDirectory));
            }
            if let Some((content, other)) = self.files.get(&name)
                && *content != content_of(manifest, file)
            {
                return Some(clash(&file.name, *other, ClashKind::Content));
            }
        }
        directories(manifest).find_map(|name| {
            let (_, other) = self.files.get(&short(name))?;
            Some(clash(name, *other, ClashKind::FileAndDirectory))
        })
    }

    /// Takes the names of a part that does not clash.
    pub fn take(&mut self, part: u32, manifest: &Manifest) {
        for file in &manifest.files {
            let content = content_of(manifest, file);
            self.files.entry(short(&file.name)).or_insert((content, part));
        }
        for name in directories(manifest) {
            self.directories.entry(short(name)).or_insert(part);
        }
    }
}

/// Directories that a manifest names, and those that lie above its files and directories. Some
/// come more than once.
pub(crate) fn directories(manifest: &Manifest) -> impl Iterator<Item = &[u8]> {
    let files = manifest.files.iter().map(|file| (&file.name[..], false));
    let named = manifest.directories.iter().map(|directory| (&directory.name[..], true));
    let mut before: &[u8] = b"";
    files.chain(named).flat_map(move |(name, is_directory)| {
        // Neighbours in name order share most of their directories.
        let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
        before = name;
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let above = slashes.map(|(end, _)| end).filter(move |end| *end >= shared);
        above.chain(is_directory.then_some(name.len())).map(|end| &name[..end])
    })
}

pub(crate) fn short(bytes: &[u8]) -> Short {
    first_half(blake3::hash(bytes).as_bytes())
}

fn content_of(manifest: &Manifest, file: &crate::manifest::FileEntry) -> Short {
    first_half(&manifest.content_of(file))
}

fn first_half(bytes: &[u8; 32]) -> Short {
    let mut short = [0; 16];
    short.copy_from_slice(&bytes[..16]);
    short
}

#[cfg(test)]
mod tests {
    use crate::ids::SegmentDigest;

    use super::*;
    use crate::manifest::{DirectoryEntry, Extent, FileEntry};

    /// Files by name and content, and directories.
    fn manifest(files: &[(&str, &str)], directories: &[&str]) -> Manifest {
        let mut made = Manifest::default();
        for (name, content) in files {
            made.segments.push((SegmentDigest::of(content.as_bytes()), content.len() as u32));
            made.files.push(FileEntry {
                name: name.as_bytes().to_vec(),
                mode: 0o644,
                mtime_ns: 0,
                len: content.len() as u64,
                extents: vec![Extent {
                    segment: made.segments.len() as u32 - 1,
                    offset: 0,
                    len: content.len() as u32,
                }],
                content: None,
            });
        }
        let directory =
            |name: &&str| DirectoryEntry { name: name.as_bytes().to_vec(), mode: 0o755 };
        made.directories = directories.iter().map(directory).collect();
        made.check().unwrap();
        made
    }

    fn clash(first: &Manifest, second: &Manifest) -> Option<(String, ClashKind)> {
        let mut taken = TakenNames::default();
        taken.take(3, first);
        let clash = taken.clash(second)?;
        assert_eq!(clash.other, 3);
        Some((String::from_utf8(clash.name).unwrap(), clash.kind))
    }

    #[test]
    fn the_same_file_may_be_in_several_parts_and_another_may_not() {
        let first = manifest(&[("a", "one"), ("d/x", "two")], &["e"]);
        assert_eq!(clash(&first, &manifest(&[("a", "one"), ("b", "new")], &["d", "e"])), None);
        let other = manifest(&[("d/x", "three")], &[]);
        assert_eq!(clash(&first, &other), Some(("d/x".to_owned(), ClashKind::Content)));
    }

    #[test]
    fn a_file_may_not_be_a_directory_elsewhere() {
        let first = manifest(&[("a", "one"), ("d-e/x/y", "two")], &["e/f"]);
        let both = ClashKind::FileAndDirectory;
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
        let cases: [Case<'_>; 8] = [
            (&[("a/b", "x")], &[], "a"),
            (&[("a/b/c", "x")], &[], "a"),
            (&[], &["a"], "a"),
            (&[], &["a/b"], "a"),
            (&[("d-e", "x")], &[], "d-e"),
            (&[("d-e/x", "x")], &[], "d-e/x"),
            (&[("e", "x")], &[], "e"),
            (&[("e/f", "x")], &[], "e/f"),
        ];
        for (files, directories, name) in cases {
            let second = manifest(files, directories);
            assert_eq!(clash(&first, &second), Some((name.to_owned(), both)), "{second:?}");
        }
        let beside = manifest(&[("d-e/x/z", "x"), ("e/g", "x")], &["a-b", "d-e/x/w"]);
        assert_eq!(clash(&first, &beside), None);
    }

    #[test]
    fn every_directory_above_a_name_is_found_though_neighbours_share_them() {
        let made = manifest(&[("a/b/c/1", "x"), ("a/b/c/2", "x"), ("a/bc/3", "x")], &["a/b", "z"]);
        let found: std::collections::BTreeSet<&[u8]> = directories(&made).collect();
        let wanted: [&[u8]; 5] = [b"a", b"a/b", b"a/b/c", b"a/bc", b"z"];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted);
    }
}
