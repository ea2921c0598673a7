//! The identity of the node in this data directory: the file `identity`.
//!
//! The file has two slots, written in turn. A write is synced before its content is used. Each slot
//! has a CRC-32 and a generation number, so that a torn write leaves the previous slot valid. The
//! file also holds its own inode number, by which a copied directory is detected (DESIGN section 6,
//! "Identity"). The drawing is in `proto/README.md`, "Identity file".
//!
//! All functions block; callers run them on the Log lane.

use std::io;
use std::sync::Arc;

use cairn_types::ids::{ClusterId, Cookie, Incarnation, Lineage, NodeId, Nonce};

use crate::disk::{DIRECT_ALIGN, Disk, DiskFile, Open};

pub const IDENTITY_FILE: &str = "identity";
const IDENTITY_TMP: &str = "identity.tmp";

const MAGIC: [u8; 8] = *b"CAIRN ID";
const SLOT_VERSION: u32 = 1;
const SLOT_BYTES: usize = 1024;
const CRC_AT: usize = SLOT_BYTES - 4;
/// Offset of the incarnation of the last registration.
const INCARNATION_AT: usize = CRC_AT - 8;
/// The slots are a page apart: a torn page or sector damages at most one of them.
const SLOT_STRIDE: u64 = DIRECT_ALIGN as u64;
const FILE_BYTES: u64 = 2 * SLOT_STRIDE;
/// Offset of host, rack and address. Each is a length byte and its bytes.
const NAMES_AT: usize = 96;

const HAS_NODE: u8 = 1;
const HAS_REGISTERED: u8 = 2;

/// Longest advertised address, bytes.
const ADDRESS_BYTES_MAX: usize = cairn_types::ids::HOST_PORT_BYTES_MAX;
/// Longest host or rack name, bytes (as `cairn_types::ids::check_label`).
pub const NAME_BYTES_MAX: usize = 64;

/// Limit on remembered registrations that were sent but not answered. With the registered one,
/// these are the nonces that `Register` may name. Each was perhaps applied, so forgetting one could
/// lock the node out. Only a node that crashes at the same moment every time reaches this limit.
pub const PENDING_NONCES_MAX: usize = 31;

// The longest names and all nonces fit.
const _: () = assert!(
    NAMES_AT + 3 + 2 * NAME_BYTES_MAX + ADDRESS_BYTES_MAX + 1 + 16 * PENDING_NONCES_MAX
        <= INCARNATION_AT
);

/// A node's data about itself before it has read anything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub lineage: Lineage,
    /// `None` until the cluster has assigned an id.
    pub node: Option<NodeId>,
    pub cookie: Cookie,
    /// Nonce of the last registration known to be applied.
    pub registered_nonce: Option<Nonce>,
    /// The incarnation of that registration. Zero if the file was written by a build that did not
    /// store it.
    pub registered_incarnation: Incarnation,
    /// Nonces of registrations that were sent since and may have been applied, oldest first.
    pub pending_nonces: Vec<Nonce>,
    /// Version of the data directory's layout.
    pub data_format: u32,
    /// As last used: `host:port`, host and rack names.
    pub address: String,
    pub host: String,
    pub rack: String,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// An empty directory, or one of another program.
    #[error("no identity file in the data directory")]
    Missing,
    #[error("the data directory has an identity already")]
    Exists,
    /// Never start again under the old id: rejoin as a new node.
    #[error("identity file is damaged: slot 0 {first}, slot 1 {second}")]
    Damaged { first: SlotError, second: SlotError },
    /// Two nodes with one id would vote twice.
    #[error(
        "this directory is a copy: its identity file has inode {found}, the original had {recorded}"
    )]
    Copied { recorded: u64, found: u64 },
    #[error("{what} {name:?} is longer than {max} bytes")]
    NameLength { what: &'static str, name: String, max: usize },
    #[error("cannot {action} identity file: {source}")]
    Io { action: &'static str, source: io::Error },
    /// The content of the file is no longer known: the node stops.
    #[error("cannot sync identity file, the node must stop: {0}")]
    Fatal(io::Error),
}

/// Why a slot is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("cannot be read")]
    Unreadable,
    #[error("was never written")]
    Empty,
    #[error("has another magic")]
    Magic,
    #[error("fails its checksum")]
    Checksum,
    #[error("has unknown version {0}")]
    Version(u32),
    #[error("holds malformed names")]
    Names,
}

