//! The key pair of one node (decision 0023): what a node signs, and how another node checks it.
//!
//! ```text
//!   call      cluster, from, to, process nonce        once for each process and peer, then reused
//!   report    cluster, the bytes of the command       once for each report
//! ```
//!
//! A signed call is good for one receiver and one process of the sender: another node rejects it,
//! and every node rejects it once a later process of the sender has registered, or the sender was
//! removed. A report names an incarnation and epochs, so a repeated one has no effect.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cairn_types::ids::{ClusterId, NodeId, Nonce};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use tonic::metadata::{MetadataMap, MetadataValue};

/// The request header of a signed call: node, nonce, signature.
const SPEAKER: &str = "cairn-speaker";
/// The request header of a signed report.
const SIGNATURE: &str = "cairn-signature";
/// The first bytes of a key file.
const FILE_PREFIX: &str = "cairn-node-key-1.";
/// Longest key file, bytes.
pub const FILE_BYTES_MAX: usize = 256;
/// Each kind of statement begins with its own words, so that none is good as another kind.
const CALL: &[u8] = b"cairn node calls, version 1\0";
const REPORT: &[u8] = b"cairn node reports, version 1\0";

pub type PublicKey = [u8; 32];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the file holds no node key")]
    Malformed,
    #[error("the call is not signed")]
    Unsigned,
    #[error("the signature is not by the key of the node that it names")]
    Signature,
}

/// The private key of a node. It is never shown.
pub struct NodeKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKey").finish_non_exhaustive()
    }
}

/// What a node signs to call another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub cluster: ClusterId,
    pub from: NodeId,
    pub to: NodeId,
    /// The sender's process.
    pub nonce: Nonce,
}

impl Call {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = CALL.to_vec();
        bytes.extend(self.cluster.0.to_be_bytes());
        bytes.extend(self.from.0.to_be_bytes());
        bytes.extend(self.to.0.to_be_bytes());
        bytes.extend(self.nonce.0.to_be_bytes());
        bytes
    }

    pub fn verify(&self, key: &PublicKey, signature: &[u8]) -> Result<(), KeyError> {
        verify(key, &self.bytes(), signature)
    }
}

impl NodeKey {
    /// Any 32 random bytes are a seed.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Malformed)?;
        Ok(Self { seed, pair })
    }

    pub fn public(&self) -> PublicKey {
        let mut public = [0; 32];
        public.copy_from_slice(self.pair.public_key().as_ref());
        public
    }

    /// The content of the key file: seed and public key, so that damage shows.
    pub fn to_file(&self) -> String {
        let parts = [self.seed, self.public()].concat();
        format!("{FILE_PREFIX}{}\n", URL_SAFE_NO_PAD.encode(parts))
    }

    pub fn from_file(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::Malformed)?;
        let text = text.trim_end().strip_prefix(FILE_PREFIX).ok_or(KeyError::Malformed)?;
        let parts = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Malformed)?;
        let (seed, public) = parts.split_first_chunk::<32>().ok_or(KeyError::Malformed)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public)
            .map_err(|_| KeyError::Malformed)?;
        Ok(Self { seed: *seed, pair })
    }

    pub fn sign_call(&self, call: &Call) -> [u8; 64] {
        self.sign(&call.bytes())
    }

    pub fn sign_report(&self, cluster: ClusterId, command: &[u8]) -> [u8; 64] {
        self.sign(&report_bytes(cluster, command))
    }

    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }
}

pub fn verify_report(
    key: &PublicKey,
    cluster: ClusterId,
    command: &[u8],
    signature: &[u8],
) -> Result<(), KeyError> {
    verify(key, &report_bytes(cluster, command), signature)
}

fn report_bytes(cluster: ClusterId, command: &[u8]) -> Vec<u8> {
    [REPORT, &cluster.0.to_be_bytes()[..], command].concat()
}

fn verify(key: &PublicKey, bytes: &[u8], signature: &[u8]) -> Result<(), KeyError> {
    if signature.is_empty() {
        return Err(KeyError::Unsigned);
    }
    let key = UnparsedPublicKey::new(&ED25519, key);
    key.verify(bytes, signature).map_err(|_| KeyError::Signature)
}

/// Adds the signature of a call to its headers.
pub fn write_speaker(metadata: &mut MetadataMap, nonce: Nonce, signature: &[u8]) {
    put(metadata, SPEAKER, &format!("{nonce} {}", URL_SAFE_NO_PAD.encode(signature)));
}

