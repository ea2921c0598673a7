//! Calls to other nodes.

use std::sync::Arc;

use cairn_host::envelope::Identity;
use cairn_host::seam::Transport;
use cairn_types::ids::NodeId;
use tonic::Request;

use super::{Member, ThisNode};
use crate::peers::Peers;
use crate::speech::Speech;

pub struct Calls {
    pub this: Arc<ThisNode>,
    /// Knows the nodes' addresses and the leader.
    pub member: Arc<Member>,
    pub peers: Arc<Peers>,
    /// Signs this node's calls, and checks those of others.
    pub speech: Arc<Speech>,
}

impl Calls {
    /// A transport to `address`, cached.
    pub fn transport(&self, address: &str) -> Transport {
        self.peers.transport(&self.this.env, address)
    }

    /// A request that names this cluster and, if known, the target node, and is signed for it.
    pub fn request<T>(&self, node: Option<NodeId>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let (cluster, lineage) = (Some(self.this.cluster), Some(self.this.lineage));
        Identity { cluster, lineage, node }.write(request.metadata_mut());
        if let Some(node) = node {
            self.speech.sign_call(request.metadata_mut(), node);
        }
        request
    }
}
