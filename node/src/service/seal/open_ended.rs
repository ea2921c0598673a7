//! The names of an open-ended upload at the leader, and which parts they say are voided.
//!
//! Parts of such an upload come and go. The version of its set of sealed parts tells whether this
//! leader has compared exactly these; if not, it walks over them and reads what it does not know.

use std::collections::BTreeMap;

use cairn_core::catalogue::Upload;
use cairn_types::command::Refusal;
use cairn_types::live_names::{LiveNames, MisfitKind};
use cairn_types::manifest::{Manifest, show};
use cairn_types::model::{ManifestPlace, SealedPart};

use super::Claim;

/// Tells a part from another one of the same number: after a part was dropped, its number may be
/// used again.
type Content = [u8; 32];

#[derive(Default)]
pub(super) struct OpenNames {
    /// Of the sealed parts whose names are here, as far as nobody else changes them.
    version: u32,
    parts: BTreeMap<u32, Content>,
    names: LiveNames,
}

impl OpenNames {
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Sealed parts of the upload that are not known here, and known ones that it has no more.
    pub fn differences(&self, upload: &Upload, version: u32) -> (Vec<(u32, SealedPart)>, Vec<u32>) {
        if version == self.version {
            return (Vec::new(), Vec::new());
        }
        let sealed = upload.parts.iter();
        let sealed =
            sealed.filter_map(|(number, part)| Some((*number, part.part.sealed.as_ref()?)));
        let is_known = |number: &u32, part| self.parts.get(number) == Some(&content(part));
        let unknown: BTreeMap<u32, &SealedPart> =
            sealed.filter(|(number, part)| !is_known(number, part)).collect();
        let is_there = |number: &u32| {
            let part = upload.parts.get(number);
            part.is_some_and(|part| part.part.sealed.is_some()) && !unknown.contains_key(number)
        };
        let gone = self.parts.keys().copied().filter(|number| !is_there(number)).collect();
        (unknown.into_iter().map(|(number, part)| (number, part.clone())).collect(), gone)
    }

    /// The parts that `part` takes the place of.
    pub fn voided_by(&self, part: u32, manifest: &Manifest) -> Result<Vec<u32>, Refusal> {
        self.names.voided_by(manifest).map_err(|misfit| {
            let (name, other) = (show(&misfit.name), misfit.other);
            match misfit.kind {
                MisfitKind::Overlap => Refusal::PartOverlap { name, first: other, second: part },
                MisfitKind::FileAndDirectory => Refusal::NameClash {
                    name,
                    first: other.min(part),
                    second: other.max(part),
                    same_kind: false,
                },
            }
        })
    }

    pub fn take(&mut self, part: u32, sealed: &SealedPart, manifest: &Manifest) {
        self.names.take(part, manifest);
        self.parts.insert(part, content(sealed));
    }

    pub fn remove(&mut self, part: u32) {
        self.names.remove(part);
        self.parts.remove(&part);
    }

    /// Its differences from this version are made up for.
    pub fn synced(&mut self, version: u32) {
        self.version = version;
    }

    /// The part was sealed in place of `voids`, when the upload's version was `compared`.
    pub fn replace(&mut self, claim: &Claim, manifest: &Manifest, voids: &[u32], compared: u32) {
        voids.iter().for_each(|part| self.remove(*part));
        self.take(claim.part, &claim.sealed, manifest);
        self.version = compared + 1 + voids.len() as u32;
    }
}

fn content(sealed: &SealedPart) -> Content {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sealed.set_digest);
    match &sealed.manifest {
        ManifestPlace::Inline(bytes) => hasher.update(bytes),
        ManifestPlace::Segments(digests) => {
            digests.iter().fold(&mut hasher, |hasher, digest| hasher.update(&digest.0))
        }
    };
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use cairn_core::catalogue::UploadPart;
    use cairn_types::ids::Run;
    use cairn_types::manifest::FileEntry;
    use cairn_types::model::OpenPart;

    use super::*;

    fn sealed(manifest: &Manifest) -> SealedPart {
        let manifest = ManifestPlace::Inline(manifest.encode().into());
        SealedPart { manifest, set_digest: [0; 32], bytes: 0, files: 1 }
    }

    fn manifest(name: &str) -> Manifest {
        let file = FileEntry {
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len: 0,
            extents: Vec::new(),
            content: None,
        };
        Manifest { files: vec![file], ..Manifest::default() }
    }

    /// An upload with these sealed parts.
    fn upload(parts: &[(u32, &str)]) -> Upload {
        let mut upload = Upload::default();
        for (number, name) in parts {
            let sealed = Some(sealed(&manifest(name)));
            let part = UploadPart { part: OpenPart { run: Run(1), sealed }, ..Default::default() };
            upload.parts.insert(*number, part);
        }
        upload
    }

    #[test]
    fn a_leader_finds_what_came_and_went_without_it() {
        let mut names = OpenNames::default();
        for (part, name) in [(1, "a"), (2, "b"), (3, "c")] {
            names.take(part, &sealed(&manifest(name)), &manifest(name));
        }
        names.version = 3;
        let now = upload(&[(1, "a"), (3, "other"), (4, "d")]);
        let (unknown, gone) = names.differences(&now, 9);
        assert_eq!(unknown.iter().map(|(part, _)| *part).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(gone, [2, 3], "3 was dropped, and its number used again");
        assert_eq!(names.differences(&now, 3), (vec![], vec![]), "the version says: no change");
    }

    #[test]
    fn a_name_that_is_taken_names_both_parts() {
        let mut names = OpenNames::default();
        let two = Manifest {
            files: [manifest("a"), manifest("b")].into_iter().flat_map(|it| it.files).collect(),
            ..Manifest::default()
        };
        names.take(1, &sealed(&two), &two);
        assert_eq!(names.voided_by(7, &two), Ok(vec![1]));
        let overlap = Refusal::PartOverlap { name: "a".into(), first: 1, second: 7 };
        assert_eq!(names.voided_by(7, &manifest("a")), Err(overlap));
        let clash = Refusal::NameClash { name: "a".into(), first: 1, second: 7, same_kind: false };
        assert_eq!(names.voided_by(7, &manifest("a/b")), Err(clash));
    }
}
