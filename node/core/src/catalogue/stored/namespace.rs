//! A namespace's record.

use std::io;

use cairn_types::convert::{ConvertError, policy_from_wire, policy_to_wire, required};
use cairn_types::ids::Namespace;
use cairn_types::model::NamespaceRecord;
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError, policy_is_sound};
use crate::catalogue::Catalogue;

pub(super) struct Namespaces;

impl Stored for Namespaces {
    type Message = wire::SnapshotNamespace;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        let mut records = catalogue.namespaces();
        records.try_for_each(|(name, record)| put(to_wire(name, record)))
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        let (name, record) = from_wire(message)?;
        loader.namespace(name, record)?;
        Ok(())
    }
}

impl Loader {
    pub fn namespace(&mut self, name: Namespace, record: NamespaceRecord) -> Result<(), LoadError> {
        let known = self.catalogue.namespaces.contains_key(&name);
        if known || !policy_is_sound(&record.policy) {
            return Err(LoadError::Namespace(name));
        }
        self.catalogue.namespaces.insert(name, record);
        Ok(())
    }
}

fn to_wire(name: &Namespace, record: &NamespaceRecord) -> wire::SnapshotNamespace {
    wire::SnapshotNamespace {
        name: name.to_string(),
        policy: Some(policy_to_wire(&record.policy)),
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
    }
}

fn from_wire(
    record: wire::SnapshotNamespace,
) -> Result<(Namespace, NamespaceRecord), ConvertError> {
    let namespace = NamespaceRecord {
        policy: policy_from_wire(&required("policy", record.policy)?)?,
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
    };
    Ok((record.name.parse()?, namespace))
}
