"""`cairn.Client` against real nodes."""

import gc
import io
import os
import pickle
import signal
import threading
import time

import pytest
from conftest import noise

import cairn


@pytest.fixture
def tree(tmp_path):
    directory = tmp_path / "out"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.bin").write_bytes(noise(3 << 20, 1))
    (directory / "sub" / "b.txt").write_text("text\n")
    return directory


def test_put_and_get_a_directory(client, namespace, tree, tmp_path):
    told = []
    report = client.put(tree, f"{namespace}@7", labels={"stage": "sft"}, progress=told.append)
    assert (report.outcome, report.files, report.bytes) == ("committed", 2, (3 << 20) + 5)
    assert report.segments_sent > 0 and report.replicas_min >= 2
    assert told[-1].bytes_total == (3 << 20) + 5
    assert told[-1].bytes_done + told[-1].bytes_kept >= (3 << 20) + 5
    again = client.put(tree, namespace, step=7)
    assert (again.outcome, again.bytes_sent) == ("already_committed", 0)

    told.clear()
    got = client.get(f"{namespace}@latest", tmp_path / "all", progress=told.append)
    assert got.checkpoint.step == 7 and got.checkpoint.labels == {"stage": "sft"}
    assert (tmp_path / "all" / "a.bin").read_bytes() == (tree / "a.bin").read_bytes()
    assert (tmp_path / "all" / "sub" / "b.txt").read_text() == "text\n"
    assert told[-1].bytes_done == (3 << 20) + 5
    kept = client.get(f"{namespace}@7", tmp_path / "all")
    assert (kept.files_kept, kept.bytes_fetched) == (2, 0)

    client.get(f"{namespace}@7", tmp_path / "some", names=["sub"])
    assert [one.name for one in (tmp_path / "some").iterdir()] == ["sub"]
    (tmp_path / "all" / "a.bin").write_bytes(b"other")
    with pytest.raises(cairn.ConflictError):
        client.get(f"{namespace}@7", tmp_path / "all")
    client.get(f"{namespace}@7", tmp_path / "all", overwrite=True)
    assert (tmp_path / "all" / "a.bin").read_bytes() == (tree / "a.bin").read_bytes()


def test_buffers_are_stored_as_they_are(client, namespace):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(300_000, dtype="float32").reshape(300, 1000)
    files = {"a": array, "b": bytearray(b"bb"), "c": memoryview(b"xccx")[1:3], "d/e": b""}
    client.put(files, f"{namespace}@1")
    checkpoint = client.checkpoint(f"{namespace}@1")
    assert checkpoint.files == {"a": 1_200_000, "b": 2, "c": 2, "d/e": 0}
    assert checkpoint.read("a") == array.tobytes()
    assert (checkpoint.read("c"), checkpoint.read("d/e")) == (b"cc", b"")
    with pytest.raises(ValueError, match="contiguous"):
        client.put({"a": array[:, ::2]}, f"{namespace}@2")
    with pytest.raises(TypeError):
        client.put({"a": 5}, f"{namespace}@2")
    with pytest.raises(cairn.InvalidError):
        client.put({"../a": b""}, f"{namespace}@2")
    # The buffer of a finished put is free again: a bytearray with exports cannot grow.
    gc.collect()
    files["b"].append(1)


def test_ranges_and_file_objects(client, namespace):
    data = noise(40 << 20, 2)
    client.put({"big": data, "text": "grüße\n".encode()}, f"{namespace}@1")
    checkpoint = client.checkpoint(f"{namespace}@1")
    assert checkpoint.read("big", 5, 9) == data[5:9]
    assert checkpoint.read("big", -7) == data[-7:]
    assert checkpoint.read("big", 9, 5) == b""
    ranges = [("big", at, at + 1000) for at in range(0, len(data), 1 << 20)]
    assert checkpoint.read_ranges(ranges) == [data[start:end] for _, start, end in ranges]
    room = bytearray(100)
    assert checkpoint.read_into("big", (40 << 20) - 50, room) == 50
    assert room[:50] == data[-50:]
    with pytest.raises(ValueError, match="read-only"):
        checkpoint.read_into("big", 0, b"12345")

    with checkpoint.open("big") as file:
        assert file.read() == data
        file.seek(-3, io.SEEK_END)
        assert file.read(10) == data[-3:]
        assert file.seek(33 << 20) == 33 << 20
        assert file.read(4) == data[33 << 20 : (33 << 20) + 4]
    with client.open(f"{namespace}@1", "text", "r") as file:
        assert file.read() == "grüße\n"
    with pytest.raises(FileNotFoundError):
        checkpoint.read("gone")
    with pytest.raises(FileNotFoundError):
        client.open(f"{namespace}@1", "gone")
    with pytest.raises(ValueError):
        checkpoint.open("big", "wb")


