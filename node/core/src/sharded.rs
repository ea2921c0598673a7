//! A large map that is cheap to copy. It is a trie over the first bits of the key, with small
//! sorted lists at its leaves. All nodes are behind `Arc` and copied one at a time.
//!
//! ```text
//!   Sharded -> branch (of 16) -> branch -> branch -> branch -> sorted list of entries
//!                 Arc              Arc       Arc       Arc        Arc
//! ```
//!
//! For keys that spread evenly and need no order. Compared with [`crate::persistent::Map`] it takes
//! a third of the memory, and one search instead of twenty steps. Branches are narrow because
//! copying a branch increments the counter of each of its pointers, and every counter is in a
//! different place of memory.

use std::sync::Arc;

/// A key that knows its shard. Keys should spread evenly over at most 65,536 shards.
pub trait ShardKey: Ord + Clone {
    fn shard(&self) -> u16;
}

/// Levels of branches: four bits of the shard's number each.
const LEVELS: u32 = 4;
const WIDTH: usize = 16;
/// Entries by which a full list grows. Doubled lists would be half empty.
const ROOM: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node<K, V> {
    /// At least one of these is a node, and no node is empty.
    Branch([Option<Arc<Node<K, V>>>; WIDTH]),
    List(Vec<(K, V)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharded<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

/// The branch index towards a shard at a level. Level 0 is the root.
fn turn(shard: u16, level: u32) -> usize {
    usize::from(shard >> (4 * (LEVELS - 1 - level))) % WIDTH
}

impl<K: ShardKey, V: Clone> Node<K, V> {
    fn empty(level: u32) -> Arc<Self> {
        Arc::new(match level {
            LEVELS => Self::List(Vec::new()),
            _ => Self::Branch([const { None }; WIDTH]),
        })
    }

    fn insert(&mut self, level: u32, key: K, value: V) -> Option<V> {
        match self {
            Self::Branch(nodes) => {
                let node = &mut nodes[turn(key.shard(), level)];
                let node = node.get_or_insert_with(|| Self::empty(level + 1));
                Arc::make_mut(node).insert(level + 1, key, value)
            }
            Self::List(entries) => match entries.binary_search_by(|(known, _)| known.cmp(&key)) {
                Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
                Err(at) => {
                    if entries.len() == entries.capacity() {
                        entries.reserve_exact(ROOM.min(entries.len() + 1));
                    }
                    entries.insert(at, (key, value));
                    None
                }
            },
        }
    }

    /// Removes an existing key. Returns its value, and whether the node is now empty.
    fn remove(&mut self, level: u32, key: &K) -> Option<(V, bool)> {
        match self {
            Self::Branch(nodes) => {
                let node = &mut nodes[turn(key.shard(), level)];
                let (removed, is_empty) = Arc::make_mut(node.as_mut()?).remove(level + 1, key)?;
                if is_empty {
                    *node = None;
                }
                Some((removed, nodes.iter().all(Option::is_none)))
            }
            Self::List(entries) => {
                let at = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                let (_, removed) = entries.remove(at);
                Some((removed, entries.is_empty()))
            }
        }
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
        let mut node = self.root.as_ref()?;
        let mut level = 0;
        loop {
            match &**node {
                Node::Branch(nodes) => node = nodes[turn(key.shard(), level)].as_ref()?,
                Node::List(entries) => {
                    let at = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                    return Some(&entries[at].1);
                }
            }
            level += 1;
        }
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let root = self.root.get_or_insert_with(|| Node::empty(0));
        let displaced = Arc::make_mut(root).insert(0, key, value);
        self.len += usize::from(displaced.is_none());
        displaced
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        // Checked first, so that the path to a missing key is not copied.
        self.get(key)?;
        let (removed, is_empty) = Arc::make_mut(self.root.as_mut()?).remove(0, key)?;
        self.len -= 1;
        if is_empty {
            self.root = None;
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Key(u32);

    impl ShardKey for Key {
        fn shard(&self) -> u16 {
            (self.0 % 1000 * 61) as u16
        }
    }

    #[test]
    fn entries_are_found_replaced_and_removed_and_copies_never_change() {
        let mut map = Sharded::default();
        for number in 0..5_000 {
            assert_eq!(map.insert(Key(number * 7), number), None);
        }
        let copy = map.clone();
        assert_eq!(map.insert(Key(7), 9), Some(1));
        assert_eq!((map.get(&Key(7)), copy.get(&Key(7))), (Some(&9), Some(&1)));
        assert_eq!((map.get(&Key(8)), map.len()), (None, 5_000));
        for number in 0..5_000 {
            assert!(map.remove(&Key(number * 7)).is_some());
            assert!(map.remove(&Key(number * 7)).is_none());
        }
        assert_eq!(map, Sharded::default(), "what is empty is dropped");
        assert_eq!(copy.len(), 5_000);
        assert!((0..5_000).all(|number| copy.get(&Key(number * 7)) == Some(&number)));
    }
}
