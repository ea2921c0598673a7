"""Checkpoints as files, for fsspec: ``cairn://NAMESPACE/STEP/FILE``.

Everything that takes an fsspec address can read a checkpoint: pandas, datasets, torchtitan, Lightning.

>>> import fsspec
>>> with fsspec.open("cairn://team/run7/@latest/model.safetensors") as file: ...

The directory of a step is one of::

    @1000 @latest @best @production     a selector, see `cairn`: always unambiguous
    1000 step-1000 step_1000 checkpoint-1000 iter_1000 global_step1000

``cairn://run@latest/...`` means the same as ``cairn://run/@latest/...``. A namespace whose own components
look like steps has to be written with ``@``: ``cairn://run/2/@1000``. Listings show steps as ``step-1000``.
They do not show ``@latest`` and refs, which name what is listed already.

It is read-only. Write with `cairn.Client.put`, `cairn.Client.writer` or `cairn.torch`.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any

from fsspec.spec import AbstractFileSystem

from ._places import Place, place_of
from ._waiting import result_of
from .client import Client
from .errors import NotFoundError
from .files import RANGES_PARALLEL, Checkpoint
from .records import CheckpointInfo

#: Checkpoints whose lists of files are remembered.
_OPENED_MAX = 16


class CairnFileSystem(AbstractFileSystem):
    """fsspec's file system for ``cairn://``. The storage options are the arguments of `cairn.Client`."""

    protocol = "cairn"
    root_marker = ""

    def __init__(
        self,
        endpoints: str | Iterable[str] | None = None,
        *,
        key: str | None = None,
        authority: str | None = None,
        token: str | None = None,
        token_file: str | None = None,
        cluster: str | None = None,
        rack: str | None = None,
        insecure: bool | None = None,
        timeout: float | None = 60.0,
        quarantined: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        #: The `cairn.Client` beneath.
        self.client = Client(
            endpoints,
            key=key,
            authority=authority,
            token=token,
            token_file=token_file,
            cluster=cluster,
            rack=rack,
            insecure=insecure,
            timeout=timeout,
        )
        self._quarantined = quarantined
        self._opened: OrderedDict[int, Checkpoint] = OrderedDict()

    @property
    def fsid(self) -> str:
        return f"cairn-{self.client.status().cluster}"

    def checkpoint(self, path: str) -> Checkpoint:
        """The checkpoint that a path names now, or lies in."""
        place = place_of(self._strip_protocol(path))
        if place.selector is None:
            raise NotFoundError(f"{path} names no checkpoint")
        return self._checkpoint(place)

    def _checkpoint(self, place: Place) -> Checkpoint:
        # One question tells whether it was deleted or replaced, and what `latest` names by now.
        info = self.client.show(place.address)
        found = self._opened.get(info.id)
        if found is None:
            found = self.client.checkpoint(info.address, quarantined=self._quarantined)
            self._opened[found.info.id] = found
            while len(self._opened) > _OPENED_MAX:
                self._opened.popitem(last=False)
        return found

    # What is there

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list:
        path = self._strip_protocol(path)
        place = place_of(path)
        entries = self._namespaces(place) if place.selector is None else self._files(path, place)
        return entries if detail else [entry["name"] for entry in entries]

    def _namespaces(self, place: Place) -> list[dict]:
        """Namespaces below one, and its steps."""
        found: dict[str, dict] = {}
        prefix = f"{place.namespace}/" if place.namespace else ""
        for info in self.client.ls(place.namespace or None):
            if info.namespace == place.namespace:
                name = f"{prefix}step-{info.step}"
                found[name] = _directory(name, info)
            else:
                name = prefix + info.namespace.removeprefix(prefix).split("/")[0]
                found.setdefault(name, _directory(name))
        if not found and place.namespace:
            raise NotFoundError(f"there is no checkpoint in {place.namespace} or below it")
        return list(found.values())

    def _files(self, path: str, place: Place) -> list[dict]:
        checkpoint = self._checkpoint(place)
        if place.file in checkpoint.files:
            return [self._file(path, checkpoint, place.file)]
        below = f"{place.file}/" if place.file else ""
        root = path.rstrip("/")
        found: dict[str, dict] = {}
        for name in checkpoint.files:
            if not name.startswith(below):
                continue
            first, is_deeper, _ = name.removeprefix(below).partition("/")
            if is_deeper:
                found.setdefault(first, _directory(f"{root}/{first}", checkpoint.info))
            else:
                found[first] = self._file(f"{root}/{first}", checkpoint, name)
        if not found and place.file:
            raise NotFoundError(f"{checkpoint.info.address} has no {place.file}")
        return list(found.values())

    def _file(self, path: str, checkpoint: Checkpoint, name: str) -> dict:
        digest = hashlib.sha256(checkpoint.digest(name).encode()).hexdigest()
        size = checkpoint.files[name]
        return _described(path, "file", size, checkpoint.info) | {"digest": digest}

    def info(self, path: str, **kwargs: Any) -> dict:
        """Of a file: `name`, `size`, `type`, `step`, `namespace`, `id`, `digest` (of its content),
        `committed_ms`, and its durability: `replicas_min` of `replicas_wanted`, `racks_min`.
        """
        path = self._strip_protocol(path)
        place = place_of(path)
        if place.selector is None:
            if place.namespace:
                found = self.client.ls(place.namespace, limit=1)
                if not found:
                    raise NotFoundError(f"there is no checkpoint in {path} or below it")
            return _directory(path)
        checkpoint = self._checkpoint(place)
        if place.file in checkpoint.files:
            return self._file(path, checkpoint, place.file)
        below = f"{place.file}/"
        if place.file and not any(name.startswith(below) for name in checkpoint.files):
            raise NotFoundError(f"{checkpoint.info.address} has no {place.file}")
        return _directory(path, checkpoint.info)

    def created(self, path: str) -> Any:
        return self.modified(path)

    def modified(self, path: str) -> Any:
        """The time of the commit."""
        import datetime

        at_ms = self.info(path).get("committed_ms")
        if at_ms is None:
            raise NotFoundError(f"{path} names no checkpoint")
        return datetime.datetime.fromtimestamp(at_ms / 1000, tz=datetime.timezone.utc)

    def ukey(self, path: str) -> str:
        info = self.info(path)
        return info.get("digest") or f"{info['name']}:{info.get('id')}"

    def checksum(self, path: str) -> int:
        return int(hashlib.sha256(self.ukey(path).encode()).hexdigest()[:15], 16)

    # Reading

    def _named(self, path: str) -> tuple[Checkpoint, str]:
        path = self._strip_protocol(path)
        place = place_of(path)
        if place.selector is None:
            raise NotFoundError(f"{path} names no file of a checkpoint")
        checkpoint = self._checkpoint(place)
        if place.file in checkpoint.files:
            return checkpoint, place.file
        if self.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise NotFoundError(f"{checkpoint.info.address} has no {place.file}")

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "rb":
            raise _read_only(path)
        checkpoint, name = self._named(path)
        file = checkpoint.open(name)
        file.size = checkpoint.files[name]  # type: ignore[attr-defined]
        return file

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        checkpoint, name = self._named(path)
        return checkpoint.read(name, start or 0, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list:
        """Reads 16 ranges at the same time. `max_gap` has no use: a block is fetched once or twice at
        the most, and no connection is made for a range.
        """
        if max_gap is not None:
            raise NotImplementedError("max_gap")
        if not isinstance(paths, list):
            raise TypeError("paths is not a list")
        starts = starts if isinstance(starts, Iterable) else [starts] * len(paths)
        ends = ends if isinstance(ends, Iterable) else [ends] * len(paths)
        starts, ends = list(starts), list(ends)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends have different lengths")
        return list(self._ranges(paths, starts, ends, on_error))

    def _ranges(self, paths: list, starts: list, ends: list, on_error: str) -> Iterator[Any]:
        named: dict[str, tuple[Checkpoint, str]] = {}
        running: deque[Any] = deque()

        def result(one: Any) -> Any:
            try:
                if isinstance(one, Exception):
                    raise one
                return result_of(one)
            except Exception as error:
                if on_error == "return":
                    return error
                raise

        for path, start, end in zip(paths, starts, ends):
            try:
                if path not in named:
                    named[path] = self._named(path)
                checkpoint, name = named[path]
                running.append(checkpoint._read(name, start or 0, end))
            except Exception as error:
                running.append(error)
            if len(running) >= RANGES_PARALLEL:
                yield result(running.popleft())
        while running:
            yield result(running.popleft())

    # Writing

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        raise _read_only(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise _read_only(path)

    def rmdir(self, path: str) -> None:
        raise _read_only(path)

    def _rm(self, path: str) -> None:
        raise _read_only(path)

    def rm_file(self, path: str) -> None:
        raise _read_only(path)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        raise _read_only(path2)


def _described(path: str, kind: str, size: int, info: CheckpointInfo) -> dict:
    return {
        "name": path,
        "type": kind,
        "size": size,
        "namespace": info.namespace,
        "step": info.step,
        "id": info.id,
        "committed_ms": info.committed_ms,
        "replicas_min": info.replicas_min,
        "replicas_wanted": info.replicas_wanted,
        "racks_min": info.racks_min,
    }


def _directory(path: str, info: CheckpointInfo | None = None) -> dict:
    if info is None:
        return {"name": path, "type": "directory", "size": 0}
    return _described(path, "directory", 0, info)


def _read_only(path: str) -> OSError:
    text = "cairn:// is read-only; write with cairn.Client.put or cairn.torch.Writer"
    return OSError(errno.EROFS, text, path)
