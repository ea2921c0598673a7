//! What nodes in service are used for: a drain, maintenance, and back.
//!
//! ```text
//!                  drain                       every replica has R others
//!     serving -------------> draining  ....................................> holds nothing: may be removed
//!        |  ^ <------------- serve again
//!        |  |
//!        |  +--- serve again, or the time is over: as any node from then on
//!        +-----> in maintenance: however long it is down, its replicas are waited for
//! ```
//!
//! Nothing is copied here. The rules of slots (`slots.rs`) do not wait for a draining node and put
//! nothing on it, so the steward has R others made, and then releases its replicas one by one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Apply, Catalogue, Entry};
use cairn_types::command::{NewDuty, Refusal, Reply, SetDuty};
use cairn_types::ids::{Incarnation, NodeId};
use cairn_types::model::{Admin, Duty, Node};

impl Apply for SetDuty {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        let Self { node, duty } = *self;
        match duty {
            NewDuty::Drain => catalogue.may_drain(node)?,
            NewDuty::Serve | NewDuty::Maintain { .. } => {
                catalogue.in_service(node)?;
            }
        }
        catalogue.assume_duty(node, duty);
        Ok(Reply::Done)
    }
}

impl Catalogue {
    /// Without any check: for apply, and for plans on a copy.
    pub(crate) fn assume_duty(&mut self, node: NodeId, duty: NewDuty) {
        let clock_ms = self.cluster.clock_ms;
        if let Some(record) = Arc::make_mut(&mut self.nodes).get_mut(&node) {
            record.duty = match duty {
                NewDuty::Serve => Duty::Serving,
                NewDuty::Drain => Duty::Draining,
                NewDuty::Maintain { for_ms } => {
                    Duty::Maintenance { until_ms: clock_ms.saturating_add(for_ms) }
                }
            };
        }
        self.recount_racks();
    }

    fn in_service(&self, node: NodeId) -> Result<&Node, Refusal> {
        let record = self.nodes.get(&node).ok_or(Refusal::UnknownNode(node))?;
        match record.admin {
            Admin::InService => Ok(record),
            Admin::Removed => Err(Refusal::NodeRemoved(node)),
        }
    }

    /// Whether a drain of this node can end: the other nodes that are up have as many hosts as a
    /// checkpoint wants replicas. A drain of one that is draining already is no new one.
    pub fn may_drain(&self, node: NodeId) -> Result<(), Refusal> {
        let record = self.in_service(node)?;
        if record.duty == Duty::Draining {
            return Ok(());
        }
        let staying = |other: &&Node| {
            other.id != node && other.takes_slots() && other.incarnation != Incarnation(0)
        };
        let hosts: BTreeSet<&String> =
            self.nodes.values().filter(staying).map(|other| &other.host).collect();
        if hosts.is_empty() {
            return Err(Refusal::LastNode(node));
        }
        let (hosts, wanted) = (hosts.len() as u32, self.replicas_in_use());
        if hosts < wanted {
            return Err(Refusal::TooFewHosts { node, hosts, wanted });
        }
        Ok(())
    }
}
