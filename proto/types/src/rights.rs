//! Who may do what: rights, the namespaces they hold in, and subjects that have them (DESIGN section
//! 14, decision 0019).
//!
//! ```text
//!   token --verified at the door--> Subject { name, tokens, Grant { rights, namespaces } }
//!                                      |  travels in the log beside its command
//!   Need of a call or command ---------+--> Grant::allows(right, namespace): the one rule
//! ```
//!
//! A right holds in a namespace and in all below it. `Operate` includes the other rights; apart from
//! that none includes another.

use std::fmt;
use std::str::FromStr;

use crate::convert::{ConvertError, at_most, id128_from_wire, id128_to_wire};
use crate::ids::{Namespace, TokenId};
use crate::limits::{SUBJECT_BYTES_MAX, TOKEN_BLOCKS_MAX, TOKEN_NAMESPACES_MAX};
use crate::wire;

/// One thing that a subject may do with a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Read checkpoints, refs, holds and policies.
    Read,
    /// Upload, annotate, make refs.
    Write,
    /// Delete, undelete, replace, hold, quarantine, remove refs.
    Delete,
    /// Nodes, policies, tokens, clocks. Includes the others.
    Operate,
}

impl Right {
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Delete, Self::Operate];

    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Operate => "operate",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Delete => 4,
            Self::Operate => 8,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A text that is no right's word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no right {0:?}: expected read, write, delete or operate")]
pub struct NoSuchRight(String);

impl FromStr for Right {
    type Err = NoSuchRight;

    fn from_str(text: &str) -> Result<Self, NoSuchRight> {
        let found = Self::ALL.into_iter().find(|right| right.word() == text);
        found.ok_or_else(|| NoSuchRight(text.chars().take(32).collect()))
    }
}

/// What a call or command needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Read,
    Write,
    Delete,
    Operate,
    /// A member of the cluster: no subject has this.
    Node,
}

impl Need {
    /// `None`: no right is enough.
    pub fn right(self) -> Option<Right> {
        match self {
            Self::Read => Some(Right::Read),
            Self::Write => Some(Right::Write),
            Self::Delete => Some(Right::Delete),
            Self::Operate => Some(Right::Operate),
            Self::Node => None,
        }
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights(u32);

impl Rights {
    /// All bits that stand for a right.
    const KNOWN: u32 = 15;

    /// Whether the set itself names `right`.
    pub fn names(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Whether the set gives `right`.
    pub fn gives(self, right: Right) -> bool {
        self.names(right) || self.names(Right::Operate)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all that `other` gives is given here.
    pub fn include(self, other: Self) -> bool {
        other.iter().all(|right| self.gives(right))
    }

    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.names(*right))
    }

    pub fn to_wire(self) -> u32 {
        self.0
    }

    /// A right of a later build is refused: to leave it out could mean something else.
    pub fn from_wire(bits: u32) -> Result<Self, ConvertError> {
        match bits & !Self::KNOWN {
            0 => Ok(Self(bits)),
            _ => Err(ConvertError::Value { field: "rights", got: bits.into() }),
        }
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Right::word).collect();
        f.write_str(&words.join(","))
    }
}

/// Rights, and the namespaces they hold in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    pub rights: Rights,
    /// These namespaces and those below them; empty for every namespace.
    pub namespaces: Vec<Namespace>,
}

impl Grant {
    /// The one rule: whether the grant gives `right` in `namespace`.
    pub fn allows(&self, right: Right, namespace: &Namespace) -> bool {
        self.rights.gives(right) && self.reaches(namespace)
    }

    /// Whether it gives `right` in every namespace, also in those that are not there yet: what
    /// belongs to no namespace needs this.
    pub fn allows_everywhere(&self, right: Right) -> bool {
        self.rights.gives(right) && self.namespaces.is_empty()
    }

    /// Whether it gives `right` in some namespace.
    pub fn allows_somewhere(&self, right: Right) -> bool {
        self.rights.gives(right)
    }

