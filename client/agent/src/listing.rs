//! The list of a checkpoint's files as it was seen at one moment, and its fingerprint.

use std::collections::BTreeSet;
use std::fmt;

use cairn_client::source::SourceEntry;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Stands for names, sizes and times of all files: two listings with one fingerprint are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a SourceEntry>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for entry in entries {
            hasher.update(&(entry.name.len() as u64).to_le_bytes());
            hasher.update(&entry.name);
            hasher.update(&entry.len.to_le_bytes());
            hasher.update(&entry.mtime_ns.to_le_bytes());
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }
}

/// Stands for names, sizes, times of modification and of change, and inodes of all files that a put
/// takes: it tells apart what has one [`Fingerprint`], and means nothing on another file system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Witness([u8; 16]);

impl Witness {
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// The files of a checkpoint as they were at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub fingerprint: Fingerprint,
    pub witness: Witness,
}

/// Both are hexadecimal digits in files and labels.
macro_rules! as_hex {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let mut bytes = [0; 16];
                hex::decode_to_slice(&text, &mut bytes).map_err(de::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    };
}

as_hex!(Fingerprint);
as_hex!(Witness);

/// What a look at one entry of a watched directory found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Listed {
        version: Version,
        files: u64,
        bytes: u64,
        /// Why it is not finished, of a required file that is not there, or older than others.
        lacks: Option<String>,
    },
    /// It is stored, and its witness is the one under which it was stored.
    Settled,
    /// It could not be listed, perhaps because it changed meanwhile.
    Failed { why: String },
}

/// One entry of a watched directory whose name is a checkpoint's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub step: u64,
    pub look: Look,
    pub times: Times,
}

/// Of the files of a checkpoint: when the newest was modified, as the program says, and when the last
/// change of one was, as the kernel says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    pub modified_ns: i64,
    pub changed_ns: i64,
}

/// What the layout's pointer file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Pointed {
    /// The layout has none.
    #[default]
    NoPointer,
    /// It is not there, or is being written: what it protects is not known.
    Unknown {
        why: String,
    },
    Step {
        step: u64,
        modified_ns: i64,
    },
}

/// One look at a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub seen: Vec<Seen>,
    pub pointed: Pointed,
    /// Names of what the program says it needs, such as its best checkpoint; why that is not known.
    pub needed: Result<BTreeSet<String>, String>,
    /// Names that are nearly those of the layout: what has them is left out.
    pub unmatched: Vec<String>,
    /// What interrupted removals left, and why.
    pub left: Vec<String>,
}

impl Default for Scan {
    fn default() -> Self {
        let (pointed, needed) = (Pointed::NoPointer, Ok(BTreeSet::new()));
        Self { seen: Vec::new(), pointed, needed, unmatched: Vec::new(), left: Vec::new() }
    }
}
