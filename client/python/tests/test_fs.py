"""`cairn://` addresses through fsspec."""

import pickle

import pytest
from conftest import noise

import cairn
from cairn._places import Place, place_of

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

BIG = noise(9 << 20, 1)


@pytest.fixture
def fs(cluster):
    return fsspec.filesystem("cairn", endpoints=cluster.endpoints)


@pytest.fixture
def run(client, namespace):
    client.put({"big": BIG, "sub/a": b"a", "sub/deep/b": b"bb"}, namespace, step=1000)
    return namespace


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("", ("", None, "")),
        ("run", ("run", None, "")),
        ("team/run", ("team/run", None, "")),
        ("run/7", ("run", "7", "")),
        ("team/run/step-7/a/b", ("team/run", "7", "a/b")),
        ("run/checkpoint-7/a", ("run", "7", "a")),
        ("run/global_step0007/3/a", ("run", "7", "3/a")),
        ("run/iter_0007", ("run", "7", "")),
        ("run/@latest/a", ("run", "latest", "a")),
        ("run@latest/a", ("run", "latest", "a")),
        ("run/2/@7/a", ("run", "2", "@7/a")),
        ("run/steps/a", ("run/steps/a", None, "")),
        ("7/a", ("7/a", None, "")),
    ],
)
def test_paths(path, place):
    assert place_of(path) == Place(*place)


def test_files_are_found_in_every_spelling(fs, run, client):
    client.set_ref("prod", f"{run}@1000")
    for step in ("@1000", "1000", "step-1000", "checkpoint-1000", "@latest", "@prod"):
        assert fs.cat_file(f"cairn://{run}/{step}/sub/a") == b"a"
    assert fs.cat_file(f"cairn://{run}@latest/sub/deep/b") == b"bb"
    with fsspec.open(f"cairn://{run}/@latest/big", "rb") as file:
        assert file.read() == BIG
        file.seek(-5, 2)
        assert file.read() == BIG[-5:]
    with fsspec.open(f"cairn://{run}/@latest/sub/a", "r") as file:
        assert file.read() == "a"


def test_listing(fs, run, client):
    client.put({"f": b"1"}, f"{run}/below", step=5)
    top = run.split("/")[0]
    assert top in fs.ls("cairn://", detail=False)
    assert fs.ls(top, detail=False) == [run]
    assert sorted(fs.ls(run, detail=False)) == [f"{run}/below", f"{run}/step-1000"]
    step = f"{run}/step-1000"
    assert sorted(fs.ls(step, detail=False)) == [f"{step}/big", f"{step}/sub"]
    assert fs.find(step) == [f"{step}/big", f"{step}/sub/a", f"{step}/sub/deep/b"]
    assert fs.glob(f"cairn://{run}/*/sub/*") == [f"{step}/sub/a", f"{step}/sub/deep"]
    assert fs.isdir(step) and fs.isdir(f"{step}/sub") and fs.isfile(f"{step}/big")
    assert not fs.exists(f"{step}/gone") and not fs.exists(f"{run}/step-1")
    assert not fs.exists(f"{run}/nothing") and fs.exists(run)
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{run}/nothing")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{step}/gone")
    assert fs.du(step) == len(BIG) + 3


def test_info_has_step_digest_and_durability(fs, run, client):
    info = fs.info(f"cairn://{run}/@latest/big")
    assert (info["size"], info["type"], info["step"]) == (len(BIG), "file", 1000)
    assert info["replicas_wanted"] == 3 and info["replicas_min"] >= 2
    client.put({"again": BIG}, run, step=1001)
    assert fs.info(f"{run}/1001/again")["digest"] == info["digest"]
    assert fs.info(f"{run}/1000/sub/a")["digest"] != info["digest"]
    assert fs.checksum(f"{run}/1001/again") == fs.checksum(f"{run}/1000/big")
    client.put({"again": b"other"}, run, step=1001, replace=True)
    assert fs.cat_file(f"{run}/1001/again") == b"other"
    assert fs.modified(f"{run}/1000").timestamp() > 1_700_000_000
    with pytest.raises(FileNotFoundError):
        fs.info(f"{run}/7")


def test_ranges(fs, run):
    path, other = f"{run}/1000/big", f"{run}/1000/sub/a"
    assert fs.cat_file(path, 5, 9) == BIG[5:9]
    assert fs.cat_file(path, -9) == BIG[-9:]
    starts = list(range(0, len(BIG), 100_000))
    ends = [start + 77 for start in starts]
    found = fs.cat_ranges([path] * len(starts), starts, ends)
    assert found == [BIG[start:end] for start, end in zip(starts, ends)]
    assert fs.cat_ranges([path, other], 0, 1) == [BIG[:1], b"a"]
    good, bad = fs.cat_ranges([other, f"{run}/1000/gone"], [0, 0], [1, 1])
    assert good == b"a" and isinstance(bad, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([other, f"{run}/1000/gone"], 0, 1, on_error="raise")
    assert fs.cat([path, other]) == {path: BIG, other: b"a"}


def test_download_and_pickle(fs, run, tmp_path):
    fs.get(f"cairn://{run}/1000/", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got" / "sub" / "deep" / "b").read_bytes() == b"bb"
    copy = pickle.loads(pickle.dumps(fs))
    assert copy.cat_file(f"{run}/1000/sub/a") == b"a"


def test_it_is_read_only(fs, run):
    for work in (
        lambda: fs.open(f"{run}/7/a", "wb"),
        lambda: fs.pipe_file(f"{run}/7/a", b"a"),
        lambda: fs.rm(f"{run}/1000/sub/a"),
        lambda: fs.makedirs(f"{run}/7"),
        lambda: fs.copy(f"{run}/1000/sub/a", f"{run}/1000/sub/c"),
    ):
        with pytest.raises(OSError, match="read-only"):
            work()


def test_pandas_reads_a_table(client, namespace, cluster):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    client.put({"t.csv": b"a,b\n1,2\n"}, namespace, step=1)
    options = {"endpoints": cluster.endpoints}
    table = pandas.read_csv(f"cairn://{namespace}/@latest/t.csv", storage_options=options)
    assert table.to_dict("list") == {"a": [1], "b": [2]}


def test_error_is_that_of_the_cluster(run):
    fs = fsspec.filesystem("cairn", endpoints="127.0.0.1:9", timeout=0.5)
    with pytest.raises(cairn.UnavailableError):
        fs.ls(run)
