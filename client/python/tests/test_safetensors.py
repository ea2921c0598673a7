"""Parts of tensors, compared with the safetensors library where it is there."""

import json
import struct

import pytest

import cairn
import cairn.safetensors

numpy = pytest.importorskip("numpy", reason="numpy is not installed")


def file_of(tensors, metadata=None):
    """The bytes of a safetensors file, as its specification says."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, array) in tensors.items():
        raw = array.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


W = numpy.arange(6_000_000, dtype="float32").reshape(3000, 2000)
B = numpy.arange(7, dtype="int64")
SCALAR = numpy.array(2.5)


@pytest.fixture
def stored(client, namespace):
    first = file_of({"w": ("F32", W), "s": ("F64", SCALAR)}, {"format": "pt"})
    second = file_of({"b": ("I64", B), "e": ("F32", numpy.zeros((0, 4), "float32"))})
    files = {"m-1.safetensors": first, "m-2.safetensors": second, "config.json": b"{}"}
    client.put(files, namespace, step=1)
    return namespace


def test_slices_equal_those_of_the_array(stored, client):
    tensors = cairn.safetensors.open(f"{stored}@latest", client=client)
    assert list(tensors) == ["b", "e", "s", "w"]
    assert tensors.metadata["m-1.safetensors"] == {"format": "pt"}
    w = tensors["w"]
    assert (w.shape, w.dtype, w.file, len(w)) == ((3000, 2000), "F32", "m-1.safetensors", 3000)
    for index in (
        slice(0, 10),
        slice(None),
        slice(-3, None),
        slice(5, 50, 7),
        slice(9, 3),
        5,
        -1,
        (3, 4),
        (slice(10, 20), slice(5, 9)),
        (slice(10, 20), 3),
        (..., 3),
        (7, ...),
    ):
        assert numpy.array_equal(w[index], W[index]), index
    assert numpy.array_equal(w.read(), W)
    assert w.raw(1, 3) == W[1:3].tobytes()
    assert numpy.array_equal(tensors["b"][2:4], B[2:4])
    assert tensors["s"][()] == 2.5 and tensors["s"].read().shape == ()
    assert tensors["e"].read().shape == (0, 4)
    with pytest.raises(IndexError):
        w[3000]
    with pytest.raises(cairn.InvalidError, match="negative step"):
        w[::-1]
    with pytest.raises(KeyError):
        tensors["gone"]


def test_slice_fetches_only_the_rows_it_needs(stored, client):
    tensors = cairn.safetensors.open(f"{stored}@latest", client=client)
    asked = []
    read = tensors.checkpoint.read
    tensors.checkpoint.read = lambda name, start, end: asked.append(end - start) or read(name, start, end)
    tensors["w"][0:10]
    assert asked == [10 * 2000 * 4]


def test_pytorch_tensors(client, namespace):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = torch.arange(24, dtype=torch.bfloat16).reshape(6, 4)
    raw = values.view(torch.uint8).numpy().reshape(6, 8)
    stored = file_of({"h": ("BF16", raw)})
    # Its shape is that of the bytes: write it as bfloat16.
    stored = stored.replace(b'"shape": [6, 8]', b'"shape": [6, 4]')
    client.put({"m.safetensors": stored}, namespace, step=1)
    opened = cairn.safetensors.open(f"{namespace}@1", framework="pt", client=client)
    assert torch.equal(opened["h"][2:4], values[2:4])
    with pytest.raises(cairn.InvalidError, match="NumPy"):
        cairn.safetensors.open(f"{namespace}@1", client=client)["h"].read()


def test_library_writes_what_is_read(client, namespace):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    tensors = {"a": W[:100].copy(), "b": B}
    client.put({"m.safetensors": library.save(tensors)}, namespace, step=1)
    opened = cairn.safetensors.open(f"{namespace}@1", client=client)
    for name, array in tensors.items():
        assert numpy.array_equal(opened[name].read(), array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{x}",
        file_of({"a": ("F32", B)}),
        file_of({"a": ("Q9", B)}),
        file_of({"a": ("I64", B)})[:-1],
        file_of({"a": ("I64", B)}).replace(b"[7]", b"[8]"),
        file_of({"a": ("I64", B)}).replace(b"[0, 56]", b"[9, 65]"),
        file_of({"a": ("I64", B)}).replace(b"[0, 56]", b"[-8,48]"),
        file_of({"a": ("I64", B)}).replace(b'"shape": [7]', b'"shape": 777'),
    ],
)
def test_bad_header_is_an_error(client, namespace, data):
    client.put({"m.safetensors": data}, namespace, step=1)
    with pytest.raises(cairn.DamagedError, match="m.safetensors"):
        cairn.safetensors.open(f"{namespace}@1", client=client)


def test_what_is_not_there(client, namespace):
    client.put({"f": b"1"}, namespace, step=1)
    with pytest.raises(cairn.NotFoundError, match="no safetensors"):
        cairn.safetensors.open(f"{namespace}@1", client=client)
    same = file_of({"a": ("I64", B)})
    client.put({"x.safetensors": same, "y.safetensors": same}, namespace, step=2)
    with pytest.raises(cairn.InvalidError, match="name one file"):
        cairn.safetensors.open(f"{namespace}@2", client=client)
    assert len(cairn.safetensors.open(f"{namespace}@2", "y.safetensors", client=client)) == 1
