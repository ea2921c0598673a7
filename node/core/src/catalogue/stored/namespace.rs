//! A namespace's record.

use std::io;

use cairn_types::convert::{
    ConvertError, confirmed_from_wire, confirmed_to_wire, own_policy_from_wire, own_policy_to_wire,
};
use cairn_types::ids::Namespace;
use cairn_types::model::NamespaceRecord;
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError};
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
        let is_sound = record.own.retention.problem().is_none()
            && record.confirmed.is_none_or(|confirmed| confirmed.left > 0);
        if known || !is_sound {
            return Err(LoadError::Namespace(name));
        }
        self.catalogue.namespaces.insert(name, record);
        Ok(())
    }
}

fn to_wire(name: &Namespace, record: &NamespaceRecord) -> wire::SnapshotNamespace {
    wire::SnapshotNamespace {
        name: name.to_string(),
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
        own: Some(own_policy_to_wire(&record.own)),
        confirmed: record.confirmed.as_ref().map(confirmed_to_wire),
        changes: record.changes,
        keep_last_alone: record.keep_last_alone,
    }
}

fn from_wire(
    record: wire::SnapshotNamespace,
) -> Result<(Namespace, NamespaceRecord), ConvertError> {
    let own = record.own.ok_or(ConvertError::Missing { field: "policy" })?;
    let namespace = NamespaceRecord {
        own: own_policy_from_wire(own)?,
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
        confirmed: record.confirmed.map(confirmed_from_wire),
        changes: record.changes,
        keep_last_alone: record.keep_last_alone,
    };
    Ok((record.name.parse()?, namespace))
}