/// The open identity file of a data directory.
pub struct IdentityFile {
    file: Box<dyn DiskFile>,
    current: Slot,
}

/// One slot's content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    generation: u64,
    inode: u64,
    identity: Identity,
}

impl IdentityFile {
    /// Writes the first identity of a data directory, durably.
    pub fn create(disk: &Arc<dyn Disk>, identity: Identity) -> Result<Self, IdentityError> {
        check_names(&identity)?;
        if disk.exists(IDENTITY_FILE).map_err(io_error("look for"))? {
            return Err(IdentityError::Exists);
        }
        match disk.remove(IDENTITY_TMP) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove unfinished")(error));
            }
            _ => {}
        }
        let file = disk.open(IDENTITY_TMP, Open::Create).map_err(io_error("create"))?;
        file.set_len(FILE_BYTES).map_err(io_error("create"))?;
        // A rename keeps the inode.
        let inode = disk.inode(IDENTITY_TMP).map_err(io_error("examine"))?;
        let current = Slot { generation: 1, inode, identity };
        write_slot(&*file, &current)?;
        disk.rename(IDENTITY_TMP, IDENTITY_FILE).map_err(io_error("rename"))?;
        disk.sync_dir("").map_err(IdentityError::Fatal)?;
        Ok(Self { file, current })
    }

    /// Reads the identity of a data directory, and checks that it belongs to this directory.
    pub fn load(disk: &Arc<dyn Disk>) -> Result<Self, IdentityError> {
        let file = match disk.open(IDENTITY_FILE, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing);
            }
            file => file.map_err(io_error("open"))?,
        };
        // A killed process may have written a slot, or renamed the file, without a sync. The node
        // acts on this content, so it must be durable.
        file.sync().map_err(IdentityError::Fatal)?;
        disk.sync_dir("").map_err(IdentityError::Fatal)?;
        let current = match (read_slot(&*file, 0), read_slot(&*file, 1)) {
            (Ok(first), Ok(second)) if first.generation > second.generation => first,
            (_, Ok(second)) => second,
            (Ok(first), Err(_)) => first,
            (Err(first), Err(second)) => return Err(IdentityError::Damaged { first, second }),
        };
        let found = disk.inode(IDENTITY_FILE).map_err(io_error("examine"))?;
        if found != current.inode {
            return Err(IdentityError::Copied { recorded: current.inode, found });
        }
        Ok(Self { file, current })
    }

    pub fn identity(&self) -> &Identity {
        &self.current.identity
    }

    /// Rises by one with each update.
    pub fn generation(&self) -> u64 {
        self.current.generation
    }

    /// Replaces the identity. It is durable when this returns. After `Io` the old one is in force;
    /// after `Fatal` the node stops.
    pub fn update(&mut self, identity: Identity) -> Result<(), IdentityError> {
        check_names(&identity)?;
        let next = Slot { generation: self.current.generation + 1, identity, ..self.current };
        write_slot(&*self.file, &next)?;
        self.current = next;
        Ok(())
    }
}

fn io_error(action: &'static str) -> impl Fn(io::Error) -> IdentityError {
    move |source| IdentityError::Io { action, source }
}

fn check_names(identity: &Identity) -> Result<(), IdentityError> {
    let names = [
        ("host", &identity.host, NAME_BYTES_MAX),
        ("rack", &identity.rack, NAME_BYTES_MAX),
        ("address", &identity.address, ADDRESS_BYTES_MAX),
    ];
    match names.into_iter().find(|(_, name, max)| name.len() > *max) {
        Some((what, name, max)) => Err(IdentityError::NameLength { what, name: name.clone(), max }),
        None => Ok(()),
    }
}

/// The offset of the slot that does not hold the previous generation.
fn slot_offset(generation: u64) -> u64 {
    (generation % 2) * SLOT_STRIDE
}

fn write_slot(file: &dyn DiskFile, slot: &Slot) -> Result<(), IdentityError> {
    file.write_at(slot_offset(slot.generation), &slot.encode()).map_err(io_error("write"))?;
    file.sync().map_err(IdentityError::Fatal)
}

