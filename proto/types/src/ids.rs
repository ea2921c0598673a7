//! Names and numbers: every id is its own type, so that none is mistaken for another.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::limits::LABEL_BYTES_MAX;
use crate::retention::Extreme;

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

/// Names a token, one attenuation of it, or the key of who issued it: the first half of a BLAKE3.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u128);

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
hex128!(ClusterId, RequestId, Cookie, Nonce, TokenId);

impl FromStr for TokenId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        id.map(Self).ok_or_else(|| NameError::Token(clipped(text)))
    }
}

impl FromStr for ClusterId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        id.map(Self).ok_or_else(|| NameError::Cluster(clipped(text)))
    }
}

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
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NameError::Digest(clipped(text)))?;
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

impl Namespace {
    /// Whether it is this one, or below it.
    pub fn is_at_or_below(&self, above: &Self) -> bool {
        let rest = self.0.strip_prefix(&above.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Names are looked up, and ordered, as their text.
impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
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
            return Err(NameError::Namespace(clipped(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Which checkpoint of a namespace is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    Step(Step),
    /// The newest commit that is not quarantined.
    Latest,
    /// So many good commits before the newest one; at least one.
    Before(u32),
    /// A named pointer.
    Ref(RefName),
    /// The newest committed by then; wall-clock milliseconds since the Unix epoch.
    CommittedBy(u64),
    /// The good commit with the best value of the policy's metric; of equal ones the newest.
    Best,
    /// The same of this metric. Without a side, the policy's.
    BestBy(String, Option<Extreme>),
}

impl Selector {
    /// Whether finding it takes a walk over the commits of the namespace.
    pub fn walks(&self) -> bool {
        match self {
            Self::Step(_) | Self::Latest | Self::Before(_) | Self::Ref(_) => false,
            Self::CommittedBy(_) | Self::Best | Self::BestBy(..) => true,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => step.fmt(f),
            Self::Latest => f.write_str("latest"),
            Self::Before(count) => write!(f, "latest~{count}"),
            Self::Ref(name) => name.fmt(f),
            Self::CommittedBy(ms) => write!(f, "time:{ms}"),
            Self::Best => f.write_str("best"),
            Self::BestBy(metric, None) => write!(f, "best:{metric}"),
            Self::BestBy(metric, Some(side)) => write!(f, "best:{metric}:{side}"),
        }
    }
}

impl FromStr for Selector {
    type Err = NameError;

    /// `1000`, `latest`, `latest~N`, `time:MILLISECONDS`, `best`, `best:METRIC`, `best:METRIC:min`,
    /// `best:METRIC:max`, or a [`RefName`]. A metric may have colons in its name.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Selector(clipped(text));
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(count) = text.strip_prefix("latest~") {
            let count = count.parse().ok().filter(|count| *count <= BEFORE_MAX);
            return count
                .map(|it| if it == 0 { Self::Latest } else { Self::Before(it) })
                .ok_or_else(bad);
        }
        if let Some(ms) = text.strip_prefix("time:") {
            return ms.parse().map(Self::CommittedBy).map_err(|_| bad());
        }
        if text == "best" {
            return Ok(Self::Best);
        }
        if let Some(named) = text.strip_prefix("best:") {
            let (metric, side) = match named.rsplit_once(':') {
                Some((metric, "min")) => (metric, Some(Extreme::Min)),
                Some((metric, "max")) => (metric, Some(Extreme::Max)),
                _ => (named, None),
            };
            let is_name = !metric.is_empty()
                && metric.len() <= LABEL_BYTES_MAX
                && !metric.contains(char::is_control);
            return is_name.then(|| Self::BestBy(metric.to_owned(), side)).ok_or_else(bad);
        }
        if text.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
            return text.parse().map(|s| Self::Step(Step(s))).map_err(|_| bad());
        }
        text.parse().map(Self::Ref).map_err(|_| bad())
    }
}

/// How far back `latest~N` counts: a walk over commits must end.
pub const BEFORE_MAX: u32 = 10_000;

/// The name of a ref: a letter first, then letters, digits, `.`, `_`, `-`; at most 64 bytes. Words
/// that are selectors by themselves are no names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);

impl RefName {
    const RESERVED: [&str; 4] = ["latest", "best", "time", "id"];

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RefName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RefName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let ok = text.len() <= 64
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !Self::RESERVED.contains(&text);
        if ok { Ok(Self(text.into())) } else { Err(NameError::Ref(clipped(text))) }
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
            text.split_once('@').ok_or_else(|| NameError::Address(clipped(text)))?;
        Ok(Self { namespace: namespace.parse()?, selector: selector.parse()? })
    }
}

/// A name that cannot be: says which and what a good one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "malformed namespace {0:?}: expected components of letters, digits, '.', '_', '-', joined by '/', at most 255 bytes"
    )]
    Namespace(String),
    #[error(
        "malformed selector {0:?}: expected a step, latest, latest~N, best, best:METRIC, time:MILLISECONDS or a ref name"
    )]
    Selector(String),
    #[error(
        "malformed ref name {0:?}: expected a letter, then letters, digits, '.', '_', '-', 64 bytes at most; latest, best, time and id are reserved"
    )]
    Ref(String),
    #[error("malformed checkpoint address {0:?}: expected NAMESPACE@SELECTOR, such as run1@1000")]
    Address(String),
    #[error("malformed cluster id {0:?}: expected 32 hexadecimal digits")]
    Cluster(String),
    #[error("malformed token id {0:?}: expected 32 hexadecimal digits")]
    Token(String),
    #[error("malformed segment digest {0:?}: expected 64 hexadecimal digits")]
    Digest(String),
    #[error(
        "malformed label {0:?}: a rack or host name is 1 to 64 printable ASCII characters without spaces"
    )]
    Label(String),
    #[error("malformed address {0:?}: expected HOST:PORT, such as node1:7400 or [::1]:7400")]
    HostPort(String),
}

