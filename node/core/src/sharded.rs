//! A large ordered map that is cheap to clone: shards behind `Arc`, copied one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A key that knows its shard. Keys should spread evenly over at most 65,536 shards.
pub trait ShardKey: Ord + Clone {
    fn shard(&self) -> u16;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharded<K, V> {
    shards: Arc<BTreeMap<u16, Arc<BTreeMap<K, V>>>>,
    len: usize,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self { shards: Arc::default(), len: 0 }
    }
}

impl<K: ShardKey, V: Clone> Sharded<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.shards.get(&key.shard())?.get(key)
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let shard = Arc::make_mut(&mut self.shards).entry(key.shard()).or_default();
        let displaced = Arc::make_mut(shard).insert(key, value);
        self.len += usize::from(displaced.is_none());
        displaced
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let shards = Arc::make_mut(&mut self.shards);
        let shard = Arc::make_mut(shards.get_mut(&key.shard())?);
        let removed = shard.remove(key);
        self.len -= usize::from(removed.is_some());
        if shard.is_empty() {
            shards.remove(&key.shard());
        }
        removed
    }
}