fn read_slot(file: &dyn DiskFile, index: u64) -> Result<Slot, SlotError> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_at(index * SLOT_STRIDE, &mut bytes).map_err(|_| SlotError::Unreadable)?;
    let slot = Slot::parse(&bytes)?;
    // This program never writes a generation into the other slot's place.
    if slot.generation % 2 == index { Ok(slot) } else { Err(SlotError::Checksum) }
}

impl Slot {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let identity = &self.identity;
        let mut has = 0;
        let mut flagged = |flag: u8, present: bool| has |= if present { flag } else { 0 };
        flagged(HAS_NODE, identity.node.is_some());
        flagged(HAS_REGISTERED, identity.registered_nonce.is_some());

        let mut bytes = [0; SLOT_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&SLOT_VERSION.to_le_bytes());
        put(&identity.data_format.to_le_bytes());
        put(&self.generation.to_le_bytes());
        put(&self.inode.to_le_bytes());
        put(&identity.cluster.0.to_le_bytes());
        put(&identity.cookie.0.to_le_bytes());
        put(&identity.registered_nonce.unwrap_or_default().0.to_le_bytes());
        put(&identity.node.unwrap_or_default().0.to_le_bytes());
        put(&identity.lineage.0.to_le_bytes());
        put(&[has, 0, 0, 0, 0, 0]);
        for name in [&identity.host, &identity.rack, &identity.address] {
            put(&[name.len() as u8]);
            put(name.as_bytes());
        }
        let pending = &identity.pending_nonces;
        let pending = &pending[pending.len().saturating_sub(PENDING_NONCES_MAX)..];
        put(&[pending.len() as u8]);
        for nonce in pending {
            put(&nonce.0.to_le_bytes());
        }
        let incarnation = identity.registered_incarnation.0.to_le_bytes();
        bytes[INCARNATION_AT..CRC_AT].copy_from_slice(&incarnation);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8; SLOT_BYTES]) -> Result<Self, SlotError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(SlotError::Empty);
        }
        if bytes[..8] != MAGIC {
            return Err(SlotError::Magic);
        }
        let mut fields = Fields { rest: &bytes[8..INCARNATION_AT] };
        if crc32fast::hash(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return Err(SlotError::Checksum);
        }
        let version = u32::from_le_bytes(fields.take()?);
        if version != SLOT_VERSION {
            return Err(SlotError::Version(version));
        }
        let data_format = u32::from_le_bytes(fields.take()?);
        let generation = u64::from_le_bytes(fields.take()?);
        let inode = u64::from_le_bytes(fields.take()?);
        let cluster = ClusterId(u128::from_le_bytes(fields.take()?));
        let cookie = Cookie(u128::from_le_bytes(fields.take()?));
        let registered = Nonce(u128::from_le_bytes(fields.take()?));
        let node = NodeId(u64::from_le_bytes(fields.take()?));
        let lineage = Lineage(u16::from_le_bytes(fields.take()?));
        let [has, ..] = fields.take::<6>()?;
        let (host, rack, address) = (fields.name()?, fields.name()?, fields.name()?);
        let [pending] = fields.take()?;
        let pending_nonces = (0..pending)
            .map(|_| fields.take().map(|bytes| Nonce(u128::from_le_bytes(bytes))))
            .collect::<Result<_, _>>()?;
        let mut incarnation = Fields { rest: &bytes[INCARNATION_AT..CRC_AT] };
        let identity = Identity {
            cluster,
            lineage,
            node: (has & HAS_NODE != 0).then_some(node),
            cookie,
            registered_nonce: (has & HAS_REGISTERED != 0).then_some(registered),
            registered_incarnation: Incarnation(u64::from_le_bytes(incarnation.take()?)),
            pending_nonces,
            data_format,
            host,
            rack,
            address,
        };
        Ok(Self { generation, inode, identity })
    }
}

/// The unread part of a slot.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SlotError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(SlotError::Names)?;
        self.rest = rest;
        Ok(*field)
    }

    fn name(&mut self) -> Result<String, SlotError> {
        let [len] = self.take()?;
        let (name, rest) = self.rest.split_at_checked(usize::from(len)).ok_or(SlotError::Names)?;
        self.rest = rest;
        String::from_utf8(name.to_vec()).map_err(|_| SlotError::Names)
    }
}
