//! Names and numbers: every id is its own type, so that none is mistaken for another.

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A node's number: lineage in the top 16 bits, a counter below. Minted at apply, never
    /// reused.
    NodeId
);
number!(
    /// A segment record's number: lineage in the top 16 bits, a dense counter below.
    SegmentId
);
number!(
    /// A checkpoint record's number: lineage in the top 16 bits, a counter below.
    CheckpointId
);
number!(
    /// A training step.
    Step
);
number!(
    /// Orders uploads of one step: equal joins, higher fences the lower, lower is refused.
    Attempt
);
number!(
    /// A node process's registration number. Zero is never issued.
    Incarnation
);
number!(
    /// Of a slot: lineage in the top 16 bits, log index of the entry that assigned it below.
    /// Orders assignments of the same slot.
    Epoch
);
number!(
    /// Tells one run of an uploading client from another, so that what a killed run staged for a
    /// part is not mistaken for what the next one names.
    Run
);

/// Bits below the lineage in node, segment and checkpoint ids and in epochs.
pub const LINEAGE_SHIFT: u32 = 48;

/// The cluster's recovery generation; raised when a lost majority is recovered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage(pub u16);

impl Lineage {
    /// Puts `counter` (below 2^48) into this lineage.
    pub fn mint(self, counter: u64) -> u64 {
        debug_assert!(counter < 1 << LINEAGE_SHIFT, "id counter overflow");
        (u64::from(self.0) << LINEAGE_SHIFT) | counter
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster's random name.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// Names one mutating request; the same id has one effect however often it is sent. Zero means
/// "none": the command is idempotent by itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// A secret-free random number that ties a data directory to its node record.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u128);

/// The random number of one node process, made at its start.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u128);

macro_rules! hex128 {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
    )*};
}
hex128!(ClusterId, RequestId, Cookie, Nonce);

/// BLAKE3 of a segment's raw bytes: the segment's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentDigest(pub [u8; 32]);

impl SegmentDigest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for SegmentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SegmentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentDigest({}..)", hex::encode(&self.0[..6]))
    }
}

impl FromStr for SegmentDigest {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NameError::Digest(text.into()))?;
        Ok(Self(bytes))
    }
}

/// A path such as `llama-70b/pretrain`: the checkpoints of one run.
///
/// 1 to 255 bytes; components separated by `/`, each of letters, digits, `.`, `_`, `-`, not
/// empty, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let component_ok = |component: &str| {
            !component.is_empty()
                && component != "."
                && component != ".."
                && component
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if text.len() > 255 || !text.split('/').all(component_ok) {
            return Err(NameError::Namespace(text.into()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Which checkpoint of a namespace is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    Step(Step),
    /// The newest commit.
    Latest,
    /// A named pointer.
    Ref(String),
    /// The newest committed by then; wall-clock milliseconds since the Unix epoch.
    CommittedBy(u64),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => step.fmt(f),
            Self::Latest => f.write_str("latest"),
            Self::Ref(name) => f.write_str(name),
            Self::CommittedBy(ms) => write!(f, "time:{ms}"),
        }
    }
}

impl FromStr for Selector {
    type Err = NameError;

    /// `1000`, `latest`, `time:MILLISECONDS`, or a ref name (starts with a letter; letters,
    /// digits, `.`, `_`, `-`; at most 64 bytes).
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Selector(text.into());
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(ms) = text.strip_prefix("time:") {
            return ms.parse().map(Self::CommittedBy).map_err(|_| bad());
        }
        if text.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
            return text.parse().map(|s| Self::Step(Step(s))).map_err(|_| bad());
        }
        let name_ok = text.len() <= 64
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if name_ok { Ok(Self::Ref(text.into())) } else { Err(bad()) }
    }
}

/// A checkpoint's address, `NAMESPACE@SELECTOR`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub namespace: Namespace,
    pub selector: Selector,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.namespace, self.selector)
    }
}

impl FromStr for Address {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, selector) =
            text.rsplit_once('@').ok_or_else(|| NameError::Address(text.into()))?;
        Ok(Self { namespace: namespace.parse()?, selector: selector.parse()? })
    }
}

/// A name that cannot be: says which and what a good one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "malformed namespace {0:?}: wants components of letters, digits, '.', '_', '-', joined by '/', 255 bytes at most"
    )]
    Namespace(String),
    #[error("malformed selector {0:?}: wants a step, latest, time:MILLISECONDS or a ref name")]
    Selector(String),
    #[error("malformed checkpoint address {0:?}: wants NAMESPACE@SELECTOR, such as run1@1000")]
    Address(String),
    #[error("malformed segment digest {0:?}: wants 64 hexadecimal digits")]
    Digest(String),
    #[error(
        "malformed label {0:?}: a rack or host name is 1 to 64 printable ASCII characters without spaces"
    )]
    Label(String),
}

/// Checks a rack or host name: 1 to 64 printable ASCII characters without spaces.
pub fn check_label(text: &str) -> Result<(), NameError> {
    let ok = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if ok { Ok(()) } else { Err(NameError::Label(text.into())) }
}

/// Longest address of a node, bytes: a DNS name and a port.
const HOST_PORT_BYTES_MAX: usize = 300;

/// Whether a text may be a node's address: 1 to 300 printable ASCII characters without spaces.
pub fn is_host_port(text: &str) -> bool {
    (1..=HOST_PORT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print() {
        for text in ["run1@1000", "a/b.c/d_e@latest", "x@best", "x@time:1700000000000"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_addresses_name_what_is_wrong() {
        for (text, part) in [
            ("run1", "address"),
            ("@1", "namespace"),
            ("a//b@1", "namespace"),
            ("../x@1", "namespace"),
            ("a@", "selector"),
            ("a@1x", "selector"),
            ("a@-3", "selector"),
            ("a@99999999999999999999999", "selector"),
            ("a b@1", "namespace"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("malformed {part}")) || error.contains(part),
                "{text}: {error}"
            );
        }
    }
}
