//! Feature levels: they keep a cluster of mixed builds consistent during a rolling upgrade.
//!
//! ```text
//!   build          understands commands up to a level, and reports it when it registers
//!   cluster        is at a level; no command above it takes effect
//!   steward        raises the cluster's level once every node in service understands the next one
//! ```
//!
//! A command above the cluster's level is refused before it is proposed, and again at apply. So no
//! node in service finds a command in the log that it does not understand. An older build may be
//! started after the level was raised. It then stops as soon as its catalogue is at that level,
//! before it applies any command of that level.

use super::{Apply, Catalogue, Entry};
use cairn_types::command::{Body, RaiseFeatureLevel, Refusal, Reply};
use cairn_types::ids::Incarnation;
use cairn_types::model::Admin;

impl Apply for RaiseFeatureLevel {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.raise_feature_level(self.level)
    }
}

impl Catalogue {
    /// Refuses a command that the cluster is not ready for. A new cluster has no level until the
    /// command that creates it sets one. A node that joins before that tries again.
    pub fn admit(&self, body: &Body) -> Result<(), Refusal> {
        if !self.is_initialized() && !matches!(body, Body::InitCluster(_)) {
            return Err(Refusal::NotInitialized);
        }
        let (needed, current) = match body {
            Body::InitCluster(_) => return Ok(()),
            Body::RaiseFeatureLevel(raise) => {
                (raise.level, self.common_feature_level().unwrap_or(0))
            }
            _ => (body.feature_level(), self.cluster.feature_level),
        };
        if needed <= current { Ok(()) } else { Err(Refusal::FeatureLevel { needed, current }) }
    }

    /// The highest level that every node in service understands. `None` if there is no such node.
    pub fn common_feature_level(&self) -> Option<u32> {
        let serving = self
            .nodes()
            .filter(|it| it.admin == Admin::InService && it.incarnation != Incarnation(0));
        serving.map(|it| it.feature_level).min()
    }

    pub(super) fn raise_feature_level(&mut self, level: u32) -> Result<Reply, Refusal> {
        // The level never falls, because commands of the level may have been applied.
        self.cluster.feature_level = self.cluster.feature_level.max(level);
        Ok(Reply::Done)
    }

    /// Refuses a build that does not understand all commands that the log may hold by now.
    pub(super) fn check_build(&self, got: u32) -> Result<(), Refusal> {
        let current = self.cluster.feature_level;
        if got < current { Err(Refusal::OldBuild { got, current }) } else { Ok(()) }
    }
}
