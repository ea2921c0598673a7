"""Fork, spawn, threads, pickles: a client works in each process."""

import concurrent.futures
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest
from conftest import noise

import cairn

SIZE = 2 << 20


def read(checkpoint):
    return len(checkpoint.read("f")), os.getpid()


def step_of(client, address):
    return client.show(address).step


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_clients_and_checkpoints_go_to_worker_processes(client, namespace, method):
    client.put({"f": noise(SIZE)}, namespace, step=4)
    checkpoint = client.checkpoint(f"{namespace}@latest")
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        found = [pool.submit(step_of, client, f"{namespace}@4").result(60) for _ in range(3)]
        assert found == [4] * 3
        size, process = pool.submit(read, checkpoint).result(60)
        assert size == SIZE and process != os.getpid()
    # The parent's own connections are as before.
    assert checkpoint.read("f", 0, 5) == noise(SIZE)[:5]


def test_child_of_a_fork_uses_what_it_inherits(client, namespace):
    client.put({"f": noise(SIZE)}, namespace, step=1)
    checkpoint = client.checkpoint(f"{namespace}@1")
    file = checkpoint.open("f")
    assert file.read(10) == noise(SIZE)[:10]
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                is_right = client.show(f"{namespace}@1").step == 1
                is_right &= checkpoint.read("f") == noise(SIZE)
                is_right &= file.read() == noise(SIZE)[10:]
                client.put({"g": b"child"}, namespace, step=os.getpid())
                code = 0 if is_right else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert client.checkpoint(f"{namespace}@{child}").read("g") == b"child"
    assert file.read() == noise(SIZE)[10:]


def test_call_of_the_parent_is_an_error_in_the_child(client, namespace):
    request = client._wait(f"{namespace}@1", False)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            request.call.wait(1)
        except RuntimeError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    request.call.cancel()


def test_client_pickles_by_its_arguments(cluster):
    client = cairn.Client(cluster.endpoints, rack="r1", timeout=7)
    text = pickle.dumps(client)
    assert len(text) < 500
    copy = pickle.loads(text)
    assert copy._arguments == client._arguments
    assert len(copy.status().nodes) == 3


def test_threads_share_a_client(client, namespace):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        steps = range(16)
        list(pool.map(lambda step: client.put({"f": noise(1000, step)}, namespace, step=step), steps))
    assert [one.step for one in client.ls(namespace)] == list(steps)


@pytest.mark.parametrize("last", ["", "import sys; sys.exit(3)", "1 / 0"])
def test_process_ends_while_calls_run(cluster, namespace, last):
    program = f"""
import cairn
client = cairn.Client({cluster.endpoints!r})
waiting = client._wait("{namespace}@1", False)
putting = client._put({{"f": bytearray(64 << 20)}}, "{namespace}", 2, {{}})
{last}
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert ran.returncode == {"": 0, "1 / 0": 1}.get(last, 3), ran.stderr.decode()
    assert b"panicked" not in ran.stderr and b"Fatal" not in ran.stderr
