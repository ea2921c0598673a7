//! Whether the data directory of a member may have a vote.
//!
//! A directory that is set back to an earlier state has forgotten votes that it gave. A running
//! cluster refuses it when it starts and when it registers. In a cluster that starts cold nobody
//! can be asked by then: so each request for a vote, and each answer to one, says which
//! registrations the directory knows, and a receiver that knows of a later one refuses the
//! request, or does not count the vote (decision 0018).

use std::sync::Arc;

use cairn_proto::wire::HelloRequest;
use cairn_types::canary;

use crate::raft::peers::promises::Behind;

/// Why a directory that says this must not have a vote, as far as this node knows; and whether the
/// node may still vote though it was removed.
pub type DirectoryRefusal = Arc<dyn Fn(&HelloRequest, bool) -> Option<String> + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Papers {
    /// What this process says of its own directory.
    own: HelloRequest,
    refusal: DirectoryRefusal,
}

impl Papers {
    pub fn new(own: HelloRequest, refusal: DirectoryRefusal) -> Self {
        Self { own, refusal }
    }

    /// Says nothing and refuses nobody.
    pub fn none() -> Self {
        Self::new(HelloRequest::default(), Arc::new(|_, _| None))
    }

    pub(in crate::raft) fn own(&self) -> HelloRequest {
        self.own.clone()
    }

    /// An error if `node`, which says `papers`, must not have a vote. A build that says nothing is
    /// taken at its word.
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
