"""Plain records. Names mean the same as in the command line's ``--json``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint or an open upload, as the catalogue has it."""

    namespace: str
    step: int
    #: Of this commit: a step that is deleted and written again has another one.
    id: int
    attempt: int
    #: "open", "committed" or "deleted".
    state: str
    parts: int
    #: Of an open upload.
    parts_missing: int
    began_ms: int
    #: What the uploading program called itself, and its job.
    client: str
    job: str
    #: None while it is open.
    committed_ms: int | None
    files: int
    bytes: int
    #: Stored for it, each segment counted once.
    segments: int
    segment_bytes: int
    #: Of `segment_bytes`: what no other checkpoint had at the commit; None where that is not known.
    new_bytes: int | None
    labels: dict[str, str]
    metrics: dict[str, float]
    replicas_wanted: int
    #: Of its segment with the fewest.
    replicas_min: int
    racks_min: int
    #: Segments with fewer replicas than wanted, and without any.
    segments_below: int
    segments_unavailable: int
    #: The reason, or None.
    quarantine: str | None
    #: Names of refs that point to it, and owners of holds on it.
    refs: list[str]
    holds: list[str]
    #: None unless it is deleted: "asked", "retention", "replaced", "expired" or "rolled-back".
    deleted: str | None

    @property
    def address(self) -> str:
        """``NAMESPACE@STEP``."""
        return f"{self.namespace}@{self.step}"

    @property
    def is_full(self) -> bool:
        """Whether every segment has all the replicas that its policy wants."""
        return self.segments_below == 0 and self.replicas_min >= self.replicas_wanted


@dataclass(frozen=True, slots=True)
class PutReport:
    """The end of an upload, or of one part of it."""

    #: Of the checkpoint and its upload; None of a dry run.
    id: int | None
    attempt: int | None
    #: "committed", "already_committed", "sealed" (other parts are missing) or "dry_run".
    outcome: str
    parts_sealed: int | None
    parts: int | None
    replicas_min: int | None
    replicas_wanted: int | None
    racks_min: int | None
    #: With ``wait="full"``: whether all replicas were durable in time.
    full: bool | None
    files: int
    bytes: int
    segments: int
    segment_bytes: int
    segments_sent: int
    bytes_sent: int
    #: Were there already, so that they were not sent.
    segments_kept: int
    bytes_kept: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GetReport:
    """The end of a download."""

    checkpoint: CheckpointInfo
    files: int
    bytes: int
    #: Were in the directory already, and were verified.
    files_kept: int
    bytes_kept: int
    bytes_fetched: int
    segments_fetched: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a put or a get is."""

    files_total: int
    bytes_total: int
    #: Put: bytes that were read and hashed. Get: files that are complete.
    hashed_or_files_done: int
    #: Were there already: in the cluster (put) or in the directory (get).
    bytes_kept: int
    #: Put: sent and durable on enough nodes. Get: read and verified.
    bytes_done: int


@dataclass(frozen=True, slots=True)
class Ref:
    """A named pointer to a checkpoint."""

    name: str
    #: Rises by one with each move. Pass it as `expect` to move the ref only if nobody else did.
    generation: int
    #: None where it was removed.
    id: int | None
    step: int | None
    moved_ms: int | None
    by: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a watcher is told."""

    #: "begins", then "checkpoint" and "ref" for what is there, "seam", and then "event", or
    #: "cursor": nothing else happened up to here.
    told: str
    #: Where a later watch goes on behind this; None before the seam.
    cursor: str | None
    #: "committed", "deleted", "undeleted", "quarantined", "released", "full" or "ref-moved".
    event: str | None
    namespace: str | None
    step: int | None
    id: int | None
    at_ms: int | None
    #: Of a ref.
    name: str | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    id: int
    address: str
    host: str
    rack: str
    up: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The cluster, as it describes itself."""

    cluster: str | None
    #: Id of the leader, or None during an election.
    leader: int | None
    nodes: list[Node]
    checkpoints_committed: int
    checkpoints_open: int
    segments_below: int
    segments_unavailable: int
    #: How many nodes may be lost, whichever they are, without losing data.
    nodes_can_be_lost: int
    feature_level: int


def checkpoint_info(record: dict) -> CheckpointInfo:
    return CheckpointInfo(**record)


def put_report(record: dict) -> PutReport:
    return PutReport(**record)


def get_report(record: dict) -> GetReport:
    return GetReport(**{**record, "checkpoint": CheckpointInfo(**record["checkpoint"])})


def status(record: dict) -> Status:
    return Status(**{**record, "nodes": [Node(**node) for node in record["nodes"]]})
