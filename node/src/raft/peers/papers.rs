//! Whether the data directory of a member may have a vote.
//!
//! A directory that was set back to an earlier state has lost votes that it gave. A running cluster
//! refuses it when it starts and when it registers. In a cluster that starts cold no member can be
//! asked at that time. So each vote request and each answer to one names the registrations that the
//! directory knows. A receiver that knows a later registration refuses the request, or does not
//! count the vote (decision 0018).

use std::sync::Arc;

use cairn_proto::wire::HelloRequest;
use cairn_types::canary;

use crate::raft::peers::promises::Behind;

/// The reason why the directory described in the request must not have a vote, as far as this node
/// knows. The flag says whether the node may still vote although it was removed.
pub type DirectoryRefusal = Arc<dyn Fn(&HelloRequest, bool) -> Option<String> + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Papers {
    /// The description of this process's own directory.
    own: HelloRequest,
    refusal: DirectoryRefusal,
}

impl Papers {
    pub fn new(own: HelloRequest, refusal: DirectoryRefusal) -> Self {
        Self { own, refusal }
    }

    /// Sends an empty description and refuses no node.
    pub fn none() -> Self {
        Self::new(HelloRequest::default(), Arc::new(|_, _| None))
    }

    pub(in crate::raft) fn own(&self) -> HelloRequest {
        self.own.clone()
    }

    /// Returns an error if `node`, which sends `papers`, must not have a vote. A build that sends
    /// no papers is accepted.
    pub(in crate::raft) fn check(
        &self,
        node: u64,
        papers: Option<HelloRequest>,
        votes: bool,
    ) -> Result<(), Behind> {
        let Some(papers) = papers.filter(|papers| papers.node == node) else { return Ok(()) };
        match (self.refusal)(&papers, votes) {
            Some(_) if canary!("old_directory_votes") => Ok(()),
            Some(why) => Err(Behind::Directory(why)),
            None => Ok(()),
        }
    }
}