def test_open_checkpoint_stays_what_it_was(client, namespace):
    client.put({"f": b"one"}, f"{namespace}@1")
    checkpoint = client.checkpoint(f"{namespace}@latest")
    client.put({"f": b"two"}, f"{namespace}@2")
    assert checkpoint.read("f") == b"one"
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert copy.read("f") == b"one" and copy.info == checkpoint.info
    client.put({"f": b"three"}, f"{namespace}@1", replace=True)
    with pytest.raises(cairn.NotFoundError, match="replaced"):
        pickle.loads(pickle.dumps(checkpoint)).read("f")


def test_writer_commits_only_what_was_finished(client, namespace):
    data = noise(33 << 20, 3)
    with client.writer(f"{namespace}@1", "model.bin", labels={"a": "b"}) as file:
        for at in range(0, len(data), 5 << 20):
            file.write(memoryview(data)[at : at + (5 << 20)])
        assert file.tell() == len(data)
    assert file.report.outcome == "committed"
    assert client.checkpoint(f"{namespace}@1").read("model.bin") == data

    with pytest.raises(ZeroDivisionError):
        with client.writer(f"{namespace}@2", "model.bin") as file:
            file.write(b"half")
            1 / 0
    with client.writer(f"{namespace}@2", "model.bin") as file:
        file.write(b"half")
        file.discard()
    file = client.writer(f"{namespace}@2", "model.bin")
    file.write(b"half")
    file.close()
    assert client.latest(namespace).step == 1
    with pytest.raises(ValueError):
        file.write(b"more")
    # What was begun does not stand in the way.
    with client.writer(f"{namespace}@2", "model.bin") as file:
        file.write(b"whole")
    assert client.checkpoint(f"{namespace}@2").read("model.bin") == b"whole"


def test_parts_commit_together_and_a_lower_attempt_is_fenced(client, namespace):
    address = f"{namespace}@5"
    first = client.put({"a": b"0"}, address, part=0, parts=2, attempt=3)
    assert (first.outcome, first.parts_sealed, first.parts) == ("sealed", 1, 2)
    assert client.latest(namespace) is None
    (upload,) = client.ls(namespace, open=True)
    assert (upload.state, upload.parts_missing) == ("open", 1)
    with pytest.raises(cairn.FencedError) as caught:
        client.put({"b": b"1"}, address, part=1, parts=2, attempt=2)
    assert isinstance(caught.value, cairn.ConflictError) and not caught.value.is_retryable
    assert "attempt 3" in str(caught.value) and caught.value.hint
    last = client.put({"b": b"1"}, address, part=1, parts=2, attempt=3)
    assert last.outcome == "committed"
    assert set(client.checkpoint(address).files) == {"a", "b"}


def test_refs_annotations_and_listing(client, namespace):
    for step in (1, 2, 3):
        client.put({"f": b"%d" % step}, namespace, step=step)
    assert [one.step for one in client.ls(namespace)] == [1, 2, 3]
    assert [one.step for one in client.ls(namespace, limit=2)] == [1, 2]
    assert client.latest(namespace).step == 3 and client.show(f"{namespace}@latest~2").step == 1
    info = client.annotate(f"{namespace}@2", labels={"eval": "done"}, metrics={"loss": 0.5})
    assert (info.labels, info.metrics) == ({"eval": "done"}, {"loss": 0.5})
    client.annotate(f"{namespace}@3", metrics={"loss": 0.75})
    assert client.show(f"{namespace}@best:loss:min").step == 2
    assert client.annotate(f"{namespace}@2", remove=["eval"]).labels == {}
    with pytest.raises(cairn.InvalidError, match="finite"):
        client.annotate(f"{namespace}@2", metrics={"loss": float("nan")})

    client.set_ref("prod", f"{namespace}@1", expect=0)
    refs = client.refs(namespace)
    assert (refs["prod"].step, refs["prod"].by) == (1, cairn._launcher.user())
    with pytest.raises(cairn.ConflictError):
        client.set_ref("prod", f"{namespace}@2", expect=0)
    client.set_ref("prod", f"{namespace}@2", expect=refs["prod"].generation)
    assert client.show(f"{namespace}@prod").refs == ["prod"]
    with pytest.raises(cairn.ConflictError, match="prod"):
        client.rm(f"{namespace}@2")
    client.remove_ref(namespace, "prod")
    assert client.refs(namespace) == {}


