//! Tokens: who their holder is and what it may do, signed, and narrowed without asking anybody
//! (decision 0019).
//!
//! ```text
//!   issuer's key --signs--> block 0: subject, rights, namespaces, expiry, next key --+
//!   next key's seed --signs--> block 1: no more than block 0, another next key ------+--> token
//!   last seed: proof that nothing was cut off, and what signs the next block --------+
//! ```
//!
//! Who holds a token can give a narrower one away: it signs a block with the last seed, and keeps that
//! seed to itself. Who was given it cannot take the block off again. The design is biscuit's, without
//! its logic language: rights, prefixes and a time need none, and a node evaluates what it is sent.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use cairn_types::convert::{ConvertError, all_known};
use cairn_types::ids::{Namespace, TokenId};
use cairn_types::limits::{
    TOKEN_BLOCKS_MAX, TOKEN_BYTES_MAX, TOKEN_NAMESPACES_MAX, TOKEN_SKEW_MS, TOKEN_VALID_MS_MAX,
};
use cairn_types::rights::{Grant, Rights, TokenSubject, check_subject};
use cairn_types::wire;
use prost::Message;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// The request header that carries a token, and what stands before it there.
pub const TOKEN_HEADER: &str = "authorization";
const BEARER: &str = "Bearer ";
/// The header in which a node passes on the token of the client whose command it forwards.
pub const FORWARDED_TOKEN_HEADER: &str = "cairn-forwarded-token";

/// What every token begins with, so that people and scanners for secrets know one.
const TOKEN_PREFIX: &str = "cairn-token-1.";
/// What the one line of an issuer's key file begins with.
const ISSUER_PREFIX: &str = "cairn-issuer-key-1.";
/// Longest file of either, bytes.
const FILE_BYTES_MAX: u64 = 16 << 10;
/// No signature of ours for another purpose is one of these.
const CONTEXT: &[u8] = b"cairn token block, version 1\0";

/// Why a token is none, or not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    #[error("malformed token: {0}")]
    Value(#[from] ConvertError),
    #[error("block {0} of the token is not signed by the key before it")]
    Signature(usize),
    #[error("the token's proof is not that of its last block: something was cut off")]
    Proof,
    #[error("block {0} of the token gives more than the block before it")]
    Wider(usize),
    #[error("the token is valid for longer than {} days", TOKEN_VALID_MS_MAX / 86_400_000)]
    TooLong,
    #[error("the token expired {} ago", shown_ms(*ms))]
    Expired { ms: u64 },
    #[error("the token begins in {}: compare the clocks of its issuer and of the cluster", shown_ms(*ms))]
    NotYet { ms: u64 },
}

/// Why a file gives no key or token.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is longer than a key or token")]
    TooLong { path: PathBuf },
    #[error("{path} holds no issuer's key: `cairn token init` writes one")]
    NotAKey { path: PathBuf },
    #[error("{path}: {source}")]
    Token { path: PathBuf, source: TokenError },
}

fn shown_ms(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// What a token is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub subject: String,
    pub grant: Grant,
    /// Wall clock, milliseconds since the Unix epoch.
    pub issued_ms: u64,
    pub expires_ms: u64,
}

/// What a token says, its chain of signatures verified from the key of its issuer on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub subject: TokenSubject,
    pub issued_ms: u64,
    pub expires_ms: u64,
}

impl Verified {
    /// Whether it is good at this wall clock.
    pub fn check_time(&self, wall_ms: u64) -> Result<(), TokenError> {
        if wall_ms > self.expires_ms.saturating_add(TOKEN_SKEW_MS) {
            return Err(TokenError::Expired { ms: wall_ms - self.expires_ms });
        }
        if self.issued_ms > wall_ms.saturating_add(TOKEN_SKEW_MS) {
            return Err(TokenError::NotYet { ms: self.issued_ms - wall_ms });
        }
        Ok(())
    }
}

/// A secret of 32 bytes that prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
struct Seed([u8; 32]);

impl Seed {
    fn new() -> Self {
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .expect("the operating system has no random numbers: no token can be made");
        Self(seed)
    }

    /// Of any 32 bytes there is a pair.
    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("a seed of 32 bytes is a key")
    }

    fn public(&self) -> [u8; 32] {
        let pair = self.pair();
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        public
    }
}

/// The key of who makes tokens. Prints nothing of itself.
#[derive(Clone)]
pub struct IssuerKey(Seed);

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerKey(..)")
    }
}

