//! One secret per cluster, and mutual TLS derived from it.
//!
//! Every node and every client holds the cluster's key file. Each derives from it the same
//! certificate authority and the same leaf certificate, byte for byte. It presents the leaf and
//! trusts only that authority. Without the key a process can neither connect nor pose as a node.
//! Only the key file has to be distributed. No certificate is issued or renewed.
//!
//! ```text
//!   key file --blake3::derive_key--> authority seed --Ed25519--> self-signed authority
//!                               \--> leaf seed ------Ed25519--> leaf "cairn", signed by it
//! ```
//!
//! The leaf certificate is sent to anyone who connects, and is derived only from the key. So an
//! attacker can test guesses of the key, and a key that people can remember can be found.
//! [`ClusterKey::generate`] makes good keys.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use tonic::Extensions;
use tonic::transport::server::TlsConnectInfo;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::dial::CONNECT_TIMEOUT;

/// The name in the leaf certificate. Clients expect it at every address.
pub const TLS_NAME: &str = "cairn";

/// Fewest characters of a key: 128 bits, if they are hexadecimal digits.
const KEY_CHARACTERS_MIN: usize = 32;
/// Longest key file, bytes. A longer file is another kind of file.
const KEY_BYTES_MAX: usize = 4096;
/// A key with few different characters is easy to guess. A random key almost certainly has more of
/// them.
const DISTINCT_CHARACTERS_MIN: usize = 8;
const NOT_TEXT: &str = "not one line of printable ASCII";

const AUTHORITY_CONTEXT: &str = "cairn cluster key v1: certificate authority";
const LEAF_CONTEXT: &str = "cairn cluster key v1: leaf certificate";

/// The bytes of a PKCS #8 version 1 structure (RFC 8410, section 7) before a 32-byte Ed25519 seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Why a cluster key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read cluster key {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the cluster's authority is not the PEM that `cairn key ca` prints")]
    NoAuthority,
    #[error("the cluster key is {0}")]
    Malformed(&'static str),
    #[error("derive certificates from the cluster key: {0}")]
    Derive(#[from] rcgen::Error),
}

/// A cluster's secret, and the certificates derived from it. Its debug output shows neither.
#[derive(Clone)]
pub struct ClusterKey {
    authority_pem: String,
    leaf_pem: String,
    leaf_key_pem: String,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl ClusterKey {
    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read = || {
            let mut text = Vec::new();
            // Reads one byte more, so that a longer file is noticed. Some files have no end.
            let file = std::fs::File::open(path)?;
            file.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&text)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > KEY_BYTES_MAX {
            return Err(KeyError::Malformed("longer than 4096 bytes"));
        }
        match str::from_utf8(bytes) {
            Ok(text) => Self::from_text(text),
            Err(_) => Err(KeyError::Malformed(NOT_TEXT)),
        }
    }

    /// The authority that signs every node's certificate, as PEM. A process that trusts it can read
    /// health and metrics over HTTPS and nothing more.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// A key from the text of its file: 32 characters or more without spaces. Spaces around them
    /// are ignored.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let secret = text.trim();
        if secret.len() > KEY_BYTES_MAX {
            return Err(KeyError::Malformed("longer than 4096 bytes"));
        }
        if secret.chars().filter(|c| !c.is_whitespace()).count() < KEY_CHARACTERS_MIN {
            return Err(KeyError::Malformed("shorter than 32 characters"));
        }
        if !secret.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            return Err(KeyError::Malformed(NOT_TEXT));
        }
        if secret.chars().collect::<BTreeSet<_>>().len() < DISTINCT_CHARACTERS_MIN {
            return Err(KeyError::Malformed("made of fewer than 8 different characters"));
        }
        let authority_key = key_pair(AUTHORITY_CONTEXT, secret)?;
        let leaf_key = key_pair(LEAF_CONTEXT, secret)?;
        let mut authority = params("cairn cluster", 1, vec![])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut leaf = params(TLS_NAME, 2, vec![TLS_NAME.to_owned()])?;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::from_params(&authority, &authority_key);
        let leaf_pem = leaf.signed_by(&leaf_key, &issuer)?.pem();
        Ok(Self { authority_pem, leaf_pem, leaf_key_pem: leaf_key.serialize_pem() })
    }

    /// Identifies this key without revealing it: a hash of the authority certificate, which every
    /// caller is shown.
    pub fn fingerprint(&self) -> String {
        hex::encode(&blake3::hash(self.authority_pem.as_bytes()).as_bytes()[..16])
    }

    /// The text of a new key file: 256 random bits as hexadecimal digits.
    pub fn generate() -> String {
        let mut secret = [0; 32];
        SystemRandom::new()
            .fill(&mut secret)
            .expect("the operating system has no random numbers: no key can be made");
        hex::encode(secret)
    }

    /// For a node's listener. A client certificate is optional, so that health and metrics can be
    /// read over HTTPS without one. Calls that need one check [`has_peer_certificate`].
    pub fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.authority_pem))
            .client_auth_optional(true)
            .timeout(CONNECT_TIMEOUT)
    }

    /// For a process that calls a node.
    pub fn client_tls(&self) -> ClientTlsConfig {
        self.anonymous_tls().identity(self.identity())
    }

    /// For a process that only reads health or metrics. It checks the node and presents no
    /// certificate.
    pub fn anonymous_tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority_pem))
            .domain_name(TLS_NAME)
            .timeout(CONNECT_TIMEOUT)
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(&self.leaf_pem, &self.leaf_key_pem)
    }
}

