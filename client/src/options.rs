//! How a client behaves: deadlines, tries, and how much it does and holds at the same time.

use std::time::Duration;

use cairn_types::ids::ClusterId;
use cairn_types::limits::SEGMENT_BYTES_MAX;

/// More memory than this for one upload hides no latency: 64 GiB.
const BUDGET_KIB_MAX: u32 = 64 << 20;
/// More streams than this for one upload hide no latency either.
const UPLOADS_PARALLEL_MAX: usize = 4096;

/// How a client behaves. `ClientOptions::new` gives the defaults; [`crate::Client::builder`] sets them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Any nodes of one cluster, `host:port`; the others are learned.
    pub endpoints: Vec<String>,
    /// One try's time for an answer, beside what the call itself asks the node to wait.
    pub call_deadline: Duration,
    /// All tries together; `None` tries for ever.
    pub deadline: Option<Duration>,
    /// A segment stream without progress for this long is given up.
    pub stall_deadline: Duration,
    /// The client's own rack: replicas there are read first.
    pub rack: Option<String>,
    /// The cluster to talk to, where it is known beforehand; otherwise the first one that answers.
    pub cluster: Option<ClusterId>,
    pub retry: Retry,
    /// Whether a second node is asked, and a second replica is read, where the first one takes
    /// longer than usual. Costs a few calls more and saves the wait for a node that is frozen.
    pub hedge: bool,
    /// Segments of one upload that are sent at the same time: hides the latency of many small
    /// ones. 1 at least, 4,096 at most.
    pub uploads_parallel: usize,
    /// Bytes of one upload between reading and the W-th acknowledgement: 32 MiB, the largest
    /// segment, at least; 64 GiB at most. Beside them, half as many may be on the way to slower
    /// nodes, 32 MiB at least.
    pub upload_memory_bytes: u64,
}

/// Pauses between the tries of one call, and how many tries may fail. A pause is drawn evenly from
/// half to one and a half times its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first pause after every known address has failed once. Each later one is twice as long.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// Failed tries after which a call ends, even before its deadline; `None` sets no limit.
    /// Zero is as one. To be sent on to the leader is no failure, and neither is the answer of a
    /// leader that is still at a commit.
    pub tries_max: Option<u32>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(1),
            tries_max: None,
        }
    }
}

impl ClientOptions {
    /// The defaults: 5 s for an answer, 60 s for a call, 128 MiB and 32 streams for an upload.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            call_deadline: Duration::from_secs(5),
            deadline: Some(Duration::from_secs(60)),
            stall_deadline: Duration::from_secs(10),
            rack: None,
            cluster: None,
            retry: Retry::default(),
            hedge: true,
            uploads_parallel: 32,
            // Four of the largest segments.
            upload_memory_bytes: 128 << 20,
        }
    }

    /// The budget of an upload up to the W-th acknowledgement, KiB.
    pub(crate) fn foreground_kib(&self) -> u32 {
        let bytes = self.upload_memory_bytes.max(SEGMENT_BYTES_MAX);
        u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(BUDGET_KIB_MAX)
    }

    /// The budget of bytes on the way to slower targets after that, KiB, all segments together. A
    /// target further behind is left to the cluster's own catch-up.
    pub(crate) fn lag_kib(&self) -> u32 {
        (self.foreground_kib() / 2).max((SEGMENT_BYTES_MAX >> 10) as u32)
    }

    pub(crate) fn sends_parallel(&self) -> usize {
        self.uploads_parallel.clamp(1, UPLOADS_PARALLEL_MAX)
    }
}
