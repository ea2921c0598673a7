"""Reading files of one checkpoint."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from . import _cairn, records
from ._requests import Request, Requests
from ._waiting import result_of
from .errors import NotFoundError

#: Ranges that are read at the same time.
RANGES_PARALLEL = 16
#: Bytes of ranges that are held at the same time; a longer range is read alone.
RANGES_BYTES_MAX = 512 << 20
#: What a file object reads at once.
BUFFER_BYTES = 1 << 20


class Checkpoint:
    """A checkpoint that was resolved once: whatever ``latest`` names meanwhile, all reads are of this
    one. From `cairn.Client.checkpoint`.

    It may be used by several threads, pickled, and used after a fork; it opens itself again there.
    Every byte is verified before it is returned.
    """

    def __init__(self, client: Requests, address: str, quarantined: bool, opened: Any) -> None:
        info = records.CheckpointInfo(**opened.info())
        self._client = client
        #: The `CheckpointInfo` as of the opening.
        self.info = info
        #: The length of each file in bytes, by name, in order.
        self.files: dict[str, int] = dict(opened.files())
        self._quarantined = quarantined
        self._opened = (os.getpid(), opened)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"<cairn.Checkpoint {self.info.address}, {len(self.files)} files>"

    @property
    def _core(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            opened = result_of(self._client._opened(self.info.address, self._quarantined))
            if opened.info()["id"] != self.info.id:
                raise NotFoundError(f"{self.info.address} was replaced by another checkpoint")
            self._opened = (os.getpid(), opened)
        return self._opened[1]

    def _range(self, name: str, start: int, end: int | None) -> tuple[int, int]:
        """As Python's slices: negative numbers count from the end, and nothing is out of range."""
        length = self.files.get(name)
        if length is None:
            raise NotFoundError(f"{self.info.address} has no {name}")
        start, end, _ = slice(start, end).indices(length)
        return start, max(start, end)

    def _read(self, name: str, start: int, end: int | None) -> Request:
        start, end = self._range(name, start, end)
        return Request(self._core.read(name, start, end), lambda it: it)

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of a file, as a slice of it: all of it by default.

        Fetches only the blocks of 1 MiB that the range touches.
        """
        return result_of(self._read(name, start, end))

    def read_ranges(self, ranges: Iterable[tuple[str, int, int | None]]) -> list[bytes]:
        """Several ranges ``(name, start, end)``, 16 of them at the same time."""
        return list(self.iter_ranges(ranges))

    def iter_ranges(self, ranges: Iterable[tuple[str, int, int | None]]) -> Iterator[bytes]:
        """Like `read_ranges`, one after the other, so that not all are in memory at once."""
        running: deque[tuple[int, Request]] = deque()
        held = 0
        for name, start, end in ranges:
            start, end = self._range(name, start, end)
            while running and (
                len(running) >= RANGES_PARALLEL or held + end - start > RANGES_BYTES_MAX
            ):
                size, request = running.popleft()
                held -= size
                yield result_of(request)
            running.append((end - start, self._read(name, start, end)))
            held += end - start
        while running:
            yield result_of(running.popleft()[1])

    def read_into(self, name: str, start: int, buffer: Any) -> int:
        """Fills a writable buffer (``bytearray``, array, ``memoryview``) from `start` on, as far as
        the file goes. Returns the number of bytes.
        """
        view = memoryview(buffer).cast("B")
        start, end = self._range(name, start, start + len(view))
        return result_of(Request(self._core.read_into(name, start, view[: end - start]), int))

    def open(self, name: str, mode: str = "rb") -> BinaryIO:
        """A file object for reading, ``"rb"`` or ``"r"`` (UTF-8 text). It reads ahead."""
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"mode is {mode!r}: a checkpoint is read-only: expected 'r' or 'rb'")
        file = io.BufferedReader(_RawFile(self, name), BUFFER_BYTES)
        return file if mode == "rb" else io.TextIOWrapper(file, encoding="utf-8")  # type: ignore[return-value]

    def digest(self, name: str) -> str:
        """A text that names the content of a file: equal for equal files that are stored alike."""
        self._range(name, 0, None)
        return "+".join(f"{digest}:{at}:{size}" for digest, at, size in self._core.extents(name))


class _RawFile(io.RawIOBase):
    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        super().__init__()
        checkpoint._range(name, 0, None)
        self._checkpoint = checkpoint
        self.name = name
        self._len = checkpoint.files[name]
        self._at = 0
        self._file: tuple[int, _cairn.File] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._len}
        at = start[whence] + offset
        if at < 0:
            raise ValueError(f"seek to {at}, before the start of the file")
        self._at = at
        return at

    def readinto(self, buffer: Any, /) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._at >= self._len:
            return 0
        if self._file is None or self._file[0] != os.getpid():
            self._file = (os.getpid(), self._checkpoint._core.file(self.name))
        call = self._file[1].read_into(self._at, buffer)
        count = result_of(Request(call, int))
        self._at += count
        return count


class FileWriter(io.RawIOBase):
    """One file of a new checkpoint, or of a part of one, whose length is not known in advance. From
    `cairn.Client.writer`.

    `finish` commits, and so does leaving a ``with`` block. An exception in the block, `discard`, or an
    object that is dropped before commits nothing.
    """

    def __init__(self, writer: _cairn.Writer) -> None:
        super().__init__()
        self._writer: _cairn.Writer | None = writer
        self._written = 0
        #: The `PutReport`, once it is finished.
        self.report: records.PutReport | None = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any, /) -> int:
        """Takes all of `data`. Waits while the cluster is slower than the writer."""
        if self._writer is None:
            raise ValueError("the file is finished or discarded")
        count = result_of(Request(self._writer.write(data), int))
        self._written += count
        return count

    def finish(self) -> records.PutReport:
        """Sends the rest and commits, or seals the part."""
        if self._writer is None:
            raise ValueError("the file is finished or discarded")
        writer, self._writer = self._writer, None
        self.report = result_of(Request(writer.finish(), records.put_report))
        return self.report

    def discard(self) -> None:
        """Gives the file up. Its upload stays open until its lease ends; it never commits."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            result_of(Request(writer.discard(), lambda it: it))

    def close(self) -> None:
        """Discards what was not finished: a file that is only closed is not known to be whole."""
        if not self.closed:
            self.discard()
        super().close()

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and self._writer is not None:
            self.finish()
        self.close()
