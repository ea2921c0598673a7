"""Distributed checkpoints of PyTorch: two ranks over gloo, and one process alone."""

import json
import pathlib
import pickle
import subprocess
import sys

import pytest

import cairn

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.distributed.checkpoint as dcp  # noqa: E402
from conftest import three_ports  # noqa: E402
from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402

import cairn.torch  # noqa: E402

HERE = pathlib.Path(__file__).parent
RANKS_SECONDS = 300
WORLD = 2
CASES = [
    "save_and_load",
    "load_with_other_shards",
    "step_is_written_once_unless_replaced",
    "checkpoint_id_names_the_step",
    "async_save_in_a_thread",
    "failed_rank_commits_nothing",
    "plan_of_an_earlier_save_is_refused",
    "killed_rank_commits_nothing",
]


@pytest.fixture(scope="module")
def ranks(cluster, tmp_path_factory):
    """What each rank says of each case, and the namespace they wrote to."""
    directory, namespace, port = tmp_path_factory.mktemp("ranks"), "torch/ranks", str(three_ports())
    started = []
    for rank in range(WORLD):
        out, log = directory / f"{rank}.json", directory / f"{rank}.log"
        command = [sys.executable, HERE / "torch_ranks.py", str(rank), str(WORLD), port, namespace, out]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
        started.append((process, out, log))
    try:
        for process, _, _ in started:
            process.wait(RANKS_SECONDS)
    finally:
        for process, _, _ in started:
            process.kill()
            process.wait()
    said = [
        (json.loads(out.read_text()) if out.exists() else {}, log.read_text())
        for _, out, log in started
    ]
    return said, namespace


@pytest.mark.parametrize("case", CASES)
def test_two_ranks(ranks, case):
    for rank, (results, log) in enumerate(ranks[0]):
        if case == "killed_rank_commits_nothing" and rank == 1:
            assert case not in results, "it was to be killed"
            continue
        assert results.get(case) == "ok", f"rank {rank}: {results.get(case)}\n{log[-3000:]}"


def test_one_process_loads_what_two_ranks_saved(ranks, client, tmp_path):
    from torch_ranks import full

    _, namespace = ranks
    into = {"w": torch.zeros(64, 48)}
    reader = cairn.torch.Reader(f"{namespace}@2", client=client)
    dcp.load(into, storage_reader=reader, no_dist=True)
    assert torch.equal(into["w"], full(9))
    # PyTorch's own reader takes the files.
    client.get(f"{namespace}@2", tmp_path / "got")
    into["w"].zero_()
    dcp.load(into, storage_reader=dcp.FileSystemReader(tmp_path / "got"), no_dist=True)
    assert torch.equal(into["w"], full(9))


def save(client, namespace, step, state, **options):
    writer = cairn.torch.Writer(namespace, step, client=client, **options)
    dcp.save(state, storage_writer=writer, no_dist=True)
    return writer


def test_one_process_saves_a_large_tensor(client, namespace):
    big = torch.randn(5000, 2000)
    writer = save(client, namespace, 1, {"big": big, "small": torch.ones(3)}, wait="full")
    assert writer.report.outcome == "committed" and writer.report.full
    into = {"big": torch.zeros_like(big), "small": torch.zeros(3)}
    dcp.load(into, storage_reader=cairn.torch.Reader(f"{namespace}@latest", client=client), no_dist=True)
    assert torch.equal(into["big"], big) and torch.equal(into["small"], torch.ones(3))
    with pytest.raises(CheckpointException, match="big"):
        wrong = {"big": torch.zeros(7, 7)}
        dcp.load(wrong, storage_reader=cairn.torch.Reader(f"{namespace}@1", client=client), no_dist=True)


def test_rank_of_an_earlier_start_is_fenced(client, namespace):
    part = cairn.torch.Writer(namespace, 1, client=client, attempt=5)
    part.set_up_storage_writer(True, rank=0)
    # The restarted job has begun the step.
    client.put({"f": b"1"}, namespace, step=1, part=0, parts=2, attempt=6)
    with pytest.raises(CheckpointException) as caught:
        dcp.save({"w": torch.ones(3)}, storage_writer=part, no_dist=True)
    assert "fenced by attempt 6" in str(caught.value)
    assert client.latest(namespace) is None


def test_writer_and_reader_pickle_before_they_work(client, namespace):
    writer = pickle.loads(pickle.dumps(cairn.torch.Writer(namespace, 3, client=client)))
    assert writer.checkpoint_id == f"cairn://{namespace}/step-3"
    dcp.save({"n": torch.arange(4)}, storage_writer=writer, no_dist=True)
    reader = pickle.loads(pickle.dumps(cairn.torch.Reader(f"{namespace}@3", client=client)))
    into = {"n": torch.zeros(4, dtype=torch.int64)}
    dcp.load(into, storage_reader=reader, no_dist=True)
    assert into["n"].tolist() == [0, 1, 2, 3]


def test_names_that_cannot_be(client):
    for name in ("run", "run@latest", "/tmp/x", "run@-1"):
        assert not cairn.torch.Writer.validate_checkpoint_id(name), name
    for name in ("run@1", "cairn://run/step-1", "cairn://a/b/7"):
        assert cairn.torch.Writer.validate_checkpoint_id(name), name
    assert cairn.torch.Reader.validate_checkpoint_id("cairn://run/@latest")
    with pytest.raises(cairn.InvalidError):
        cairn.torch.Writer(step=3, client=client)
    with pytest.raises(CheckpointException, match="no step to save to"):
        dcp.save({"a": torch.ones(1)}, storage_writer=cairn.torch.Writer(client=client), no_dist=True)


def test_cases_are_those_of_the_ranks():
    import torch_ranks

    assert [case.__name__ for case in torch_ranks.CASES] == CASES
