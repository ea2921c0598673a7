//! The list of a checkpoint's files as it was seen at one moment, and its fingerprint.

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

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes).map_err(de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// What a look at one entry of a watched directory found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Listed {
        fingerprint: Fingerprint,
        files: u64,
        bytes: u64,
        /// The first required file that is not there.
        lacks: Option<String>,
    },
    /// It is stored, and its stamp is the one under which it was stored.
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
}

/// One look at a watched directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    pub seen: Vec<Seen>,
    /// The step that the pointer file names.
    pub pointed: Option<u64>,
}
