"""What `cairn.Client` and `cairn.aio.Client` share: the settings, and a running call for each method.

Each method here returns a `Request`: a call that runs already, and the function that makes its result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import _launcher, records
from ._cairn import Call, Core
from .errors import InvalidError

#: A node that `cairn dev` starts.
DEFAULT_ENDPOINT = "127.0.0.1:7400"


@dataclass(slots=True)
class Request:
    call: Call
    convert: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def split_step(address: str, step: int | None) -> tuple[str, int]:
    """The namespace and the step that a checkpoint is written as."""
    namespace, at, selector = address.partition("@")
    if step is None:
        if not selector.isdecimal():
            raise InvalidError(
                f"{address!r} names no step",
                "write to NAMESPACE@STEP, such as run@1000, or pass step=1000",
            )
        step = int(selector)
    elif at:
        raise InvalidError(f"a step is given twice, in {address!r} and as step={step}")
    if not 0 <= step < 1 << 64:
        raise InvalidError(f"step {step} is out of range: 0 to 2^64 - 1")
    return namespace, step


class Requests:
    """The arguments of a client; see `cairn.Client`."""

    def __init__(
        self,
        endpoints: str | Iterable[str] | None = None,
        *,
        key: str | os.PathLike | None = None,
        authority: str | os.PathLike | None = None,
        token: str | None = None,
        token_file: str | os.PathLike | None = None,
        cluster: str | None = None,
        rack: str | None = None,
        insecure: bool | None = None,
        timeout: float | None = 60.0,
    ) -> None:
        if endpoints is not None and not isinstance(endpoints, str):
            endpoints = ",".join(endpoints)
        self._arguments = {
            "endpoints": endpoints,
            "key": None if key is None else os.fspath(key),
            "authority": None if authority is None else os.fspath(authority),
            "token": token,
            "token_file": None if token_file is None else os.fspath(token_file),
            "cluster": cluster,
            "rack": rack,
            "insecure": insecure,
            "timeout": timeout,
        }
        variable = os.environ.get
        given = endpoints or variable("CAIRN_ENDPOINTS") or DEFAULT_ENDPOINT
        if insecure is None:
            insecure = variable("CAIRN_INSECURE", "").lower() in ("1", "true", "yes", "on", "y")
        # A token that is given counts, not one of the environment.
        if token is None and token_file is None:
            token, token_file = variable("CAIRN_TOKEN"), variable("CAIRN_TOKEN_FILE")
        self._core = Core(
            {
                "endpoints": [one.strip() for one in given.split(",") if one.strip()],
                "key_file": self._arguments["key"] or variable("CAIRN_CLUSTER_KEY") or None,
                "authority_file": self._arguments["authority"]
                or variable("CAIRN_CLUSTER_CA")
                or None,
                "token": token or None,
                "token_file": None if token_file is None else os.fspath(token_file) or None,
                "cluster": cluster or variable("CAIRN_CLUSTER") or None,
                "rack": rack or variable("CAIRN_RACK") or None,
                "insecure": insecure,
                "deadline_seconds": timeout,
            }
        )

    def __getstate__(self) -> dict:
        return self._arguments

    def __setstate__(self, arguments: dict) -> None:
        Requests.__init__(self, **arguments)

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({self._arguments['endpoints']!r})"

    def _put_settings(self, address: str, step: int | None, options: dict) -> dict:
        namespace, step = split_step(address, step)
        parts = options.get("parts", 1)
        attempt = options.get("attempt")
        if parts > 1 and attempt is None:
            attempt = _launcher.attempt()
        job = options.get("job")
        if job is None:
            job = _launcher.job() if parts > 1 else ""
        return {
            "namespace": namespace,
            "step": step,
            "part": options.get("part", 0),
            "parts": parts,
            "attempt": attempt,
            "job": job,
            "client": _launcher.process(),
            "replace": options.get("replace", False),
            "labels": dict(options.get("labels") or {}),
            "wait": options.get("wait", "quorum"),
            "wait_seconds": options.get("wait_seconds", 600.0),
            "allow_empty": options.get("allow_empty", False),
            "dry_run": options.get("dry_run", False),
            "replicas": options.get("replicas"),
            "write_quorum": options.get("write_quorum"),
        }

    def _put(self, source: Any, address: str, step: int | None, options: dict) -> Request:
        settings = self._put_settings(address, step, options)
        if isinstance(source, Mapping):
            if options.get("prefix") is not None:
                raise InvalidError("prefix is for paths; give the names of buffers as they are")
            call = self._core.put_buffers(settings, dict(source))
        else:
            if isinstance(source, (str, os.PathLike)):
                source = [source]
            paths = [os.fspath(path) for path in source]
            links = options.get("links", "refuse")
            call = self._core.put_paths(settings, paths, options.get("prefix"), links)
        return Request(call, records.put_report)

    def _writer(self, address: str, name: str, step: int | None, options: dict) -> Request:
        settings = self._put_settings(address, step, options)
        return Request(self._core.writer(settings, name), _same)

    def _get(
        self,
        address: str,
        directory: str | os.PathLike,
        names: Iterable[str] | None,
        overwrite: bool,
        quarantined: bool,
        verify_only: bool,
    ) -> Request:
        chosen = None if names is None else list(names)
        call = self._core.get(
            address, os.fspath(directory), chosen, overwrite, quarantined, verify_only
        )
        return Request(call, records.get_report)

    def _show(self, address: str) -> Request:
        return Request(self._core.resolve(address), records.checkpoint_info)

    def _opened(self, address: str, quarantined: bool) -> Request:
        return Request(self._core.open(address, quarantined), _same)

    def _ls(self, prefix: str | None, open: bool, deleted: bool, limit: int | None) -> Request:
        def convert(found: list) -> list:
            return [records.CheckpointInfo(**one) for one in found]

        return Request(self._core.list(prefix, open, deleted, limit), convert)

    def _refs(self, namespace: str) -> Request:
        def convert(found: list) -> dict:
            return {one["name"]: records.Ref(**one) for one in found if one["id"] is not None}

        return Request(self._core.refs(namespace), convert)

    def _set_ref(self, name: str, address: str, expect: int | None) -> Request:
        call = self._core.set_ref(name, address, expect, _launcher.user())
        return Request(call, records.checkpoint_info)

    def _remove_ref(self, namespace: str, name: str, expect: int | None) -> Request:
        call = self._core.remove_ref(namespace, name, expect, _launcher.user())
        return Request(call, _same)

    def _annotate(
        self,
        address: str,
        labels: Mapping[str, str] | None,
        metrics: Mapping[str, float] | None,
        remove: Iterable[str],
    ) -> Request:
        call = self._core.annotate(
            address, dict(labels or {}), dict(metrics or {}), list(remove)
        )
        return Request(call, records.checkpoint_info)

    def _wait(self, address: str, full: bool) -> Request:
        return Request(self._core.wait_for(address, full), records.checkpoint_info)

    def _rm(self, address: str, now: bool, force: bool) -> Request:
        call = self._core.delete(address, now, force, _launcher.user())
        return Request(call, records.checkpoint_info)

    def _abort(self, namespace: str, step: int, now: bool) -> Request:
        return Request(self._core.abort(namespace, step, now), records.checkpoint_info)

    def _undelete(self, namespace: str, step: int) -> Request:
        call = self._core.undelete(namespace, step, _launcher.user())
        return Request(call, records.checkpoint_info)

    def _status(self) -> Request:
        return Request(self._core.status(), records.status)
