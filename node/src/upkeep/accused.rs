//! A peer says that this process must stop: its node was removed, or another process has registered
//! as this node.
//!
//! ```text
//! raft, heartbeat, report, register: a refusal --accuse--> own catalogue? the others? (`hello`)
//!                                                 confirmed:     the node ends for good
//!                                                 not confirmed: it continues and logs a warning
//! ```
//!
//! The end is final, so one peer's word is not enough. That peer may run on an old directory, have
//! damaged memory, or be no member at all.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::said;
use cairn_proto::wire::HelloRequest;
use tokio::sync::mpsc;

use crate::hello;
use crate::shared::{Calls, Ending};
use crate::standing::hello_refusal;

/// Time limit for this node's own linearizable read.
const READ_DEADLINE: Duration = Duration::from_secs(1);
/// Pause after an accusation that the others did not confirm.
const PAUSE: Duration = Duration::from_secs(5);

/// Checks accusations until the node ends. `papers` is this process's hello.
pub async fn run(
    calls: Arc<Calls>,
    ending: Arc<Ending>,
    mut brought: mpsc::Receiver<String>,
    papers: HelloRequest,
) {
    while let Some(reason) = brought.recv().await {
        if is_confirmed(&calls, &papers).await {
            ending.for_good(reason);
            return;
        }
        let reason = said(&reason);
        tracing::warn!(
            reason,
            "told by one that this process must not go on; others do not say so"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

async fn is_confirmed(calls: &Calls, papers: &HelloRequest) -> bool {
    let fresh = calls.member.read_index(READ_DEADLINE).await.is_ok();
    let votes = calls.member.consensus.may_vote(papers.node);
    let refused = |catalogue: &Catalogue| hello_refusal(catalogue, papers, fresh, votes).is_some();
    if calls.member.read(refused) {
        return true;
    }
    let leader = calls.member.consensus.leader().map(|(_, address)| address);
    let own = &calls.this.config.address;
    hello::refuse(&calls.this.env, &calls.peers, own, calls.this.cluster, papers, leader).await
}
