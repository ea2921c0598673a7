//! The ways in which this process ends.
//!
//! | how | by |
//! |---|---|
//!  at once, and it may come back | [`Ending::fatal`]: an error that prevents it from continuing |
//! | for good: removed, replaced by another process, on an old directory | [`Ending::for_good`] |
//!  in order | [`Ending::begin_goodbye`]: it was told to stop, and sends no more heartbeats |
//!
//! A peer's statement that this process must end is an accusation. It is checked first
//! (`upkeep::accused`).

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::fatal::FatalHook;

pub struct Ending {
    hook: FatalHook,
    accusations: mpsc::Sender<String>,
    is_for_good: AtomicBool,
    says_goodbye: AtomicBool,
}

impl Ending {
    /// `hook` is called with the reason when the node must stop. The receiver gets the accusations.
    pub fn new(hook: FatalHook) -> (Self, mpsc::Receiver<String>) {
        let (accusations, brought) = mpsc::channel(1);
        let (is_for_good, says_goodbye) = Default::default();
        (Self { hook, accusations, is_for_good, says_goodbye }, brought)
    }

    pub fn fatal(&self, reason: String) {
        (self.hook)(reason);
    }

    pub fn for_good(&self, reason: String) {
        self.is_for_good.store(true, Ordering::SeqCst);
        (self.hook)(reason);
    }

    /// Whether this process stops because its directory must not come back under its id.
    pub fn is_for_good(&self) -> bool {
        self.is_for_good.load(Ordering::SeqCst)
    }

    /// A peer says that this process must stop, and why. While one accusation is being checked,
    /// others are dropped, because peers repeat them.
    pub fn accuse(&self, reason: String) {
        let _ = self.accusations.try_send(reason);
    }

    pub fn begin_goodbye(&self) {
        self.says_goodbye.store(true, Ordering::SeqCst);
    }

    pub fn says_goodbye(&self) -> bool {
        self.says_goodbye.load(Ordering::SeqCst)
    }
}
