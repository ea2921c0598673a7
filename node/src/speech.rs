//! What this process says in its node's name, and whether another one may speak in its node's name
//! (decision 0023).
//!
//! A node whose record has a key is spoken for by the holder of that key only. A record without a
//! key is spoken for by any holder of the cluster key, as before feature level 5.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::{Reason, refuse};
use cairn_host::node_key::{self, Call, KeyError, NodeKey, PublicKey};
use cairn_types::canary;
use cairn_types::command::{self, Body};
use cairn_types::ids::{ClusterId, NodeId, Nonce};
use cairn_types::limits::NODES_MAX;
use parking_lot::Mutex;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// A signature that was verified: the sender's key and process, and its bytes.
type Verified = (PublicKey, Nonce, Vec<u8>);

pub struct Speech {
    key: NodeKey,
    cluster: ClusterId,
    node: NodeId,
    nonce: Nonce,
    /// By receiver. At most `NODES_MAX`.
    made: Mutex<BTreeMap<NodeId, Bytes>>,
    /// The last one of each sender. At most `NODES_MAX`.
    verified: Mutex<BTreeMap<NodeId, Verified>>,
}

impl Speech {
    pub fn new(key: NodeKey, cluster: ClusterId, node: NodeId, nonce: Nonce) -> Self {
        Self { key, cluster, node, nonce, made: Mutex::default(), verified: Mutex::default() }
    }

    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// The signature of calls to `to`.
    pub fn proof(&self, to: NodeId) -> Bytes {
        if let Some(made) = self.made.lock().get(&to) {
            return made.clone();
        }
        let call = Call { cluster: self.cluster, from: self.node, to, nonce: self.nonce };
        let proof = Bytes::copy_from_slice(&self.key.sign_call(&call));
        remember(&mut self.made.lock(), to, proof.clone());
        proof
    }

    /// Signs the headers of a call to `to`.
    pub fn sign_call(&self, metadata: &mut MetadataMap, to: NodeId) {
        node_key::write_speaker(metadata, self.nonce, &self.proof(to));
    }

    /// Signs the headers of a report.
    pub fn sign_report(&self, metadata: &mut MetadataMap, command: &[u8]) {
        node_key::write_signature(metadata, &self.key.sign_report(self.cluster, command));
    }

    /// Whether a call to this node by process `nonce` of `from` is signed by that node, whose
    /// recorded key is `key`.
    pub fn check_call(
        &self,
        key: Option<PublicKey>,
        from: NodeId,
        nonce: Nonce,
        proof: &[u8],
    ) -> Result<(), Status> {
        let Some(key) = key else { return Ok(()) };
        if canary!("unpinned_speaks") {
            return Ok(());
        }
        let known = self.verified.lock().get(&from).is_some_and(|(of, process, bytes)| {
            (of, process, bytes.as_slice()) == (&key, &nonce, proof)
        });
        if known {
            return Ok(());
        }
        let call = Call { cluster: self.cluster, from, to: self.node, nonce };
        call.verify(&key, proof).map_err(|error| refused(from, error))?;
        remember(&mut self.verified.lock(), from, (key, nonce, proof.to_vec()));
        Ok(())
    }

    /// As [`Self::check_call`], by the headers of a call of the process that registered last.
    pub fn check_headers(
        &self,
        catalogue: &Catalogue,
        from: NodeId,
        metadata: &MetadataMap,
    ) -> Result<(), Status> {
        let Some(record) = catalogue.node(from) else { return Ok(()) };
        let (nonce, proof) = node_key::read_speaker(metadata).unwrap_or_default();
        if record.key.is_some() && nonce != record.nonce && !canary!("unpinned_speaks") {
            return Err(refused(from, KeyError::Unsigned));
        }
        self.check_call(record.key, from, nonce, &proof)
    }

