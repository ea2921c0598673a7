//! Permits for work that costs memory or disk, of which no single peer can have all.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cairn_host::envelope::{Reason, refuse};
use parking_lot::Mutex;
use tonic::Status;

use crate::listener::PeerInfo;

/// Of a lane's permits, the part one peer can have.
const PEER_SHARE: (usize, usize) = (3, 4);

/// Whom permits are counted by: an address, or, on this machine, a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Address(IpAddr),
    Connection(SocketAddr),
}

impl Peer {
    /// Who sent a request. In the simulator nobody knows, and nobody is limited.
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        let address = PeerInfo::of(extensions)?.address;
        Some(match address.ip().is_loopback() {
            true => Self::Connection(address),
            false => Self::Address(address.ip()),
        })
    }
}

/// Permits of one kind of work. One more than there are is refused as `Busy`, not queued: the
/// caller backs off and the queue stays bounded. Cheap to clone; all clones are the same lane.
#[derive(Debug, Clone)]
pub struct Lane {
    what: &'static str,
    max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_peer: BTreeMap<Peer, usize>,
}

impl Lane {
    fn new(what: &'static str, max: usize) -> Self {
        Self { what, max, taken: Arc::default() }
    }

    pub fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// A permit for `peer`, or the refusal to send it.
    pub fn take(&self, peer: Option<Peer>) -> Result<Permit, Status> {
        let mut taken = self.taken.lock();
        let busy = |text: String| Err(refuse(Reason::Busy, text));
        if taken.all >= self.max {
            return busy(format!("{} at once: limit {}", self.what, self.max));
        }
        if let Some(peer) = peer {
            let share = (self.max * PEER_SHARE.0 / PEER_SHARE.1).max(1);
            let held = taken.by_peer.entry(peer).or_default();
            if *held >= share {
                return busy(format!("{} of one peer at once: limit {share}", self.what));
            }
            *held += 1;
        }
        taken.all += 1;
        Ok(Permit { taken: Arc::clone(&self.taken), peer })
    }
}

/// The lanes of a node, for its metrics. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Lanes(Arc<Mutex<Vec<Lane>>>);

impl Lanes {
    /// A lane more.
    pub fn open(&self, what: &'static str, max: usize) -> Lane {
        let lane = Lane::new(what, max);
        self.0.lock().push(lane.clone());
        lane
    }

    /// Of each lane: what it is for, and how many of its permits are taken now.
    pub fn taken(&self) -> Vec<(&'static str, usize)> {
        self.0.lock().iter().map(|lane| (lane.what, lane.taken())).collect()
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub struct Permit {
    taken: Arc<Mutex<Taken>>,
    peer: Option<Peer>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        let Some(peer) = self.peer else { return };
        if let Some(held) = taken.by_peer.get_mut(&peer) {
            *held -= 1;
            if *held == 0 {
                taken.by_peer.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_have_all_permits() {
        let lane = Lane::new("readers", 8);
        let one = Some(Peer::Address(IpAddr::from([10, 0, 0, 1])));
        let held: Vec<_> = (0..6).map(|_| lane.take(one).unwrap()).collect();
        let refused = lane.take(one).unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::Busy));
        let other = Some(Peer::Address(IpAddr::from([10, 0, 0, 2])));
        let rest = [lane.take(other).unwrap(), lane.take(None).unwrap()];
        assert!(lane.take(other).is_err());
        drop((held, rest));
        assert_eq!(lane.taken(), 0);
        assert!(lane.taken.lock().by_peer.is_empty());
    }

    #[test]
    fn all_lanes_of_a_node_say_what_is_taken() {
        let lanes = Lanes::default();
        let (readers, uploads) = (lanes.open("readers", 2), lanes.open("uploads", 2));
        let held = (readers.take(None).unwrap(), readers.clone().take(None).unwrap());
        let one = uploads.take(None).unwrap();
        assert_eq!(lanes.taken(), [("readers", 2), ("uploads", 1)]);
        drop((held, one));
        assert_eq!(lanes.taken(), [("readers", 0), ("uploads", 0)]);
    }
}
