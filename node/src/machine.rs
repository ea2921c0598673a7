//! The catalogue as openraft's state machine: apply, snapshot, decode.

use std::sync::Arc;

use cairn_core::catalogue::{Catalogue, stored};
use cairn_types::audit::{AuditHead, Audited};
use cairn_types::command::{Body, Command, Reply};
use cairn_types::convert::{self, ConvertError};
use cairn_types::event::EventId;
use cairn_types::ids::{ClusterId, Lineage};

use crate::feed::Feed;
use crate::raft::{CatalogueMachine, Check, Decode, Encode};

/// The applied catalogue. Only the state machine worker writes it.
pub struct CatalogueState {
    pub catalogue: Catalogue,
    /// Where the events of each entry go, and the number of this catalogue there.
    feed: Arc<Feed>,
    source: u64,
    /// The highest feature level whose commands this node understands.
    feature_level: u32,
}

impl CatalogueState {
    pub fn new(feature_level: u32) -> Self {
        let feed = Arc::<Feed>::default();
        Self { catalogue: Catalogue::default(), source: feed.new_source(), feed, feature_level }
    }

    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Up to which event the catalogue knows all; `applied` is its last entry.
    pub fn known(&self, applied: u64) -> EventId {
        let lineage = self.catalogue.cluster().lineage;
        self.feed.end(self.source, EventId::end_of(lineage, applied))
    }
}

impl CatalogueMachine for CatalogueState {
    fn apply(&mut self, term: u64, index: u64, command: &[u8]) -> Result<Reply, String> {
        let command = decode(command, self.feature_level)?;
        let reply = self.catalogue.apply_of(term, index, &command);
        let cluster = self.catalogue.cluster().feature_level;
        if cluster > self.feature_level {
            return Err(too_old(self.feature_level, cluster));
        }
        let events = self.catalogue.take_events(index);
        let end = EventId::end_of(self.catalogue.cluster().lineage, index);
        self.feed.append(self.source, end, events);
        Ok(reply)
    }

    fn take_audited(&mut self) -> Option<Audited> {
        self.catalogue.take_audited()
    }

    fn audit_head(&self) -> AuditHead {
        self.catalogue.cluster().audit
    }

    fn checker(&self) -> Check {
        let feature_level = self.feature_level;
        Arc::new(move |bytes| {
            let command = decode(bytes, feature_level)?;
            // These two set the cluster's level.
            let level = match &command.body {
                Body::InitCluster(init) => init.node.feature_level,
                Body::RaiseFeatureLevel(raise) => raise.level,
                _ => 0,
            };
            if level > feature_level { Err(too_old(feature_level, level)) } else { Ok(()) }
        })
    }

    fn cluster(&self) -> Option<(ClusterId, Lineage)> {
        let cluster = self.catalogue.cluster();
        self.catalogue.is_initialized().then_some((cluster.id, cluster.lineage))
    }

    fn snapshot(&self) -> Encode {
        let catalogue = self.catalogue.clone();
        Arc::new(move || stored::encode(&catalogue))
    }

    fn decoder(&self) -> Decode<Self> {
        let (feature_level, feed) = (self.feature_level, Arc::clone(&self.feed));
        Arc::new(move |bytes| {
            let catalogue = stored::decode(bytes, feature_level);
            let catalogue = catalogue.map_err(|error| error.to_string())?;
            let (feed, source) = (Arc::clone(&feed), feed.new_source());
            Ok(Self { catalogue, feed, source, feature_level })
        })
    }
}

fn decode(bytes: &[u8], feature_level: u32) -> Result<Command, String> {
    convert::decode_command(bytes, feature_level)
        .map_err(|error| not_understood(&error, feature_level))
}

fn not_understood(error: &ConvertError, level: u32) -> String {
    match error {
        ConvertError::FutureCommand { feature_level } => too_old(level, *feature_level),
        error => error.to_string(),
    }
}

/// Why this node cannot continue with this build, or with this setting.
fn too_old(understood: u32, needed: u32) -> String {
    format!(
        "this node understands feature levels up to {understood} (its build, or --feature-level), \
         and level {needed} is in use: start a newer build, or remove --feature-level"
    )
}

#[cfg(test)]
mod tests {
    use cairn_types::command::{Annotate, Command, FEATURE_LEVEL, InitCluster, RaiseFeatureLevel};
    use cairn_types::ids::{CheckpointId, ClusterId, Cookie, RequestId};
    use cairn_types::model::{NewNode, Settings};

    use super::*;

    fn entry(body: impl Into<cairn_types::command::Body>) -> bytes::Bytes {
        let body = body.into();
        convert::encode_command(&Command::new(RequestId(0), 0, 0, body))
    }

    #[test]
    fn a_node_below_the_clusters_level_stops_before_it_applies_commands_of_it() {
        let node = NewNode {
            cookie: Cookie(1),
            host: "h".to_owned(),
            rack: "r".to_owned(),
            address: "h:7100".to_owned(),
            capacity_bytes: 1,
            feature_level: FEATURE_LEVEL,
            replaces: None,
            key: None,
        };
        let cluster = ClusterId(7);
        let init = entry(InitCluster { cluster, settings: Settings::default(), node });
        // Annotate is of level 2.
        let mut older = CatalogueState::new(1);
        let why = older.apply(1, 1, &init).unwrap_err();
        assert!(why.contains("start a newer build, or remove --feature-level"), "{why}");
        let mut current = CatalogueState::new(FEATURE_LEVEL);
        current.apply(1, 1, &init).unwrap();
        let annotate = Annotate {
            checkpoint: CheckpointId(1),
            labels: Default::default(),
            metrics: Default::default(),
            remove: Vec::new(),
        };
        let annotate = entry(annotate);
        assert!(current.apply(1, 2, &annotate).is_ok(), "refused, as there is no such checkpoint");
        assert!(older.apply(1, 2, &annotate).unwrap_err().contains("level 2 is in use"));
        // The sender of such an entry is told so before the entry is in the log.
        let checks = |level, command: &[u8]| CatalogueState::new(level).checker()(command);
        for command in [&init, &annotate] {
            assert!(checks(1, command).is_err());
            assert_eq!(checks(FEATURE_LEVEL, command), Ok(()));
        }
        let raise = entry(RaiseFeatureLevel { level: FEATURE_LEVEL + 1 });
        assert!(checks(FEATURE_LEVEL, &raise).unwrap_err().contains("start a newer build"));
        assert!(checks(FEATURE_LEVEL, b"garbage\xff").is_err());
    }
}
