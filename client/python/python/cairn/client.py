"""The client for programs that are not async."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from . import records
from ._requests import Request, Requests
from ._waiting import ProgressTold, result_of
from .files import Checkpoint, FileWriter


class Client(Requests):
    """A client of one cluster.

    It contacts no node before the first call. It may be used by several threads at once, pickled (by
    its arguments), and used after ``os.fork`` and in worker processes, which connect on their own.

    Args:
        endpoints: Addresses of one or more nodes, ``HOST`` or ``HOST:PORT``, as a list or separated by
            commas. The default is ``CAIRN_ENDPOINTS``, then ``127.0.0.1:7400``.
        key: The file with the cluster key (``CAIRN_CLUSTER_KEY``). Nodes that are not on this machine
            need it, or `authority` and a token.
        authority: The file with the cluster's certificate authority (``CAIRN_CLUSTER_CA``).
        token: The text of a token (``CAIRN_TOKEN``).
        token_file: The file with a token (``CAIRN_TOKEN_FILE``).
        cluster: The id of the cluster. Nodes of another one are an error (``CAIRN_CLUSTER``).
        rack: The rack of this machine: replicas in it are read first (``CAIRN_RACK``).
        insecure: Allows nodes on other machines without a key (``CAIRN_INSECURE``).
        timeout: Seconds for finding a node, a leader or an answer; None waits for ever. Transfers may
            take longer, as long as they progress.

    Every method raises a `cairn.CairnError`, such as `cairn.UnavailableError` if no node answers within
    `timeout`, or `cairn.DeniedError` if the key or the token does not allow it. Ctrl-C ends a call.
    """

    def put(
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
        """Uploads a checkpoint, or one part of it. Sends nothing that the cluster holds already.

        A put that was interrupted continues when it is run again.

        Args:
            source: A file or directory, or several; or a mapping from file names to bytes (anything
                with the buffer protocol that is contiguous, such as ``bytes`` or a NumPy array), which
                are read in place.
            address: ``NAMESPACE@STEP``, or a namespace with `step`.
            part: Which part this is, of `parts`, from 0. The checkpoint commits with its last part.
            attempt: The same for all parts, higher with each restart of the job. The default is what
                ``CAIRN_ATTEMPT`` or the launcher says; for a single part, the next one.
            job: The name of the job, so that two jobs do not join each other's upload.
            replace: Takes the place of a committed checkpoint of this step.
            labels: Texts to find the checkpoint by.
            wait: "quorum" returns at the commit, when the write quorum of nodes has everything durable.
                "committed" waits for the other parts, too. "full" waits for all replicas.
            wait_seconds: The time limit of "committed" and "full". Its end is no error: see the report.
            prefix: A directory that the names of paths are placed below.
            links: What to do with symbolic links: "refuse", "skip" or "follow".
            allow_empty: Allows a checkpoint without files.
            dry_run: Only looks up what would be sent.
            replicas: The number of replicas, instead of the policy of the namespace.
            write_quorum: How many of them must be durable at the commit.
            progress: Called about ten times a second with a `Progress`, and at the end, on this thread.
                An exception in it ends the put.

        Raises:
            StepExistsError: The step is committed with other content.
            FencedError: A higher attempt has taken over.
            FileNotFoundError, LocalError: The source cannot be read, or changed meanwhile.
        """
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
        return result_of(self._put(source, address, step, options), progress)

    def writer(
        self, address: str, name: str, *, step: int | None = None, **options: Any
    ) -> FileWriter:
        """Begins a checkpoint, or a part of one, with one file that is written piece by piece.

        `options` are those of `put`: `part`, `parts`, `attempt`, `job`, `replace`, `labels`, `wait`,
        `wait_seconds`, `replicas`, `write_quorum`.

        >>> with client.writer("run@7", "model.bin") as file:
        ...     file.write(weights)
        """
        return FileWriter(result_of(self._writer(address, name, step, options)))

    def get(
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
        """Downloads a checkpoint into a directory. A file gets its name only when all of it is verified.

        Args:
            names: Only these files, and the files in these directories.
            overwrite: Replaces existing files whose content differs.
            quarantined: Allows a checkpoint in quarantine.
            verify_only: Reads and verifies everything, and writes nothing.
            progress: As of `put`.

        Raises:
            NotFoundError: There is no such checkpoint.
            ConflictError: A file is in the way.
            DamagedError: Bytes cannot be read from any replica.
        """
        request = self._get(address, directory, names, overwrite, quarantined, verify_only)
        return result_of(request, progress)

    def checkpoint(self, address: str, *, quarantined: bool = False) -> Checkpoint:
        """Opens a checkpoint: its files, and reads of any range of them."""
        opened = result_of(self._opened(address, quarantined))
        return Checkpoint(self, address, quarantined, opened)

    def open(
        self, address: str, name: str, mode: str = "rb", *, quarantined: bool = False
    ) -> BinaryIO:
        """A file object for reading one file; "rb" for bytes, "r" for UTF-8 text."""
        return self.checkpoint(address, quarantined=quarantined).open(name, mode)

    def ls(
        self,
        prefix: str | None = None,
        *,
        open: bool = False,
        deleted: bool = False,
        limit: int | None = None,
    ) -> list[records.CheckpointInfo]:
        """Committed checkpoints of a namespace and those below it, ascending by namespace and step.

        Args:
            open: Uploads in progress, too.
            deleted: Deleted ones, too, as long as their records are kept.
            limit: The first so many.
        """
        return result_of(self._ls(prefix, open, deleted, limit))

    def show(self, address: str) -> records.CheckpointInfo:
        """The checkpoint that an address names now.

        Raises:
            NotFoundError: There is none.
        """
        return result_of(self._show(address))

    def latest(self, namespace: str) -> records.CheckpointInfo | None:
        """The newest commit of a namespace that is not in quarantine; None if there is none."""
        from .errors import NotFoundError

        try:
            return self.show(f"{namespace}@latest")
        except NotFoundError:
            return None

    def refs(self, namespace: str) -> dict[str, records.Ref]:
        """The refs of a namespace, by name."""
        return result_of(self._refs(namespace))

    def set_ref(
        self, name: str, address: str, *, expect: int | None = None
    ) -> records.CheckpointInfo:
        """Points a ref of the address's namespace at the checkpoint that it names now.

        Args:
            expect: The generation that the ref must have, 0 if it must not exist.

        Raises:
            ConflictError: Its generation is another one.
        """
        return result_of(self._set_ref(name, address, expect))

    def remove_ref(self, namespace: str, name: str, *, expect: int | None = None) -> None:
        """Removes a ref. What it names stays."""
        result_of(self._remove_ref(namespace, name, expect))

    def annotate(
        self,
        address: str,
        *,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        remove: Iterable[str] = (),
    ) -> records.CheckpointInfo:
        """Sets labels and metrics of a committed checkpoint, such as a loss that is known later.

        Args:
            remove: Names of labels and metrics to remove.
        """
        return result_of(self._annotate(address, labels, metrics, remove))

    def wait(
        self, address: str, *, full: bool = False, timeout: float | None = None
    ) -> records.CheckpointInfo:
        """Waits until a step or a ref is committed; with `full`, until all its replicas are durable.

        Raises:
            DeadlineError: `timeout` seconds are over. None waits for ever.
        """
        return result_of(self._wait(address, full), timeout=timeout)

    def watch(
        self, prefix: str | None = None, *, cursor: str | None = None
    ) -> Iterator[records.Told]:
        """What is there, and then what happens, without end: for a namespace and those below it.

        Args:
            cursor: The cursor of what was told last, to go on behind it without a gap.
        """
        watch = self._core.watch(prefix, cursor)
        while True:
            told = result_of(Request(watch.next(), lambda it: it))
            if told is None:
                return
            yield records.Told(**told)

    def rm(
        self, address: str, *, now: bool = False, force: bool = False
    ) -> records.CheckpointInfo:
        """Deletes a checkpoint, or aborts the open upload of a step. It can be undeleted for a time.

        Args:
            now: Frees its space at once; it cannot be undeleted.
            force: Also if refs or holds protect it.

        Raises:
            ConflictError: It is protected.
        """
        return result_of(self._rm(address, now, force))

    def abort(self, namespace: str, step: int, *, now: bool = False) -> records.CheckpointInfo:
        """Aborts the open upload of a step. Never deletes its committed checkpoint."""
        return result_of(self._abort(namespace, step, now))

    def undelete(self, namespace: str, step: int) -> records.CheckpointInfo:
        """Brings back the checkpoint of a step that was deleted last."""
        return result_of(self._undelete(namespace, step))

    def status(self) -> records.Status:
        """The cluster and its nodes."""
        return result_of(self._status())
