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

use cairn_host::envelope::said;
use cairn_proto::wire::HelloRequest;
use tokio::sync::mpsc;

use crate::hello;
use crate::service::admin::hello_refusal;
use crate::shared::Shared;

/// A linearizable view of its own is waited for so long.
const READ_DEADLINE: Duration = Duration::from_secs(1);
/// After others did not confirm it, the same is not asked again for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// Where it is brought. Cheap to clone. While one is looked into, others are dropped: they come
/// again.
#[derive(Clone)]
pub struct Accusations(mpsc::Sender<String>);

impl Accusations {
    pub fn new() -> (Self, mpsc::Receiver<String>) {
        let (bring, brought) = mpsc::channel(1);
        (Self(bring), brought)
    }

    /// `reason`: why, as somebody says it.
    pub fn bring(&self, reason: String) {
        let _ = self.0.try_send(reason);
    }
}

/// Looks into what is brought, until the node ends. `papers`: how this process says hello.
pub async fn run(shared: Arc<Shared>, mut brought: mpsc::Receiver<String>, papers: HelloRequest) {
    while let Some(reason) = brought.recv().await {
        if is_confirmed(&shared, &papers).await {
            (shared.stop_for_good)(reason);
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

async fn is_confirmed(shared: &Arc<Shared>, papers: &HelloRequest) -> bool {
    let fresh = shared.member.read_index(READ_DEADLINE).await.is_ok();
    if hello_refusal(&shared.member, papers, fresh).is_some() {
        return true;
    }
    let leader = shared.member.consensus.leader().map(|(_, address)| address);
    let own = &shared.this.config.address;
    hello::refuse(&shared.this.env, &shared.peers, own, shared.this.cluster, papers, leader).await
}
