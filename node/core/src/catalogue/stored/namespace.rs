//! A namespace's record.

use std::io;

use cairn_types::convert::{
    ConvertError, confirmed_from_wire, confirmed_to_wire, own_policy_from_wire, own_policy_to_wire,
    policy_from_wire,
};
use cairn_types::ids::Namespace;
use cairn_types::model::{NamespaceRecord, OwnPolicy, Policy, PolicyChange};
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
        policy: None,
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
        own: Some(own_policy_to_wire(&record.own)),
        confirmed: record.confirmed.as_ref().map(confirmed_to_wire),
    }
}

fn from_wire(
    record: wire::SnapshotNamespace,
) -> Result<(Namespace, NamespaceRecord), ConvertError> {
    let own = match (record.own, record.policy) {
        (Some(own), _) => own_policy_from_wire(own)?,
        (None, Some(policy)) => said_by_older(&policy_from_wire(&policy)?)?,
        (None, None) => return Err(ConvertError::Missing { field: "policy" }),
    };
    let namespace = NamespaceRecord {
        own,
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
        confirmed: record.confirmed.map(confirmed_from_wire),
    };
    Ok((record.name.parse()?, namespace))
}

/// A build without inheritance stored all rules of a namespace. Those that are not the default ones
/// were said.
fn said_by_older(policy: &Policy) -> Result<OwnPolicy, ConvertError> {
    if !policy_is_sound(policy) {
        return Err(ConvertError::Value { field: "policy", got: policy.replicas.into() });
    }
    let default = Policy::default();
    let said = |value: u32, default: u32| (value != default).then_some(value);
    let rules = PolicyChange {
        replicas: said(policy.replicas, default.replicas),
        write_quorum: said(policy.write_quorum, default.write_quorum),
        min_racks: said(policy.min_racks, default.min_racks),
        isolation: (policy.isolation != default.isolation).then_some(policy.isolation),
        keep_last: policy.keep_last,
    };
    Ok(OwnPolicy { rules, ..OwnPolicy::default() })
}