impl IssuerKey {
    pub fn generate() -> Self {
        Self(Seed::new())
    }

    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = read_text(path)?;
        Self::from_text(&text).ok_or_else(|| FileError::NotAKey { path: path.to_owned() })
    }

    pub fn from_text(text: &str) -> Option<Self> {
        let seed = hex::decode(text.trim().strip_prefix(ISSUER_PREFIX)?).ok()?;
        Some(Self(Seed(seed.try_into().ok()?)))
    }

    /// The one line of its file: a secret.
    pub fn to_text(&self) -> String {
        format!("{ISSUER_PREFIX}{}", hex::encode(self.0.0))
    }

    /// What the catalogue knows it by.
    pub fn public(&self) -> [u8; 32] {
        self.0.public()
    }

    /// Of a secret that the caller has drawn.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(Seed(seed))
    }

    /// A new token.
    pub fn issue(&self, claims: &Claims) -> Result<Token, TokenError> {
        self.issue_with(Seed::new().0, claims)
    }

    /// A new token whose secret the caller has drawn, as the simulator does.
    pub fn issue_with(&self, seed: [u8; 32], claims: &Claims) -> Result<Token, TokenError> {
        let Claims { subject, grant, issued_ms, expires_ms } = claims;
        check_subject(subject)?;
        let (next, mut payload) = (Seed(seed), grant_to_wire(grant, *expires_ms));
        payload.issuer = id_to_wire(TokenId::of_key(&self.public()));
        payload.subject.clone_from(subject);
        payload.issued_ms = *issued_ms;
        payload.next_key = Bytes::copy_from_slice(&next.public());
        let block = signed(&self.0, &[], payload);
        let token = Token { blocks: vec![block], proof: next };
        token.verify(&self.public())?;
        Ok(token)
    }
}

/// A token as its holder has it. Prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    blocks: Vec<wire::TokenBlock>,
    proof: Seed,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = read_text(path)?;
        let path = path.to_owned();
        Self::from_text(&text).map_err(|source| FileError::Token { path, source })
    }

    /// From the text that people keep; space around it is left out.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(TOKEN_PREFIX);
        let text = text.ok_or(TokenError::Malformed("it does not begin with cairn-token-1."))?;
        if text.len() > TOKEN_BYTES_MAX * 4 / 3 + 4 {
            return Err(TokenError::Malformed("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text);
        let bytes = bytes.map_err(|_| TokenError::Malformed("it is not base64url"))?;
        let message = wire::Token::decode(&bytes[..]).map_err(ConvertError::from)?;
        all_known("token", &message, bytes.len())?;
        let proof = message.proof[..].try_into().map_err(|_| TokenError::Malformed("no proof"))?;
        if message.blocks.is_empty() || message.blocks.len() > TOKEN_BLOCKS_MAX {
            return Err(TokenError::Malformed("it has no blocks, or too many"));
        }
        let token = Self { blocks: message.blocks, proof: Seed(proof) };
        match token.to_text().strip_prefix(TOKEN_PREFIX) == Some(text) {
            true => Ok(token),
            false => Err(TokenError::Malformed("it is not written as tokens are")),
        }
    }

    /// The text that people keep: a secret.
    pub fn to_text(&self) -> String {
        let proof = Bytes::copy_from_slice(&self.proof.0);
        let message = wire::Token { blocks: self.blocks.clone(), proof };
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(message.encode_to_vec()))
    }

    /// The value of [`TOKEN_HEADER`].
    pub fn to_header(&self) -> String {
        format!("{BEARER}{}", self.to_text())
    }

    /// From the value of [`TOKEN_HEADER`].
    pub fn from_header(value: &str) -> Result<Self, TokenError> {
        let text = value.strip_prefix(BEARER);
        Self::from_text(text.ok_or(TokenError::Malformed("expected `Bearer` and a token"))?)
    }

    /// The id of the key that its first block says signed it.
    pub fn issuer(&self) -> Result<TokenId, TokenError> {
        id_from_wire(&payload(&self.blocks[0])?.issuer)
    }

    /// Whether the whole chain is what `issuer` and the holders after it have signed, and what it
    /// says. The time is not looked at.
    pub fn verify(&self, issuer: &[u8; 32]) -> Result<Verified, TokenError> {
        if self.issuer()? != TokenId::of_key(issuer) {
            return Err(TokenError::Malformed("another issuer has signed it"));
        }
        let mut key = Bytes::copy_from_slice(issuer);
        let mut before = Bytes::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let signed = [CONTEXT, &before, &block.payload].concat();
            let public = UnparsedPublicKey::new(&ED25519, &key);
            public.verify(&signed, &block.signature).map_err(|_| TokenError::Signature(number))?;
            key = payload(block)?.next_key;
            before = block.signature.clone();
        }
        self.claims()
    }

    /// What it says of itself, whoever has signed it: for its holder to look at.
    pub fn claims(&self) -> Result<Verified, TokenError> {
        let first = payload(&self.blocks[0])?;
        let (issued_ms, name) = (first.issued_ms, first.subject.clone());
        let (issuer, mut tokens) = (id_from_wire(&first.issuer)?, Vec::new());
        let (mut grant, mut expires_ms) = (None::<Grant>, u64::MAX);
        let mut last_key = Bytes::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let payload = payload(block)?;
            let is_first = number == 0;
            let says_first =
                !payload.subject.is_empty() || !payload.issuer.is_empty() || payload.issued_ms != 0;
            if says_first && !is_first {
                return Err(TokenError::Malformed("a later block says whose it is"));
            }
            let own = grant_from_wire(&payload)?;
            let is_wider = grant.as_ref().is_some_and(|grant| !grant.includes(&own));
            if is_wider || payload.expires_ms > expires_ms {
                return Err(TokenError::Wider(number));
            }
            (grant, expires_ms) = (Some(own), payload.expires_ms);
            tokens.push(TokenId::of_payload(&block.payload));
            last_key = payload.next_key;
        }
        if self.proof.public()[..] != last_key[..] {
            return Err(TokenError::Proof);
        }
        check_subject(&name)?;
        if payload(&self.blocks[0])?.expires_ms.saturating_sub(issued_ms) > TOKEN_VALID_MS_MAX {
            return Err(TokenError::TooLong);
        }
        let grant = grant.unwrap_or_default();
        let subject = TokenSubject { name, issuer, tokens, grant };
        Ok(Verified { subject, issued_ms, expires_ms })
    }

    /// A token that gives no more than this one: what is `None` stays.
    pub fn attenuate(
        &self,
        rights: Option<Rights>,
        namespaces: Option<Vec<Namespace>>,
        expires_ms: Option<u64>,
    ) -> Result<Self, TokenError> {
        self.attenuate_with(Seed::new().0, rights, namespaces, expires_ms)
    }

    /// The same with a secret that the caller has drawn, as the simulator does.
    pub fn attenuate_with(
        &self,
        seed: [u8; 32],
        rights: Option<Rights>,
        namespaces: Option<Vec<Namespace>>,
        expires_ms: Option<u64>,
    ) -> Result<Self, TokenError> {
        let held = self.claims()?;
        if self.blocks.len() >= TOKEN_BLOCKS_MAX {
            return Err(TokenError::Malformed("it was narrowed as often as can be"));
        }
        let grant = Grant {
            rights: rights.unwrap_or(held.subject.grant.rights),
            namespaces: namespaces.unwrap_or(held.subject.grant.namespaces),
        };
        let (next, mut payload) =
            (Seed(seed), grant_to_wire(&grant, expires_ms.unwrap_or(held.expires_ms)));
        payload.next_key = Bytes::copy_from_slice(&next.public());
        let before = self.blocks.last().map(|block| block.signature.clone()).unwrap_or_default();
        let mut blocks = self.blocks.clone();
        blocks.push(signed(&self.proof, &before, payload));
        let narrowed = Self { blocks, proof: next };
        narrowed.claims()?;
        if narrowed.to_text().len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed("it is too long"));
        }
        Ok(narrowed)
    }
}

