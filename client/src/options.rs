//! The settings of a client: deadlines, attempts, and limits on parallel work and memory.

use std::time::Duration;

use cairn_types::ids::ClusterId;
use cairn_types::limits::SEGMENT_BYTES_MAX;

/// More memory than this for one upload does not hide more latency: 64 GiB.
const BUDGET_KIB_MAX: u32 = 64 << 20;
/// More streams than this for one upload do not hide more latency.
const UPLOADS_PARALLEL_MAX: usize = 4096;

/// The settings of a client. `ClientOptions::new` gives the defaults. [`crate::Client::builder`]
/// sets them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Any nodes of one cluster, `host:port`. The client learns the others.
    pub endpoints: Vec<String>,
    /// Time limit for the answer of one attempt, in addition to the time that the call itself makes
    /// the node wait.
    pub call_deadline: Duration,
    /// Time limit for all attempts together. `None` means no limit.
    pub deadline: Option<Duration>,
    /// A segment stream without progress for this long is stopped.
    pub stall_deadline: Duration,
    /// The client's own rack. Replicas in it are read first.
    pub rack: Option<String>,
    /// The cluster to use, if it is known. Otherwise the first one that answers.
    pub cluster: Option<ClusterId>,
    pub retry: Retry,
    /// Whether a second node is asked, or a second replica is read, if the first takes longer than
    /// usual. It costs a few more calls and saves the wait for a frozen node.
    pub hedge: bool,
    /// Segments of one upload that are sent at the same time. This hides the latency of many small
    /// segments. At least 1, at most 4,096.
    pub uploads_parallel: usize,
    /// Limit on the bytes of one upload between reading and the W-th acknowledgement. At least 32
    /// MiB, the largest segment; at most 64 GiB. In addition, half as many bytes, and at least 32
    /// MiB, may be on the way to slower nodes.
    pub upload_memory_bytes: u64,
}

/// Pauses between the attempts of one call, and how many attempts may fail. A pause is drawn
/// uniformly from half to one and a half times its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first pause after every known address has failed once. Each later one is twice as long.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// The number of failed attempts after which a call ends, even before its deadline. `None` sets
    /// no limit. Zero has the effect of one. A redirect to the leader is no failure, and neither is
    /// the answer of a leader that still works on a commit.
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

    /// The memory budget of an upload up to the W-th acknowledgement, KiB.
    pub(crate) fn foreground_kib(&self) -> u32 {
        let bytes = self.upload_memory_bytes.max(SEGMENT_BYTES_MAX);
        u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(BUDGET_KIB_MAX)
    }

    /// The budget of bytes on the way to slower targets after that, KiB, for all segments together.
    /// Targets further behind are left to the cluster's own catch-up.
    pub(crate) fn lag_kib(&self) -> u32 {
        (self.foreground_kib() / 2).max((SEGMENT_BYTES_MAX >> 10) as u32)
    }

    pub(crate) fn sends_parallel(&self) -> usize {
        self.uploads_parallel.clamp(1, UPLOADS_PARALLEL_MAX)
    }
}
