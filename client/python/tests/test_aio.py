"""`cairn.aio.Client` against real nodes."""

import asyncio

import pytest
from conftest import noise

import cairn


def run(work):
    return asyncio.run(asyncio.wait_for(work, 120))


@pytest.fixture
def aio(cluster):
    return cairn.aio.Client(cluster.endpoints, timeout=30)


def test_every_method_has_an_async_twin():
    def methods(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    # A file object blocks: there is none.
    assert methods(cairn.Client) - methods(cairn.aio.Client) == {"open"}
    assert methods(cairn.aio.Client) <= methods(cairn.Client)


def test_put_read_and_get(aio, namespace, tmp_path):
    data = noise(5 << 20, 1)

    async def work():
        told = []
        await aio.put({"f": data}, namespace, step=1, progress=told.append)
        assert told[-1].bytes_total == len(data)
        async with await aio.writer(f"{namespace}@2", "g") as file:
            await file.write(data)
        assert file.report.outcome == "committed"
        checkpoint = await aio.checkpoint(f"{namespace}@1")
        ranges = [("f", at, at + 10) for at in range(0, len(data), 100_000)]
        assert await checkpoint.read_ranges(ranges) == [data[a:b] for _, a, b in ranges]
        await aio.get(f"{namespace}@latest", tmp_path / "got")
        assert (tmp_path / "got" / "g").read_bytes() == data
        assert [one.step for one in await aio.ls(namespace)] == [1, 2]
        assert (await aio.latest(namespace)).step == 2
        assert await aio.latest(f"{namespace}/none") is None
        with pytest.raises(FileNotFoundError):
            await aio.show(f"{namespace}@3")

    run(work())


def test_many_at_a_time_and_the_loop_runs_on(aio, namespace):
    async def work():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with asyncio.TaskGroup() as group:
            for step in range(8):
                group.create_task(aio.put({"f": noise(1 << 20, step)}, namespace, step=step))
        ticking.cancel()
        assert ticks > 3
        assert len(await aio.ls(namespace)) == 8

    run(work())


def test_cancelled_task_ends_its_call(aio, namespace):
    async def work():
        task = asyncio.create_task(aio.wait(f"{namespace}@1"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(cairn.DeadlineError):
            await aio.wait(f"{namespace}@1", timeout=0.2)

    run(work())


def test_watch_tells_what_happens(aio, namespace):
    async def work():
        seen = []
        seam = asyncio.Event()

        async def watch():
            async for told in aio.watch(namespace):
                if told.told == "seam":
                    seam.set()
                if told.event:
                    seen.append((told.event, told.step))
                    return

        task = asyncio.create_task(watch())
        await seam.wait()
        await aio.put({"f": b"1"}, namespace, step=1)
        await task
        assert seen == [("committed", 1)]

    run(work())