/// One line of a small file.
fn read_text(path: &Path) -> Result<String, FileError> {
    let read = || {
        let mut text = String::new();
        // Some files have no end.
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(FileError::TooLong { path: path.to_owned() }),
        false => Ok(text),
    }
}

fn signed(by: &Seed, before: &[u8], payload: wire::TokenPayload) -> wire::TokenBlock {
    let payload = Bytes::from(payload.encode_to_vec());
    let signature = by.pair().sign(&[CONTEXT, before, &payload].concat());
    wire::TokenBlock { payload, signature: Bytes::copy_from_slice(signature.as_ref()) }
}

fn payload(block: &wire::TokenBlock) -> Result<wire::TokenPayload, TokenError> {
    let payload = wire::TokenPayload::decode(&block.payload[..]).map_err(ConvertError::from)?;
    all_known("token", &payload, block.payload.len())?;
    Ok(payload)
}

fn grant_to_wire(grant: &Grant, expires_ms: u64) -> wire::TokenPayload {
    wire::TokenPayload {
        rights: grant.rights.to_wire(),
        namespaces: grant.namespaces.iter().map(ToString::to_string).collect(),
        expires_ms,
        ..wire::TokenPayload::default()
    }
}

fn grant_from_wire(payload: &wire::TokenPayload) -> Result<Grant, TokenError> {
    if payload.namespaces.len() > TOKEN_NAMESPACES_MAX {
        return Err(TokenError::Malformed("it has too many namespaces"));
    }
    let namespaces = payload.namespaces.iter().map(|name| name.parse());
    let namespaces = namespaces.collect::<Result<_, _>>().map_err(ConvertError::Name)?;
    Ok(Grant { rights: Rights::from_wire(payload.rights)?, namespaces })
}

fn id_to_wire(id: TokenId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

fn id_from_wire(bytes: &[u8]) -> Result<TokenId, TokenError> {
    let bytes = bytes.try_into().map_err(|_| TokenError::Malformed("no issuer"))?;
    Ok(TokenId(u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests;
