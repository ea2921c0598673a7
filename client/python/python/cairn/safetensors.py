"""Parts of tensors in safetensors files, without downloading the files.

>>> tensors = cairn.safetensors.open("team/run7@latest")
>>> tensors["model.embed.weight"][0:10]

A slice of rows fetches only the blocks of 1 MiB that hold them, and verifies them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .client import Client
from .errors import DamagedError, InvalidError, NotFoundError
from .files import Checkpoint

__all__ = ["Tensor", "Tensors", "open"]

#: The same limit as that of the safetensors library.
_HEADER_BYTES_MAX = 100_000_000
#: Read at first: the whole header of most files.
_HEADER_GUESS_BYTES = 256 << 10

#: Bits of an element, and the names of the type in NumPy (None: it has none) and in PyTorch.
_TYPES: dict[str, tuple[int, str | None, str | None]] = {
    "BOOL": (8, "?", "bool"),
    "U8": (8, "u1", "uint8"),
    "I8": (8, "i1", "int8"),
    "F8_E5M2": (8, None, "float8_e5m2"),
    "F8_E4M3": (8, None, "float8_e4m3fn"),
    "U16": (16, "<u2", "uint16"),
    "I16": (16, "<i2", "int16"),
    "F16": (16, "<f2", "float16"),
    "BF16": (16, None, "bfloat16"),
    "U32": (32, "<u4", "uint32"),
    "I32": (32, "<i4", "int32"),
    "F32": (32, "<f4", "float32"),
    "U64": (64, "<u8", "uint64"),
    "I64": (64, "<i8", "int64"),
    "F64": (64, "<f8", "float64"),
    "C64": (64, "<c8", "complex64"),
}


def open(
    address: str,
    file: str | None = None,
    *,
    framework: str = "np",
    client: Client | None = None,
    quarantined: bool = False,
) -> Tensors:
    """Opens the tensors of a checkpoint, by name.

    Args:
        address: Such as ``run@latest``.
        file: Only those of this file. By default those of all ``*.safetensors`` files.
        framework: "np" for NumPy arrays, "pt" for PyTorch tensors. NumPy has no type for bfloat16 and
            float8; their bytes are there as `Tensor.raw`.
        client: The `cairn.Client`; by default one from the environment.

    Raises:
        NotFoundError: There is no such checkpoint, or no such file in it.
        DamagedError: A header is not one of safetensors.
    """
    checkpoint = (client or Client()).checkpoint(address, quarantined=quarantined)
    return Tensors(checkpoint, file, framework)


class _Place(NamedTuple):
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Tensors(Mapping[str, "Tensor"]):
    """The tensors of a checkpoint, by name, in order of their names."""

    def __init__(self, checkpoint: Checkpoint, file: str | None, framework: str) -> None:
        if framework not in ("np", "pt"):
            raise InvalidError(f"framework is {framework!r}: expected 'np' or 'pt'")
        #: The `cairn.Checkpoint` they are in.
        self.checkpoint = checkpoint
        self.framework = framework
        #: The metadata of each file, texts by name.
        self.metadata: dict[str, dict[str, str]] = {}
        self._places: dict[str, _Place] = {}
        files = [name for name in checkpoint.files if name.endswith(".safetensors")]
        if file is not None:
            files = [file]
        if not files:
            raise NotFoundError(f"{checkpoint.info.address} has no safetensors file")
        found: dict[str, _Place] = {}
        for name in files:
            for tensor, place in self._header(name).items():
                if tensor in found:
                    raise InvalidError(
                        f"{tensor} is in {found[tensor].file} and in {name}", "name one file"
                    )
                found[tensor] = place
        self._places = dict(sorted(found.items()))

    def __getitem__(self, name: str) -> Tensor:
        return Tensor(self, name, self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _header(self, name: str) -> dict[str, _Place]:
        def bad(problem: str) -> DamagedError:
            return DamagedError(f"{name} of {self.checkpoint.info.address}: {problem}")

        first = self.checkpoint.read(name, 0, _HEADER_GUESS_BYTES)
        size = self.checkpoint.files[name]
        if len(first) < 8:
            raise bad("too short for a safetensors file")
        (length,) = struct.unpack("<Q", first[:8])
        if length > min(_HEADER_BYTES_MAX, size - 8):
            raise bad(f"a header of {length} bytes in a file of {size}")
        text = first[8 : 8 + length]
        if len(text) < length:
            text += self.checkpoint.read(name, 8 + len(text), 8 + length)
        try:
            header = json.loads(text)
            self.metadata[name] = dict(header.pop("__metadata__", None) or {})
            places = {
                tensor: _Place(
                    name,
                    str(entry["dtype"]),
                    tuple(int(length) for length in entry["shape"]),
                    8 + length + int(entry["data_offsets"][0]),
                    8 + length + int(entry["data_offsets"][1]),
                )
                for tensor, entry in header.items()
            }
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise bad(f"malformed header: {error}") from error
        for tensor, place in places.items():
            if place.dtype not in _TYPES:
                raise bad(f"{tensor} has the unknown type {place.dtype}")
            bits = _TYPES[place.dtype][0] * math.prod(place.shape)
            is_right = min(place.shape, default=0) >= 0 and bits == 8 * (place.end - place.start)
            if not is_right or not 8 + length <= place.start <= place.end <= size:
                raise bad(f"{tensor} does not lie where it should")
        return places


class Tensor:
    """A tensor in the cluster. ``[...]`` reads a part of it, as of an array; `read` reads all of it."""

    def __init__(self, tensors: Tensors, name: str, place: _Place) -> None:
        self._tensors = tensors
        self.name = name
        self._place = place

    @property
    def file(self) -> str:
        """The file it is in."""
        return self._place.file

    @property
    def dtype(self) -> str:
        """The type as safetensors names it, such as "F32"."""
        return self._place.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._place.shape

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<cairn.safetensors.Tensor {self.name} {self.dtype} {list(self.shape)}>"

    def read(self) -> Any:
        """All of it, as an array or a tensor of the framework."""
        return self._made(self.raw(), self.shape)

    def raw(self, start: int = 0, end: int | None = None) -> bytes:
        """Rows `start` to `end`, as they are stored."""
        if not self.shape:
            return self._rows(0, 1)
        start, end, _ = slice(start, end).indices(self.shape[0])
        return self._rows(start, max(start, end))

    def __getitem__(self, index: Any) -> Any:
        """Integers, slices and ``...``. The rows between the first and the last one that the first
        index selects are read, and nothing else of the tensor.
        """
        indices = index if isinstance(index, tuple) else (index,)
        if not self.shape or not indices or indices[0] is Ellipsis:
            return self.read()[index]
        first, rest = indices[0], indices[1:]
        count = self.shape[0]
        if isinstance(first, slice):
            rows = range(count)[first]
            low, high = (min(rows), max(rows) + 1) if rows else (0, 0)
            within: Any = slice(None)
            if rows.step != 1 and rows:
                if rows.step < 0:
                    raise InvalidError("a negative step is not supported: reverse what was read")
                within = slice(None, None, rows.step)
        else:
            try:
                low = range(count)[first]
            except IndexError:
                raise IndexError(f"row {first} of {count} rows of {self.name}") from None
            high, within = low + 1, 0
        part = self._made(self._rows(low, high), (high - low, *self.shape[1:]))
        return part[(within, *rest)]

    def _rows(self, low: int, high: int) -> bytes:
        place = self._place
        row = (place.end - place.start) // max(1, self.shape[0] if self.shape else 1)
        start = place.start + low * row
        return self._tensors.checkpoint.read(place.file, start, place.start + high * row)

    def _made(self, data: bytes, shape: tuple[int, ...]) -> Any:
        _, numpy_type, torch_type = _TYPES[self.dtype]
        if self._tensors.framework == "np":
            if numpy_type is None:
                raise InvalidError(
                    f"{self.name} is {self.dtype}, which NumPy does not have",
                    'open with framework="pt", or read its raw bytes',
                )
            import numpy

            return numpy.frombuffer(data, dtype=numpy_type).reshape(shape)
        import torch

        dtype = getattr(torch, torch_type or "", None)
        if dtype is None:
            raise InvalidError(f"{self.name} is {self.dtype}, which this PyTorch does not have")
        if not data:
            return torch.empty(shape, dtype=dtype)
        # A bytearray, so that the tensor may be written to.
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
