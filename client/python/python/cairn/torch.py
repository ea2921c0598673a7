"""PyTorch's distributed checkpoints (DCP), saved to and loaded from a cluster.

>>> import torch.distributed.checkpoint as dcp
>>> dcp.save(state, storage_writer=cairn.torch.Writer("team/run7", 1000))
>>> dcp.load(state, storage_reader=cairn.torch.Reader("team/run7@latest"))

Works with `dcp.async_save`, by thread and by process, and loads with another number of ranks. A save is
one commit: it is there with the data of all ranks or not at all. If a rank fails or dies, nothing is
committed, and the same step can be saved again.

::

    coordinator   plan: attempt -----------> to every rank, in its part of the plan
    rank R        part R: __R_0.distcp       sealed when its bytes are durable
    coordinator   part N: .metadata          the last seal is the commit

Files have DCP's own names and form: after ``cairn get`` they load with `dcp.FileSystemReader`.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import pickle
import time
import uuid
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    DEFAULT_SUFFIX,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from . import _launcher
from ._places import address_of
from ._requests import split_step
from .client import Client
from .errors import CairnError, InvalidError
from .files import Checkpoint
from .records import PutReport

__all__ = ["Reader", "Writer"]

_METADATA = ".metadata"
#: What small writes are gathered to.
_BUFFER_BYTES = 1 << 20
#: Attempts of a process that names none: a job that is started again begins later, so it is higher.
_STARTED_MS = time.time_ns() // 1_000_000
_saves = itertools.count()


@dataclasses.dataclass(frozen=True)
class _Part:
    """What the coordinator tells a rank, within the plan."""

    save_id: str
    namespace: str
    step: int
    part: int
    parts: int
    attempt: int
    job: str
    replace: bool
    prefix: str


class Writer(StorageWriter):
    """Saves a distributed checkpoint as one step of a namespace.

    It holds only its arguments before it saves: it may be pickled and sent to another process.

    Args:
        address: ``NAMESPACE@STEP``, ``cairn://NAMESPACE/step-N``, or a namespace with `step`. It may be
            left out where `dcp.save` gets a ``checkpoint_id``, which is read in the same way.
        step: The step.
        client: The `cairn.Client`; by default one from the environment.
        attempt: Higher with each restart of the job, the same on all ranks. The default is
            ``CAIRN_ATTEMPT``, else the time at which the coordinator's process began, so that a rank of
            an earlier start of the job is refused (`cairn.FencedError`).
        replace: Takes the place of a committed checkpoint of this step. Without it, saving the step
            again is an error (`cairn.StepExistsError`), unless the content is the same.
        labels: Texts to find the checkpoint by.
        wait: "quorum" returns at the commit, "full" waits until all replicas are durable.

    `report` is the `cairn.PutReport` of the commit, on the coordinator after a save. With
    ``use_collectives=False`` ranks share nothing: all must be given the same `attempt`, or it must be
    that of the launcher (``TORCHELASTIC_RESTART_COUNT``).
    """

    def __init__(
        self,
        address: str | None = None,
        step: int | None = None,
        *,
        client: Client | None = None,
        attempt: int | None = None,
        replace: bool = False,
        labels: Mapping[str, str] | None = None,
        wait: str = "quorum",
    ) -> None:
        super().__init__()
        self._client = client or Client()
        self._attempt = attempt
        self._replace = replace
        self._labels = dict(labels or {})
        self._wait = wait
        self._target: tuple[str, int] | None = None
        self._save_id = ""
        self._used: set[str] = set()
        self.report: PutReport | None = None
        if address is not None:
            self._target = _target(address, step)
        elif step is not None:
            raise InvalidError("step is given without a namespace")
        self.reset()

    # What `StorageWriter` asks for

    def reset(self, checkpoint_id: Any = None) -> None:
        if checkpoint_id:
            self._target = _target(str(checkpoint_id), None)
        self._save_id = uuid.uuid4().hex
        self.report = None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._is_coordinator = is_coordinator
        self._rank = kwargs.get("rank")
        self._is_collective = kwargs.get("use_collectives", True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        if self._target is None:
            raise InvalidError("no step to save to", "pass an address, or a checkpoint_id")
        namespace, step = self._target
        if self._is_collective:
            attempt = self._attempt or _launcher.given_attempt() or _STARTED_MS + next(_saves)
            ranks, parts = range(len(plans)), len(plans) + 1
        else:
            attempt = self._attempt or _launcher.attempt()
            if attempt is None:
                raise InvalidError(
                    "without collectives, ranks need an attempt that is the same on all of them",
                    "pass attempt=, or start them with a launcher that counts restarts",
                )
            # Each rank has its own metadata: two parts of each.
            ranks, parts = [self._rank or 0], 2 * _world()
        self._common = _Part(
            self._save_id,
            namespace,
            step,
            part=0,
            parts=parts,
            attempt=attempt,
            job=_launcher.job(),
            replace=self._replace,
            prefix="",
        )
        return [
            dataclasses.replace(
                plan,
                storage_data=dataclasses.replace(self._common, part=rank, prefix=f"__{rank}_"),
            )
            for rank, plan in zip(ranks, plans, strict=True)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        future: Future[list[WriteResult]] = Future()
        try:
            future.set_result(self._write(plan, planner))
        except Exception as error:
            # DCP waits for it and tells all ranks.
            future.set_exception(error)
        return future

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        part = plan.storage_data
        if not isinstance(part, _Part):
            raise InvalidError("the plan is not one that cairn.torch.Writer prepared")
        if part.save_id in self._used:
            raise InvalidError(
                "the planner returned the plan of an earlier save",
                "use a planner without plan caching (enable_plan_caching=False)",
            )
        self._used.add(part.save_id)
        name = f"{part.prefix}0{DEFAULT_SUFFIX}"
        results = []
        with self._file(part, name, "quorum") as raw:
            stream = _Stream(raw)
            for item in plan.items:
                results.append(_write_item(stream, name, item, planner.resolve_data(item)))
            stream.flush()
        return results

    def _file(self, part: _Part, name: str, wait: str) -> Any:
        return self._client.writer(
            part.namespace,
            name,
            step=part.step,
            part=part.part,
            parts=part.parts,
            attempt=part.attempt,
            job=part.job,
            replace=part.replace,
            labels=self._labels,
            wait=wait,
        )

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {one.index: one.storage_data for rank in results for one in rank}
        metadata.storage_meta = self.storage_meta()
        if self._is_collective:
            name, number = _METADATA, self._common.parts - 1
        else:
            rank = self._rank or 0
            name, number = f"__{rank}{_METADATA}", self._common.parts // 2 + rank
        part = dataclasses.replace(self._common, part=number)
        with self._file(part, name, self._wait) as file:
            file.write(pickle.dumps(metadata))
        self.report = file.report

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self._save_id)

    @property
    def checkpoint_id(self) -> str:
        if self._target is None:
            return ""
        namespace, step = self._target
        return f"cairn://{namespace}/step-{step}"

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        try:
            _target(str(checkpoint_id), None)
        except InvalidError:
            return False
        return True


class Reader(StorageReader):
    """Loads a distributed checkpoint, with any number of ranks.

    Each rank reads the ranges that it needs, several at the same time, and every byte is verified.

    Args:
        address: ``NAMESPACE@SELECTOR``, such as ``run@latest``, or ``cairn://NAMESPACE/step-N``. It may be
            left out where `dcp.load` gets a ``checkpoint_id``.
        client: The `cairn.Client`; by default one from the environment.
        quarantined: Allows a checkpoint in quarantine.

    All ranks should load the same: resolve ``latest`` once, on one rank, where a save may commit
    meanwhile. ``.metadata`` is a pickle: load checkpoints only of those whom you trust.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        client: Client | None = None,
        quarantined: bool = False,
    ) -> None:
        super().__init__()
        self._client = client or Client()
        self._quarantined = quarantined
        self._address = None if address is None else address_of(address)
        self._checkpoint: Checkpoint | None = None
        self._load_id = ""
        self._storage_data: dict = {}

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that is read, opened once a load."""
        if self._checkpoint is None:
            if self._address is None:
                raise InvalidError("no checkpoint to load", "pass an address, or a checkpoint_id")
            opened = self._client.checkpoint(self._address, quarantined=self._quarantined)
            self._checkpoint = opened
        return self._checkpoint

    # What `StorageReader` asks for

    def reset(self, checkpoint_id: Any = None) -> None:
        if checkpoint_id:
            self._address = address_of(str(checkpoint_id))
        self._checkpoint = None
        self._storage_data = {}
        self._load_id = uuid.uuid4().hex

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        rank = kwargs.get("rank")
        name = _METADATA if rank is None else f"__{rank}{_METADATA}"
        metadata = pickle.loads(self.checkpoint.read(name))
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self._load_id
        return metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        self._storage_data = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        placed = [(self._storage_data[item.storage_index], item) for item in plan.items]
        placed.sort(key=lambda one: (one[0].relative_path, one[0].offset))
        ranges = [
            (info.relative_path, info.offset, info.offset + info.length) for info, _ in placed
        ]
        for (info, item), data in zip(placed, self.checkpoint.iter_ranges(ranges)):
            if getattr(info, "transform_descriptors", None):
                raise InvalidError(f"{item.storage_index.fqn} was saved with a transform")
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(data))
                continue
            saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            for axis, (start, length) in enumerate(zip(item.storage_offsets, item.lengths)):
                if saved.dim() > axis and saved.size(axis) != length:
                    saved = saved.narrow(axis, start, length)
            target = planner.resolve_tensor(item).detach()
            if target.size() != saved.size():
                text = f"{item.storage_index.fqn} is {tuple(saved.size())} in the checkpoint"
                raise CairnError(f"{text}, not {tuple(target.size())}")
            target.copy_(saved)
            planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @property
    def checkpoint_id(self) -> str:
        return self._address or ""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        try:
            address_of(str(checkpoint_id))
        except InvalidError:
            return False
        return True


class _Stream:
    """Gathers small writes; a large one goes on as it is, without a copy. `torch.save` writes a tensor
    at once, from its own memory.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._small = bytearray()
        self._written = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(self._small) + len(view) > _BUFFER_BYTES:
            self.flush()
        if len(view) > _BUFFER_BYTES:
            self._raw.write(view)
        else:
            self._small += view
        self._written += len(view)
        return len(view)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        if self._small:
            small, self._small = self._small, bytearray()
            self._raw.write(small)


def _write_item(stream: _Stream, name: str, item: WriteItem, data: Any) -> WriteResult:
    start = stream.tell()
    if item.type == WriteItemType.BYTE_IO:
        stream.write(data.getbuffer())
    else:
        tensor = data.detach().cpu()
        # `torch.save` writes the whole storage, of which a view needs a piece.
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensor = tensor.clone()
        torch.save(tensor, stream)
    length = stream.tell() - start
    info = _StorageInfo(name, start, length)
    return WriteResult(index=item.index, size_in_bytes=length, storage_data=info)


def _target(address: str, step: int | None) -> tuple[str, int]:
    if step is None:
        return split_step(address_of(address), None)
    return split_step(address.removeprefix("cairn://").strip("/"), step)


def _world() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_initialized() else 1