def test_delete_and_undelete(client, namespace):
    client.put({"f": b"1"}, namespace, step=1)
    client.rm(f"{namespace}@1")
    with pytest.raises(cairn.NotFoundError):
        client.show(f"{namespace}@1")
    (gone,) = client.ls(namespace, deleted=True)
    assert (gone.state, gone.deleted) == ("deleted", "asked")
    assert client.undelete(namespace, 1).state == "committed"
    client.put({"f": b"2"}, namespace, step=2, part=0, parts=2, attempt=1)
    client.abort(namespace, 2)
    assert [one.step for one in client.ls(namespace, open=True)] == [1]


def test_wait_and_watch(client, namespace):
    watch = client.watch(namespace)
    told = next(watch)
    while told.told != "seam":
        told = next(watch)
    with pytest.raises(cairn.DeadlineError):
        client.wait(f"{namespace}@1", timeout=0.3)
    later = threading.Timer(0.3, lambda: client.put({"f": b"1"}, namespace, step=1))
    later.start()
    assert client.wait(f"{namespace}@1", full=True, timeout=60).is_full
    later.join()
    while told.event != "committed":
        told = next(watch)
    assert (told.namespace, told.step) == (namespace, 1)
    after = next(told for told in client.watch(namespace, cursor=told.cursor) if told.event)
    assert after.event == "full"


def test_errors_are_builtin_ones_and_pickle(client, namespace):
    client.put({"f": b"1"}, namespace, step=1)
    with pytest.raises(FileExistsError) as caught:
        client.put({"f": b"2"}, namespace, step=1)
    assert isinstance(caught.value, cairn.StepExistsError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is cairn.StepExistsError and str(copy) == str(caught.value)
    with pytest.raises(FileNotFoundError):
        client.put("/nowhere/at/all", namespace, step=2)
    with pytest.raises(ValueError, match="malformed"):
        client.show("no address")
    with pytest.raises(ValueError, match="names no step"):
        client.put({"f": b"1"}, f"{namespace}@latest")
    with pytest.raises(ValueError, match="twice"):
        client.put({"f": b"1"}, f"{namespace}@1", step=1)
    with pytest.raises(ValueError, match="wait is"):
        client.put({"f": b"1"}, f"{namespace}@2", wait="soon")
    with pytest.raises(cairn.InvalidError, match="no key"):
        cairn.Client("192.0.2.1").status()
    before = time.monotonic()
    with pytest.raises(ConnectionError):
        cairn.Client("127.0.0.1:9", timeout=0.5).status()
    assert time.monotonic() - before < 20


def test_error_in_the_progress_callback_ends_the_put(client, namespace):
    def fail(progress):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.put({"big": noise(64 << 20, 4)}, namespace, step=1, progress=fail)


def test_interrupt_ends_a_call(client, namespace):
    # A program that a shell started in the background ignores SIGINT until it says otherwise.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.wait(f"{namespace}@1", timeout=60)
        assert time.monotonic() - before < 20
    finally:
        signal.signal(signal.SIGINT, handler)


def test_other_threads_run_during_a_call(client, namespace):
    ticks = 0
    stop = threading.Event()

    def tick():
        nonlocal ticks
        while not stop.wait(0.01):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(cairn.DeadlineError):
        client.wait(f"{namespace}@1", timeout=1)
    stop.set()
    thread.join()
    assert ticks > 5