    /// Whether it gives any right in `namespace`.
    pub fn knows(&self, namespace: &Namespace) -> bool {
        !self.rights.is_empty() && self.reaches(namespace)
    }

    fn reaches(&self, namespace: &Namespace) -> bool {
        let mut namespaces = self.namespaces.iter();
        self.namespaces.is_empty() || namespaces.any(|prefix| is_in(namespace, prefix))
    }

    /// Whether all that `other` allows is allowed here.
    pub fn includes(&self, other: &Self) -> bool {
        let reaches_all = match other.namespaces.is_empty() {
            true => self.namespaces.is_empty(),
            false => other.namespaces.iter().all(|namespace| self.reaches(namespace)),
        };
        reaches_all && self.rights.include(other.rights)
    }
}

/// Whether `namespace` is `prefix`, or is below it.
fn is_in(namespace: &Namespace, prefix: &Namespace) -> bool {
    let rest = namespace.as_str().strip_prefix(prefix.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl TokenId {
    /// Of an issuer's public key.
    pub fn of_key(key: &[u8; 32]) -> Self {
        Self::of("cairn token: key of an issuer", key)
    }

    /// Of what is signed.
    pub fn of_payload(payload: &[u8]) -> Self {
        Self::of("cairn token: signed block", payload)
    }

    fn of(context: &str, bytes: &[u8]) -> Self {
        let hash = blake3::derive_key(context, bytes);
        Self(hash[..16].iter().fold(0, |id, byte| id << 8 | u128::from(*byte)))
    }
}

/// On whose behalf a command is in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Subject {
    /// Nobody's: of a node or the leader, or from before commands carried subjects.
    #[default]
    None,
    /// A holder of the cluster key.
    Key,
    /// A process that reached a node without a key.
    Local,
    Token(TokenSubject),
}

/// Whom a token stands for, as the door verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSubject {
    pub name: String,
    /// Who signed the first block: the key's id.
    pub issuer: TokenId,
    /// The token's own id, then one for each time it was attenuated. Any of them may be revoked.
    pub tokens: Vec<TokenId>,
    pub grant: Grant,
}

/// What the name of a subject may be.
pub fn check_subject(name: &str) -> Result<(), ConvertError> {
    at_most("subject", name.len(), SUBJECT_BYTES_MAX)?;
    match !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(ConvertError::Text { field: "subject" }),
    }
}

impl Subject {
    pub fn token(&self) -> Option<&TokenSubject> {
        match self {
            Self::Token(token) => Some(token),
            Self::None | Self::Key | Self::Local => None,
        }
    }

    /// The name in records; empty where nobody has proven one.
    pub fn name(&self) -> &str {
        self.token().map_or("", |token| &token.name)
    }

    pub(crate) fn to_wire(&self) -> Option<wire::Subject> {
        let kind = |kind: wire::SubjectKind| wire::Subject {
            kind: kind.into(),
            ..wire::Subject::default()
        };
        match self {
            Self::None => None,
            Self::Key => Some(kind(wire::SubjectKind::Key)),
            Self::Local => Some(kind(wire::SubjectKind::Local)),
            Self::Token(token) => Some(wire::Subject {
                name: token.name.clone(),
                issuer: id128_to_wire(token.issuer.0),
                tokens: token.tokens.iter().map(|id| id128_to_wire(id.0)).collect(),
                rights: token.grant.rights.to_wire(),
                namespaces: token.grant.namespaces.iter().map(ToString::to_string).collect(),
                ..kind(wire::SubjectKind::Token)
            }),
        }
    }

