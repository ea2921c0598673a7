"""The same client for `asyncio`.

>>> client = cairn.aio.Client("node1:7400")
>>> await client.put("out/step-1000", "team/run7@1000")

The arguments and errors of each method are those of `cairn.Client`. The event loop is never blocked. A
call ends when its task is cancelled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from . import records
from ._requests import Request, Requests
from ._waiting import ProgressTold, result_in_loop
from .errors import NotFoundError
from .files import RANGES_PARALLEL
from .files import Checkpoint as _Checkpoint


class Checkpoint:
    """Like `cairn.Checkpoint`. From `Client.checkpoint`."""

    def __init__(self, checkpoint: _Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.info = checkpoint.info
        self.files = checkpoint.files

    async def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """See `cairn.Checkpoint.read`."""
        return await result_in_loop(self._checkpoint._read(name, start, end))

    async def read_ranges(
        self, ranges: Iterable[tuple[str, int, int | None]]
    ) -> list[bytes]:
        """See `cairn.Checkpoint.read_ranges`."""
        places = asyncio.Semaphore(RANGES_PARALLEL)

        async def read(name: str, start: int, end: int | None) -> bytes:
            async with places:
                return await self.read(name, start, end)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(*one)) for one in ranges]
        return [task.result() for task in tasks]


class FileWriter:
    """Like `cairn.files.FileWriter`, for ``async with``."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.report: records.PutReport | None = None

    async def write(self, data: Any) -> int:
        """Takes all of `data`."""
        return await result_in_loop(Request(self._writer.write(data), int))

    async def finish(self) -> records.PutReport:
        """Sends the rest and commits, or seals the part."""
        self.report = await result_in_loop(Request(self._writer.finish(), records.put_report))
        return self.report

    async def discard(self) -> None:
        """Gives the file up."""
        await result_in_loop(Request(self._writer.discard(), lambda it: it))

    async def __aenter__(self) -> FileWriter:
        return self

    async def __aexit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            await self.discard()
        elif self.report is None:
            await self.finish()


class Client(Requests):
    """A client of one cluster; see `cairn.Client`, which takes the same arguments."""

    async def put(
        self,
        source: str | os.PathLike | Iterable[str | os.PathLike] | Mapping[str, Any],
        address: str,
        *,
        step: int | None = None,
        part: int = 0,
        parts: int = 1,
        attempt: int | None = None,
        job: str | None = None,
        replace: bool = False,
        labels: Mapping[str, str] | None = None,
        wait: str = "quorum",
        wait_seconds: float = 600.0,
        prefix: str | None = None,
        links: str = "refuse",
        allow_empty: bool = False,
        dry_run: bool = False,
        replicas: int | None = None,
        write_quorum: int | None = None,
        progress: ProgressTold | None = None,
    ) -> records.PutReport:
        """See `cairn.Client.put`. `progress` is called in the event loop."""
        options = dict(
            part=part,
            parts=parts,
            attempt=attempt,
            job=job,
            replace=replace,
            labels=labels,
            wait=wait,
            wait_seconds=wait_seconds,
            prefix=prefix,
            links=links,
            allow_empty=allow_empty,
            dry_run=dry_run,
            replicas=replicas,
            write_quorum=write_quorum,
        )
        return await result_in_loop(self._put(source, address, step, options), progress)

    async def writer(
        self, address: str, name: str, *, step: int | None = None, **options: Any
    ) -> FileWriter:
        """See `cairn.Client.writer`."""
        return FileWriter(await result_in_loop(self._writer(address, name, step, options)))

    async def get(
        self,
        address: str,
        directory: str | os.PathLike,
        *,
        names: Iterable[str] | None = None,
        overwrite: bool = False,
        quarantined: bool = False,
        verify_only: bool = False,
        progress: ProgressTold | None = None,
    ) -> records.GetReport:
        """See `cairn.Client.get`."""
        request = self._get(address, directory, names, overwrite, quarantined, verify_only)
        return await result_in_loop(request, progress)

    async def checkpoint(self, address: str, *, quarantined: bool = False) -> Checkpoint:
        """See `cairn.Client.checkpoint`."""
        opened = await result_in_loop(self._opened(address, quarantined))
        return Checkpoint(_Checkpoint(self, address, quarantined, opened))

    async def ls(
        self,
        prefix: str | None = None,
        *,
        open: bool = False,
        deleted: bool = False,
        limit: int | None = None,
    ) -> list[records.CheckpointInfo]:
        """See `cairn.Client.ls`."""
        return await result_in_loop(self._ls(prefix, open, deleted, limit))

    async def show(self, address: str) -> records.CheckpointInfo:
        """See `cairn.Client.show`."""
        return await result_in_loop(self._show(address))

    async def latest(self, namespace: str) -> records.CheckpointInfo | None:
        """See `cairn.Client.latest`."""
        try:
            return await self.show(f"{namespace}@latest")
        except NotFoundError:
            return None

    async def refs(self, namespace: str) -> dict[str, records.Ref]:
        """See `cairn.Client.refs`."""
        return await result_in_loop(self._refs(namespace))

    async def set_ref(
        self, name: str, address: str, *, expect: int | None = None
    ) -> records.CheckpointInfo:
        """See `cairn.Client.set_ref`."""
        return await result_in_loop(self._set_ref(name, address, expect))

    async def remove_ref(self, namespace: str, name: str, *, expect: int | None = None) -> None:
        """See `cairn.Client.remove_ref`."""
        await result_in_loop(self._remove_ref(namespace, name, expect))

    async def annotate(
        self,
        address: str,
        *,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        remove: Iterable[str] = (),
    ) -> records.CheckpointInfo:
        """See `cairn.Client.annotate`."""
        return await result_in_loop(self._annotate(address, labels, metrics, remove))

    async def wait(
        self, address: str, *, full: bool = False, timeout: float | None = None
    ) -> records.CheckpointInfo:
        """See `cairn.Client.wait`."""
        return await result_in_loop(self._wait(address, full), timeout=timeout)

    async def watch(
        self, prefix: str | None = None, *, cursor: str | None = None
    ) -> AsyncIterator[records.Told]:
        """See `cairn.Client.watch`."""
        watch = self._core.watch(prefix, cursor)
        while True:
            told = await result_in_loop(Request(watch.next(), lambda it: it))
            if told is None:
                return
            yield records.Told(**told)

    async def rm(
        self, address: str, *, now: bool = False, force: bool = False
    ) -> records.CheckpointInfo:
        """See `cairn.Client.rm`."""
        return await result_in_loop(self._rm(address, now, force))

    async def abort(
        self, namespace: str, step: int, *, now: bool = False
    ) -> records.CheckpointInfo:
        """See `cairn.Client.abort`."""
        return await result_in_loop(self._abort(namespace, step, now))

    async def undelete(self, namespace: str, step: int) -> records.CheckpointInfo:
        """See `cairn.Client.undelete`."""
        return await result_in_loop(self._undelete(namespace, step))

    async def status(self) -> records.Status:
        """See `cairn.Client.status`."""
        return await result_in_loop(self._status())
