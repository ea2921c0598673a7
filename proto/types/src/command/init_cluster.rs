//! `InitCluster`: the first entry of a cluster; mints node 1.

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{NODE_KEYS_LEVEL, OnWire};
use crate::convert::{
    ConvertError, id128_from_wire, id128_to_wire, new_node_from_wire, new_node_to_wire, required,
    settings_from_wire, settings_to_wire,
};
use crate::ids::ClusterId;
use crate::model::{NewNode, Settings};
use crate::wire;

/// The first entry of a cluster; mints node 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitCluster {
    pub cluster: ClusterId,
    pub settings: Settings,
    pub node: NewNode,
}

impl OnWire for InitCluster {
    type Message = wire::InitCluster;

    fn to_wire(&self) -> Self::Message {
        let Self { cluster, settings, node } = self;
        wire::InitCluster {
            cluster: id128_to_wire(cluster.0),
            settings: Some(settings_to_wire(settings)),
            node: Some(new_node_to_wire(node)),
        }
    }

    fn feature_level(&self, in_table: u32) -> u32 {
        if self.node.key.is_some() { in_table.max(NODE_KEYS_LEVEL) } else { in_table }
    }

    fn from_wire(init: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            cluster: ClusterId(id128_from_wire("cluster id", &init.cluster)?),
            settings: settings_from_wire(&required("settings", init.settings)?),
            node: new_node_from_wire(required("node", init.node)?)?,
        })
    }
}

#[cfg(test)]
impl Drawn for InitCluster {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            cluster: ClusterId(draw.u128()),
            settings: Settings {
                lease_ms: draw.u64(),
                grace_ms: draw.u64(),
                down_after_ms: draw.u64(),
                replace_after_ms: draw.u64(),
            },
            node: draw.new_node(),
        }
    }
}
