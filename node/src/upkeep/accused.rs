//! Somebody says that this process must not go on: that its node was removed, or that another
//! process has registered as it.
//!
//! ```text
//! raft, heartbeat, report, register: a refusal --bring--> own catalogue? the others? (`hello`)
//!                                                 confirmed: the node ends for good
//!                                                 not:       it goes on, and says so
//! ```
//!
//! What it ends is ended for good, so one peer's word is not enough: that peer may be on an old
//! directory itself, have a bad memory, or be no member at all.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::said;
use cairn_proto::wire::HelloRequest;
use tokio::sync::mpsc;

use crate::hello;
use crate::shared::{Calls, Ending};
use crate::standing::hello_refusal;

/// A linearizable view of its own is waited for so long.
const READ_DEADLINE: Duration = Duration::from_secs(1);
/// After others did not confirm it, the same is not asked again for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// Looks into what is brought, until the node ends. `papers`: how this process says hello.
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
