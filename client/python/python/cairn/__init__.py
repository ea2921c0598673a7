"""Save and load AI training checkpoints in a Cairn cluster.

>>> import cairn
>>> client = cairn.Client("node1:7400,node2:7400", key="cluster.key")
>>> client.put("out/step-1000", "team/run7@1000")
>>> client.get("team/run7@latest", "restored")

`cairn.aio.Client` has the same methods for `asyncio`. Adapters are modules of their own, which are
imported only on demand: `cairn.fs` (fsspec, for `cairn://` addresses), `cairn.torch` (PyTorch's
distributed checkpoints) and `cairn.safetensors` (parts of tensors).

A checkpoint is addressed as ``NAMESPACE@SELECTOR``. The selector is a step (``run@1000``), ``latest``,
``latest~1``, ``best``, ``best:loss:min``, a ref (``run@production``), or ``time:MILLISECONDS``.

Sizes are bytes, durations are seconds, and times (``_ms``) are milliseconds since 1970, in UTC. All
errors of the cluster are subclasses of `cairn.CairnError`.
"""

from . import aio, errors
from ._cairn import __version__
from .client import Client
from .errors import (
    BusyError,
    CairnError,
    CancelledError,
    ConflictError,
    DamagedError,
    DeadlineError,
    DeniedError,
    FencedError,
    InvalidError,
    LocalError,
    NotFoundError,
    ProtocolError,
    QuarantinedError,
    StepExistsError,
    UnavailableError,
)
from .files import Checkpoint
from .records import (
    CheckpointInfo,
    GetReport,
    Node,
    Progress,
    PutReport,
    Ref,
    Status,
    Told,
)

__all__ = [
    "BusyError",
    "CairnError",
    "CancelledError",
    "Checkpoint",
    "CheckpointInfo",
    "Client",
    "ConflictError",
    "DamagedError",
    "DeadlineError",
    "DeniedError",
    "FencedError",
    "GetReport",
    "InvalidError",
    "LocalError",
    "Node",
    "NotFoundError",
    "Progress",
    "ProtocolError",
    "PutReport",
    "QuarantinedError",
    "Ref",
    "Status",
    "StepExistsError",
    "Told",
    "UnavailableError",
    "__version__",
    "aio",
    "errors",
]