    pub(crate) fn from_wire(message: Option<wire::Subject>) -> Result<Self, ConvertError> {
        let Some(message) = message else { return Ok(Self::None) };
        let got = u64::from(message.kind as u32);
        let unknown = || ConvertError::Value { field: "subject", got };
        let kind = wire::SubjectKind::try_from(message.kind).map_err(|_| unknown())?;
        let rest = wire::Subject { kind: 0, ..message.clone() };
        let is_plain = rest == wire::Subject::default();
        match kind {
            wire::SubjectKind::Key if is_plain => Ok(Self::Key),
            wire::SubjectKind::Local if is_plain => Ok(Self::Local),
            wire::SubjectKind::Token => token_from_wire(message).map(Self::Token),
            _ => Err(unknown()),
        }
    }
}

fn token_from_wire(message: wire::Subject) -> Result<TokenSubject, ConvertError> {
    check_subject(&message.name)?;
    at_most("blocks of a token", message.tokens.len(), TOKEN_BLOCKS_MAX)?;
    at_most("namespaces of a token", message.namespaces.len(), TOKEN_NAMESPACES_MAX)?;
    if message.tokens.is_empty() {
        return Err(ConvertError::Missing { field: "token id" });
    }
    let id = |bytes: &bytes::Bytes| id128_from_wire("token id", bytes).map(TokenId);
    let namespaces = message.namespaces.iter().map(|name| name.parse().map_err(Into::into));
    Ok(TokenSubject {
        name: message.name,
        issuer: id(&message.issuer)?,
        tokens: message.tokens.iter().map(id).collect::<Result<_, ConvertError>>()?,
        grant: Grant {
            rights: Rights::from_wire(message.rights)?,
            namespaces: namespaces.collect::<Result<_, ConvertError>>()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(rights: &[Right], namespaces: &[&str]) -> Grant {
        let namespaces = namespaces.iter().map(|name| name.parse().unwrap()).collect();
        Grant { rights: rights.iter().copied().collect(), namespaces }
    }

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn a_right_holds_in_its_namespace_and_below_and_nowhere_else() {
        let team = grant(&[Right::Write], &["team", "other/run"]);
        for name in ["team", "team/a", "team/a/b", "other/run", "other/run/x"] {
            assert!(team.allows(Right::Write, &namespace(name)), "{name}");
            assert!(!team.allows(Right::Read, &namespace(name)), "{name}");
        }
        for name in ["teams", "team-b/a", "other", "other/runs", "x/team"] {
            assert!(!team.allows(Right::Write, &namespace(name)), "{name}");
            assert!(!team.knows(&namespace(name)), "{name}");
        }
        assert!(!team.allows_everywhere(Right::Write));
    }

    #[test]
    fn only_operate_includes_other_rights() {
        for right in Right::ALL {
            let all = grant(&[right], &[]);
            for other in Right::ALL {
                let want = right == other || right == Right::Operate;
                assert_eq!(all.allows_everywhere(other), want, "{right} and {other}");
            }
        }
        assert!(!grant(&[], &[]).knows(&namespace("team")));
    }

    #[test]
    fn a_grant_includes_what_is_narrower_in_every_way() {
        let wide = grant(&[Right::Read, Right::Write], &["team"]);
        for narrower in [
            grant(&[Right::Write], &["team"]),
            grant(&[Right::Read, Right::Write], &["team/a", "team/b"]),
            grant(&[], &["team/a"]),
        ] {
            assert!(wide.includes(&narrower), "{narrower:?}");
        }
        for other in [
            grant(&[Right::Delete], &["team"]),
            grant(&[Right::Operate], &["team"]),
            grant(&[Right::Read], &[]),
            grant(&[Right::Read], &["team/a", "else"]),
            grant(&[Right::Read], &["teams"]),
        ] {
            assert!(!wide.includes(&other), "{other:?}");
        }
        let operator = grant(&[Right::Operate], &[]);
        assert!(operator.includes(&wide) && operator.includes(&operator));
    }

    #[test]
    fn rights_of_a_later_build_are_refused() {
        assert!(Rights::from_wire(16).is_err());
        assert_eq!("read,delete", Rights::from_wire(5).unwrap().to_string());
    }
}
