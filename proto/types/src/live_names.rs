//! The names of an open-ended upload's sealed parts, where parts come and go.
//!
//! Each file name belongs to one part. A part that has the files of another one again takes its
//! place, as a whole: the other part is voided. A part that has some of the files of another one and
//! not all is refused, because the rest would be lost. Names are kept as hashes, as in
//! [`TakenNames`](crate::union::TakenNames).

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::Manifest;
use crate::union::{Short, directories, short};

/// Why a part does not fit beside the sealed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    pub name: Vec<u8>,
    /// The part that has the name.
    pub other: u32,
    pub kind: MisfitKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MisfitKind {
    /// The other part has further files, which the new one has not.
    Overlap,
    /// The name is a file in one part and a directory in the other.
    FileAndDirectory,
}

#[derive(Debug, Clone, Default)]
pub struct LiveNames {
    /// By name: the part that has the file.
    files: BTreeMap<Short, u32>,
    /// Every directory that a part names or implies, with the part.
    directories: BTreeSet<(Short, u32)>,
    parts: BTreeMap<u32, Names>,
}

#[derive(Debug, Clone, Default)]
struct Names {
    files: Vec<Short>,
    directories: Vec<Short>,
}

impl LiveNames {
    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts, ascending, whose files are all in `manifest` again.
    pub fn voided_by(&self, manifest: &Manifest) -> Result<Vec<u32>, Misfit> {
        let misfit = |name: &[u8], other: u32, kind| Misfit { name: name.to_vec(), other, kind };
        // By part: how many of its files come again, and the first of them.
        let mut again = BTreeMap::<u32, (usize, &[u8])>::new();
        for file in &manifest.files {
            let name = short(&file.name);
            if let Some((_, other)) = self.directories.range((name, 0)..=(name, u32::MAX)).next() {
                return Err(misfit(&file.name, *other, MisfitKind::FileAndDirectory));
            }
            if let Some(other) = self.files.get(&name) {
                again.entry(*other).or_insert((0, &file.name)).0 += 1;
            }
        }
        for name in directories(manifest) {
            if let Some(other) = self.files.get(&short(name)) {
                return Err(misfit(name, *other, MisfitKind::FileAndDirectory));
            }
        }
        for (other, (count, name)) in &again {
            let all = self.parts.get(other).map_or(0, |names| names.files.len());
            if *count < all {
                return Err(misfit(name, *other, MisfitKind::Overlap));
            }
        }
        Ok(again.into_keys().collect())
    }

    /// Takes the names of a part. Parts that it voids are to be removed before.
    pub fn take(&mut self, part: u32, manifest: &Manifest) {
        let files: Vec<Short> = manifest.files.iter().map(|file| short(&file.name)).collect();
        let directories: BTreeSet<Short> = directories(manifest).map(short).collect();
        self.files.extend(files.iter().map(|name| (*name, part)));
        self.directories.extend(directories.iter().map(|name| (*name, part)));
        let directories = directories.into_iter().collect();
        self.parts.insert(part, Names { files, directories });
    }

    pub fn remove(&mut self, part: u32) {
        let Some(names) = self.parts.remove(&part) else { return };
        for name in names.files {
            if self.files.get(&name) == Some(&part) {
                self.files.remove(&name);
            }
        }
        for name in names.directories {
            self.directories.remove(&(name, part));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::FileEntry;

    fn manifest(files: &[&str]) -> Manifest {
        let file = |name: &&str| FileEntry {
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len: 0,
            extents: Vec::new(),
            content: None,
        };
        Manifest { files: files.iter().map(file).collect(), ..Manifest::default() }
    }

    fn names(parts: &[(u32, &[&str])]) -> LiveNames {
        let mut names = LiveNames::default();
        parts.iter().for_each(|(part, files)| names.take(*part, &manifest(files)));
        names
    }

    fn voided(names: &LiveNames, files: &[&str]) -> Result<Vec<u32>, (String, u32, MisfitKind)> {
        let text =
            |misfit: Misfit| (String::from_utf8(misfit.name).unwrap(), misfit.other, misfit.kind);
        names.voided_by(&manifest(files)).map_err(text)
    }

    #[test]
    fn a_part_takes_the_place_of_whole_parts_only() {
        let names = names(&[(1, &["a"]), (2, &["d/b", "d/c"]), (9, &["e"])]);
        assert_eq!(voided(&names, &["x"]), Ok(vec![]));
        assert_eq!(voided(&names, &["a"]), Ok(vec![1]));
        assert_eq!(voided(&names, &["a", "d/b", "d/c", "x"]), Ok(vec![1, 2]));
        let overlap = Err(("d/c".to_owned(), 2, MisfitKind::Overlap));
        assert_eq!(voided(&names, &["a", "d/c"]), overlap);
    }

    #[test]
    fn a_file_may_not_be_a_directory_of_another_part() {
        let names = names(&[(1, &["a"]), (2, &["d/b"]), (3, &["d/c"])]);
        let both = MisfitKind::FileAndDirectory;
        assert_eq!(voided(&names, &["d"]), Err(("d".to_owned(), 2, both)));
        assert_eq!(voided(&names, &["a/b"]), Err(("a".to_owned(), 1, both)));
    }

    #[test]
    fn names_of_a_removed_part_are_free_and_shared_directories_stay() {
        let mut names = names(&[(1, &["d/a"]), (2, &["d/b"])]);
        names.remove(1);
        assert_eq!(voided(&names, &["d/a"]), Ok(vec![]));
        assert!(voided(&names, &["d"]).is_err(), "part 2 has it still");
        names.remove(2);
        assert_eq!(voided(&names, &["d"]), Ok(vec![]));
        assert!(names.is_empty());
    }
}