/// The cluster's authority alone: whoever trusts it knows the cluster's nodes, and is nobody to them
/// without a token.
#[derive(Debug, Clone)]
pub struct Authority {
    pem: String,
}

impl Authority {
    /// Reads what `cairn key ca` prints.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut pem = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(KEY_BYTES_MAX as u64 + 1).read_to_string(&mut pem));
        read.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::from_pem(pem)
    }

    pub fn from_pem(pem: impl Into<String>) -> Result<Self, KeyError> {
        let pem = pem.into();
        match pem.len() <= KEY_BYTES_MAX && pem.contains("-----BEGIN CERTIFICATE-----") {
            true => Ok(Self { pem }),
            false => Err(KeyError::NoAuthority),
        }
    }

    /// Checks the node and presents nothing.
    pub fn client_tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.pem))
            .domain_name(TLS_NAME)
            .timeout(CONNECT_TIMEOUT)
    }
}

/// By what a client knows the cluster's nodes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// And they know it as one of their own.
    Key(ClusterKey),
    Authority(Authority),
}

impl Trust {
    pub fn client_tls(&self) -> ClientTlsConfig {
        match self {
            Self::Key(key) => key.client_tls(),
            Self::Authority(authority) => authority.client_tls(),
        }
    }
}

impl From<ClusterKey> for Trust {
    fn from(key: ClusterKey) -> Self {
        Self::Key(key)
    }
}

/// Whether users other than the file's owner and group may read or change it.
pub fn is_open_to_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0)
}

/// Whether a request (by its `http` or tonic extensions) came over a connection whose client
/// presented a certificate. The handshake has checked it against the cluster's authority. `Inner`
/// is the server's information about a connection below TLS.
pub fn has_peer_certificate<Inner: Clone + Send + Sync + 'static>(extensions: &Extensions) -> bool {
    extensions
        .get::<TlsConnectInfo<Inner>>()
        .and_then(TlsConnectInfo::peer_certs)
        .is_some_and(|certificates| !certificates.is_empty())
}

fn key_pair(context: &str, secret: &str) -> Result<KeyPair, KeyError> {
    let seed = blake3::derive_key(context, secret.as_bytes());
    let der = [&PKCS8_PREFIX[..], &seed[..]].concat();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der.into(), &PKCS_ED25519)?)
}

/// Fixes every value that could differ between two holders of the key.
fn params(name: &str, serial: u64, names: Vec<String>) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_one_key_derive_the_same_certificates() {
        let text = ClusterKey::generate();
        let one = ClusterKey::from_text(&text).unwrap();
        let other = ClusterKey::from_text(&format!("  {text}\n")).unwrap();
        assert_eq!(one.authority_pem, other.authority_pem);
        assert_eq!(one.leaf_pem, other.leaf_pem);
        assert_eq!(one.leaf_key_pem, other.leaf_key_pem);
        let stranger = ClusterKey::from_text(&ClusterKey::generate()).unwrap();
        assert_ne!(one.authority_pem, stranger.authority_pem);
        assert_eq!(format!("{one:?}"), "ClusterKey(..)");
    }

    #[test]
    fn certificates_of_a_key_never_change() {
        // Two builds that derive different certificates from the same key cannot talk to each
        // other.
        let key = ClusterKey::from_text(&"0123456789abcdef".repeat(4)).unwrap();
        let all = [key.authority_pem, key.leaf_pem].concat();
        assert_eq!(
            blake3::hash(all.as_bytes()).to_hex()[..32],
            *"0034d7a68fd8ffaccee7d8f8fde46f7d"
        );
    }

    #[test]
    fn a_short_or_missing_key_is_refused_by_name() {
        for (text, what) in [
            (" x".repeat(31), "shorter than 32"),
            ("x".repeat(64), "fewer than 8 different"),
            ("0123456789abcdef\n".repeat(4), "one line"),
            ("0123456789abcdef\0".repeat(4), "printable"),
        ] {
            let error = ClusterKey::from_text(&text).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        let error = ClusterKey::from_bytes(&[0xff; 64]).unwrap_err();
        assert!(error.to_string().contains("printable"), "{error}");
        let error = ClusterKey::load(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("longer than 4096"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        let error = ClusterKey::load(&path).unwrap_err();
        assert!(error.to_string().contains("cluster.key"));
        std::fs::write(&path, ClusterKey::generate()).unwrap();
        ClusterKey::load(&path).unwrap();
    }
}
