"""Cases of distributed checkpoints, run by each rank: `torch_ranks.py RANK WORLD PORT NAMESPACE OUT`.

Starting a rank costs seconds of imports, so that one start runs all of them. `OUT` gets a JSON object with
"ok" or the traceback of each case. `test_torch.py` starts the ranks and looks.
"""

import json
import os
import pathlib
import sys
import traceback

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import cairn
import cairn.torch


def full(seed, shape=(64, 48)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Rank:
    def __init__(self, rank, world, namespace):
        self.rank, self.world, self.namespace = rank, world, namespace
        self.client = cairn.Client()
        self.mesh = init_device_mesh("cpu", (world,))

    def sharded(self, seed, axis=0):
        return distribute_tensor(full(seed), self.mesh, [Shard(axis)])

    def state(self, seed=0):
        weights = torch.nn.Parameter(self.sharded(seed))
        bias = distribute_tensor(full(seed + 1, (7,)), self.mesh, [Replicate()])
        view = full(seed + 2, (100,))[10:20]
        return {
            "model": {"weights": weights, "bias": bias, "half": full(3, (5, 5)).bfloat16()},
            f"own.{self.rank}": full(100 + self.rank, (33,)),
            "view": view,
            "step": seed,
            "text": "grüße",
        }

    def step_is(self, step):
        info = self.client.latest(self.namespace)
        assert (info.step if info else None) == step, info


def save_and_load(rank):
    state = rank.state(7)
    writer = cairn.torch.Writer(rank.namespace, 1, labels={"kind": "dcp"})
    dcp.save(state, storage_writer=writer)
    info = rank.client.show(f"{rank.namespace}@1")
    assert (info.parts, info.labels) == (rank.world + 1, {"kind": "dcp"})
    assert (writer.report is not None) == (rank.rank == 0)
    files = rank.client.checkpoint(f"{rank.namespace}@1").files
    assert list(files) == [".metadata", *(f"__{one}_0.distcp" for one in range(rank.world))]
    into = rank.state(0)
    into[f"own.{rank.rank}"].zero_()
    dcp.load(into, storage_reader=cairn.torch.Reader(f"{rank.namespace}@1"))
    assert torch.equal(into["model"]["weights"].to_local(), state["model"]["weights"].to_local())
    assert torch.equal(into["model"]["bias"].to_local(), state["model"]["bias"].to_local())
    assert torch.equal(into["model"]["half"], state["model"]["half"])
    assert torch.equal(into[f"own.{rank.rank}"], state[f"own.{rank.rank}"])
    assert torch.equal(into["view"], state["view"])
    assert (into["step"], into["text"]) == (7, "grüße")


def load_with_other_shards(rank):
    into = {"model": {"weights": rank.sharded(0, axis=1)}}
    dcp.load(into, storage_reader=cairn.torch.Reader(f"cairn://{rank.namespace}/step-1"))
    assert isinstance(into["model"]["weights"], DTensor)
    assert torch.equal(into["model"]["weights"].full_tensor(), full(7))


def step_is_written_once_unless_replaced(rank):
    def save(**options):
        dcp.save({"w": rank.sharded(8)}, storage_writer=cairn.torch.Writer(rank.namespace, 1, **options))

    try:
        save()
    except dcp.api.CheckpointException as error:
        causes = {type(cause).__name__ for cause, _ in error.failures.values()}
        assert causes == {"StepExistsError"}, causes
    else:
        raise AssertionError("saved twice")
    save(replace=True)
    into = {"w": rank.sharded(0)}
    dcp.load(into, storage_reader=cairn.torch.Reader(f"{rank.namespace}@1"))
    assert torch.equal(into["w"].full_tensor(), full(8))


def checkpoint_id_names_the_step(rank):
    where = f"cairn://{rank.namespace}/step-2"
    dcp.save({"w": rank.sharded(9)}, checkpoint_id=where, storage_writer=cairn.torch.Writer())
    into = {"w": rank.sharded(0)}
    dcp.load(into, checkpoint_id=where, storage_reader=cairn.torch.Reader())
    assert torch.equal(into["w"].full_tensor(), full(9))
    rank.step_is(2)


def async_save_in_a_thread(rank):
    state = {"w": rank.sharded(10), "n": 5}
    saving = dcp.async_save(state, storage_writer=cairn.torch.Writer(rank.namespace, 3))
    state["w"].to_local().zero_()
    saving.result()
    dist.barrier()
    into = {"w": rank.sharded(0), "n": 0}
    dcp.load(into, storage_reader=cairn.torch.Reader(f"{rank.namespace}@3"))
    assert torch.equal(into["w"].full_tensor(), full(10)) and into["n"] == 5


class FailingPlanner(DefaultSavePlanner):
    """Raises on one rank, after its first item."""

    def __init__(self, fails):
        super().__init__()
        self.fails, self.count = fails, 0

    def resolve_data(self, item):
        self.count += 1
        if self.fails and self.count > 1:
            raise ZeroDivisionError("in the planner")
        return super().resolve_data(item)


def failed_rank_commits_nothing(rank):
    def save(fails):
        writer = cairn.torch.Writer(rank.namespace, 4)
        state = {"a": rank.sharded(11), "b": rank.sharded(12)}
        dcp.save(state, storage_writer=writer, planner=FailingPlanner(fails))

    try:
        save(rank.rank == 1)
    except dcp.api.CheckpointException as error:
        assert list(error.failures) == [1], error.failures
    else:
        raise AssertionError("a failure was reported as success")
    dist.barrier()
    rank.step_is(3)
    dist.barrier()
    save(False)
    rank.step_is(4)


def plan_of_an_earlier_save_is_refused(rank):
    def save(step):
        planner = DefaultSavePlanner(enable_plan_caching=True)
        dcp.save({"w": rank.sharded(13)}, storage_writer=writer, planner=planner, checkpoint_id=step)

    writer = cairn.torch.Writer()
    save(f"{rank.namespace}@5")
    try:
        save(f"{rank.namespace}@6")
    except dcp.api.CheckpointException as error:
        assert "enable_plan_caching" in str(error), error
    else:
        # This PyTorch made the plan anew: then it is the right one.
        rank.step_is(6)
        return
    rank.step_is(5)


def killed_rank_commits_nothing(rank):
    class Killed(DefaultSavePlanner):
        def resolve_data(self, item):
            if rank.rank == 1:
                os._exit(9)
            return super().resolve_data(item)

    before = rank.client.latest(rank.namespace).step
    try:
        state = {"a": rank.sharded(14), "b": rank.sharded(15)}
        writer = cairn.torch.Writer(rank.namespace, 9)
        dcp.save(state, storage_writer=writer, planner=Killed())
    except Exception:
        rank.step_is(before)
    else:
        raise AssertionError("saved without a rank")


#: In this order: later ones look at steps of earlier ones. The last one ends rank 1.
CASES = [
    save_and_load,
    load_with_other_shards,
    step_is_written_once_unless_replaced,
    checkpoint_id_names_the_step,
    async_save_in_a_thread,
    failed_rank_commits_nothing,
    plan_of_an_earlier_save_is_refused,
    killed_rank_commits_nothing,
]


def main(number, world, port, namespace, out):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=int(number), world_size=int(world))
    rank = Rank(int(number), int(world), namespace)
    results = {}
    for case in CASES:
        try:
            case(rank)
            results[case.__name__] = "ok"
        except BaseException:
            results[case.__name__] = traceback.format_exc()
        pathlib.Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
