//! A ref's record.

use std::io;
use std::sync::Arc;

use cairn_types::convert::{ConvertError, ref_from_wire, ref_to_wire, required};
use cairn_types::ids::Namespace;
use cairn_types::limits::REFS_MAX;
use cairn_types::marks::NamedRef;
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError};
use crate::catalogue::Catalogue;

pub(super) struct AllRefs;

impl Stored for AllRefs {
    type Message = wire::SnapshotRef;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        for (namespace, refs) in catalogue.refs.iter() {
            for (name, target) in refs.iter() {
                let target = Some(ref_to_wire(name, target));
                put(wire::SnapshotRef { namespace: namespace.to_string(), r#ref: target })?;
            }
        }
        Ok(())
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        let namespace = message.namespace.parse().map_err(ConvertError::from)?;
        let named = ref_from_wire(required("ref", message.r#ref)?)?;
        loader.named_ref(namespace, named)?;
        Ok(())
    }
}

impl Loader {
    pub fn named_ref(&mut self, namespace: Namespace, named: NamedRef) -> Result<(), LoadError> {
        let NamedRef { name, target } = named;
        let refs = Arc::make_mut(self.catalogue.refs.or_default(namespace.clone()));
        let moves = target.history.iter().map(|moved| moved.generation);
        let rises = moves.clone().zip(moves.skip(1)).all(|(one, next)| one < next);
        if !rises || refs.len() >= REFS_MAX || refs.insert(name.clone(), target).is_some() {
            return Err(LoadError::Ref { namespace, name });
        }
        Ok(())
    }
}