    /// Whether a report is signed by the node that it is about. A node without a recorded key signs
    /// its first registration with the key that it asks to record.
    pub fn check_report(
        &self,
        recorded: Option<PublicKey>,
        body: &Body,
        command: &[u8],
        metadata: &MetadataMap,
    ) -> Result<(), Status> {
        let Some(node) = node_of(body) else { return Ok(()) };
        let asked = match body {
            Body::Register(command::Register { key, .. }) => *key,
            _ => None,
        };
        let Some(key) = recorded.or(asked) else { return Ok(()) };
        if canary!("unpinned_speaks") {
            return Ok(());
        }
        let signature = node_key::read_signature(metadata);
        node_key::verify_report(&key, self.cluster, command, &signature)
            .map_err(|error| refused(node, error))
    }
}

/// The node that a report is about.
pub fn node_of(body: &Body) -> Option<NodeId> {
    match body {
        Body::Register(command::Register { node, .. })
        | Body::Inventory(command::Inventory { node, .. })
        | Body::Durable(command::Durable { node, .. })
        | Body::Lost(command::Lost { node, .. })
        | Body::Declined(command::Declined { node, .. })
        | Body::Removed(command::Removed { node, .. }) => Some(*node),
        _ => None,
    }
}

fn refused(node: NodeId, error: KeyError) -> Status {
    refuse(Reason::Speaker, format!("this does not come from node {node}: {error}"))
}

/// Ids of removed nodes stay in the map until it is full. Then it is made again as needed.
fn remember<T>(map: &mut BTreeMap<NodeId, T>, node: NodeId, value: T) {
    if map.len() >= NODES_MAX {
        map.clear();
    }
    map.insert(node, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn speech(node: u64, nonce: u128) -> Speech {
        let key = NodeKey::from_seed([node as u8; 32]).unwrap();
        Speech::new(key, CLUSTER, NodeId(node), Nonce(nonce))
    }

    #[test]
    fn a_call_is_taken_from_the_holder_of_the_recorded_key_only() {
        let (one, two, three) = (speech(1, 11), speech(2, 12), speech(3, 13));
        let key = Some(two.public());
        let to_one = two.proof(NodeId(1));
        for _ in 0..2 {
            one.check_call(key, NodeId(2), Nonce(12), &to_one).unwrap();
        }
        let refused = |by: &Speech, from, nonce, proof: &[u8]| {
            let status = by.check_call(key, NodeId(from), Nonce(nonce), proof).unwrap_err();
            assert_eq!(Reason::of(&status), Some(Reason::Speaker), "{status}");
        };
        refused(&one, 2, 12, &[]);
        refused(&one, 2, 99, &to_one);
        refused(&one, 2, 12, &three.proof(NodeId(1)));
        refused(&three, 2, 12, &to_one);
        refused(&one, 3, 12, &to_one);
        // No key is recorded: as before there were keys.
        one.check_call(None, NodeId(2), Nonce(99), &[]).unwrap();
    }

    #[test]
    fn a_report_is_taken_from_the_holder_of_the_recorded_key_only() {
        let (one, two) = (speech(1, 11), speech(2, 12));
        let inventory = command::Inventory {
            node: NodeId(2),
            incarnation: Default::default(),
            missing: Vec::new(),
            last: true,
        };
        let (body, bytes) = (Body::Inventory(inventory), b"its bytes");
        let mut signed = MetadataMap::new();
        two.sign_report(&mut signed, bytes);
        let mut by_other = MetadataMap::new();
        one.sign_report(&mut by_other, bytes);
        let key = Some(two.public());
        one.check_report(key, &body, bytes, &signed).unwrap();
        for (bytes, metadata) in
            [(&b"its bytes"[..], &MetadataMap::new()), (b"its bytes", &by_other), (b"x", &signed)]
        {
            let status = one.check_report(key, &body, bytes, metadata).unwrap_err();
            assert_eq!(Reason::of(&status), Some(Reason::Speaker), "{status}");
        }
        one.check_report(None, &body, bytes, &MetadataMap::new()).unwrap();
    }
}