/// Checks a rack or host name: 1 to 64 printable ASCII characters without spaces.
pub fn check_label(text: &str) -> Result<(), NameError> {
    let ok = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if ok { Ok(()) } else { Err(NameError::Label(clipped(text))) }
}

/// Longest address of a node, bytes: a DNS name of 253 would leave one for the port, and nobody
/// has one of more than 249.
pub const HOST_PORT_BYTES_MAX: usize = 255;

/// Checks a node's address, as everything that dials takes it: `HOST:PORT` with a DNS name, an
/// IPv4 address or an IPv6 address in brackets, and a port from 1 to 65535.
pub fn check_host_port(text: &str) -> Result<(), NameError> {
    let port_ok = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|it| it > 0)
    };
    let host_ok = |host: &str| match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(name)
        }
    };
    let ok = text.len() <= HOST_PORT_BYTES_MAX
        && text.rsplit_once(':').is_some_and(|(host, port)| host_ok(host) && port_ok(port));
    if ok { Ok(()) } else { Err(NameError::HostPort(clipped(text))) }
}

/// As much of a malformed text as an error repeats.
fn clipped(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut characters = text.chars();
    let mut clipped: String = characters.by_ref().take(CHARACTERS_MAX).collect();
    if characters.next().is_some() {
        clipped.push_str("...");
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print() {
        for text in [
            "run1@1000",
            "a/b.c/d_e@latest",
            "x@production",
            "x@latest~3",
            "x@time:1700000000000",
            "x@best",
            "x@best:loss",
            "x@best:eval/loss:nll:max",
            "x@best:recall@5:max",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_nodes_address_is_a_host_and_a_port() {
        let long = format!("{}:7400", "a".repeat(HOST_PORT_BYTES_MAX - 5));
        for text in ["n1:7100", "127.0.0.1:1", "[::1]:7400", "a.b-c_d.example:65535", &long] {
            assert_eq!(check_host_port(text), Ok(()), "{text}");
        }
        for text in [
            "localhost",
            "",
            ":7400",
            "n1:",
            "n1:0",
            "n1:65536",
            "n1:+1",
            "::1:7400",
            "[::1]",
            "[x]:1",
            "http://n1:7400",
            "n1:7400/",
            "u@n1:7400",
            "a b:1",
            "!",
            &format!("a{long}"),
        ] {
            let error = check_host_port(text).unwrap_err().to_string();
            assert!(error.len() < 200, "{error}");
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
            ("a@best:", "selector"),
            ("a@best::min", "selector"),
            ("a@best~1", "selector"),
            ("a@latest~", "selector"),
            ("a@latest~10001", "selector"),
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