/// The sender's process and its signature. A header that is malformed is not there.
pub fn read_speaker(metadata: &MetadataMap) -> Option<(Nonce, Vec<u8>)> {
    let (nonce, signature) = metadata.get(SPEAKER)?.to_str().ok()?.split_once(' ')?;
    let nonce = u128::from_str_radix(nonce, 16).ok()?;
    Some((Nonce(nonce), URL_SAFE_NO_PAD.decode(signature).ok()?))
}

/// Adds the signature of a report to its headers.
pub fn write_signature(metadata: &mut MetadataMap, signature: &[u8]) {
    put(metadata, SIGNATURE, &URL_SAFE_NO_PAD.encode(signature));
}

/// The signature of a report; empty if there is none.
pub fn read_signature(metadata: &MetadataMap) -> Vec<u8> {
    let text = metadata.get(SIGNATURE).and_then(|value| value.to_str().ok());
    text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).unwrap_or_default()
}

fn put(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> NodeKey {
        NodeKey::from_seed([seed; 32]).unwrap()
    }

    const CALL_OF_1: Call =
        Call { cluster: ClusterId(7), from: NodeId(1), to: NodeId(2), nonce: Nonce(9) };

    #[test]
    fn a_signed_call_is_good_for_its_cluster_sender_receiver_and_process_only() {
        let (own, other) = (key(1), key(2));
        let signature = own.sign_call(&CALL_OF_1);
        CALL_OF_1.verify(&own.public(), &signature).unwrap();
        let others = [
            Call { cluster: ClusterId(8), ..CALL_OF_1 },
            Call { from: NodeId(3), ..CALL_OF_1 },
            Call { to: NodeId(3), ..CALL_OF_1 },
            Call { nonce: Nonce(10), ..CALL_OF_1 },
        ];
        for call in others {
            assert_eq!(
                call.verify(&own.public(), &signature),
                Err(KeyError::Signature),
                "{call:?}"
            );
        }
        assert_eq!(CALL_OF_1.verify(&other.public(), &signature), Err(KeyError::Signature));
        assert_eq!(CALL_OF_1.verify(&own.public(), &[]), Err(KeyError::Unsigned));
        for bit in 0..512 {
            let mut damaged = signature;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(CALL_OF_1.verify(&own.public(), &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_signed_report_is_good_for_its_cluster_and_bytes_and_is_no_call() {
        let own = key(1);
        let (public, cluster) = (own.public(), ClusterId(7));
        let signature = own.sign_report(cluster, b"durable");
        verify_report(&public, cluster, b"durable", &signature).unwrap();
        assert!(verify_report(&public, cluster, b"durablf", &signature).is_err());
        assert!(verify_report(&public, ClusterId(8), b"durable", &signature).is_err());
        assert!(verify_report(&key(2).public(), cluster, b"durable", &signature).is_err());
        let call = own.sign_call(&CALL_OF_1);
        assert!(verify_report(&public, cluster, &CALL_OF_1.bytes(), &call).is_err());
    }

    #[test]
    fn a_key_file_gives_the_key_back_and_damage_is_found() {
        let own = key(3);
        let file = own.to_file();
        assert!(file.len() <= FILE_BYTES_MAX);
        assert_eq!(NodeKey::from_file(file.as_bytes()).unwrap().public(), own.public());
        assert!(
            NodeKey::from_file(b"").is_err() && NodeKey::from_file(b"cairn-node-key-1.").is_err()
        );
        for at in FILE_PREFIX.len()..file.len() - 1 {
            let mut damaged = file.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            // The last character has spare bits, which the decoder rejects or which change nothing.
            let back = NodeKey::from_file(&damaged);
            assert!(back.is_err() || at == file.len() - 2, "character {at}");
        }
        assert!(!format!("{own:?}").contains("51"), "the seed is not shown");
    }

    #[test]
    fn headers_carry_signatures() {
        let mut metadata = MetadataMap::new();
        assert_eq!((read_speaker(&metadata), read_signature(&metadata)), (None, Vec::new()));
        let signature = key(1).sign_call(&CALL_OF_1);
        write_speaker(&mut metadata, Nonce(9), &signature);
        write_signature(&mut metadata, &signature);
        assert_eq!(read_speaker(&metadata), Some((Nonce(9), signature.to_vec())));
        assert_eq!(read_signature(&metadata), signature.to_vec());
    }
}
