"""A cluster of three real nodes for all tests, and a namespace for each."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

import cairn

START_SECONDS = 90


def command() -> str:
    """The `cairn` of the environment that the package is in."""
    beside = pathlib.Path(sys.executable).parent / "cairn"
    found = os.environ.get("CAIRN_BINARY") or (str(beside) if beside.exists() else None)
    found = found or shutil.which("cairn")
    if found is None:
        raise RuntimeError("no `cairn` beside this Python: install the wheel")
    return found


def three_ports() -> int:
    """The first of three free ports in a row."""
    for _ in range(100):
        first = random.randrange(20_000, 30_000, 3)
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no three free ports in a row")


class Cluster:
    """`cairn dev` in a directory of its own."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.port = three_ports()
        self.endpoints = ",".join(f"127.0.0.1:{self.port + node}" for node in range(3))
        self.log = directory / "dev.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CAIRN_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [command(), "dev", "--dir", str(directory / "dev"), "--port", str(self.port)],
                stdout=log,
                stderr=log,
                env=environment,
            )
        self._wait_up()

    def _wait_up(self) -> None:
        client = cairn.Client(self.endpoints, timeout=5)
        end = time.monotonic() + START_SECONDS
        last = "nothing"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if sum(node.up for node in client.status().nodes) == 3:
                    return
            except cairn.CairnError as error:
                last = str(error)
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"the cluster does not start: {last}\n{self.log.read_text()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    for name in [name for name in os.environ if name.startswith("CAIRN_")]:
        if name != "CAIRN_BINARY":
            del os.environ[name]
    # Adapters and child processes find it as a user's would.
    os.environ["CAIRN_ENDPOINTS"] = cluster.endpoints
    yield cluster
    cluster.stop()


@pytest.fixture
def client(cluster):
    return cairn.Client(cluster.endpoints, timeout=30)


_numbers = itertools.count()


@pytest.fixture
def namespace(request):
    name = re.sub(r"[^A-Za-z0-9_]+", "-", request.node.name).strip("-")[:60]
    return f"t{next(_numbers)}/{name}"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
