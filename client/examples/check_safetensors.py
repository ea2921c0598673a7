#!/usr/bin/env python3
"""Loads the safetensors files of a directory and compares each tensor with what it was.

    check_safetensors.py --write expected.json DIRECTORY     once, where the model is known to be good
    check_safetensors.py expected.json DIRECTORY             in a drill:

    cairn drill llama/pretrain --lose rack=a --check "check_safetensors.py /srv/expected.json ."

It needs nothing but Python. A check of your own would load the model and compare its outputs for a
fixed prompt; it ends with code 0 if all is well, as this one does.
"""

import hashlib
import json
import pathlib
import struct
import sys

# Bytes of one element; types of four or six bits are left out.
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}


def tensors(path):
    """Name, type, shape and SHA-256 of each tensor; an error for a file that is not whole."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("the file is too short")
        (length,) = struct.unpack("<Q", head)
        if length > size - 8:
            raise ValueError(f"the header says {length} bytes, the file has {size}")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end_before = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            count = 1
            for dimension in entry["shape"]:
                count *= dimension
            width = SIZES.get(entry["dtype"])
            if width is not None and count * width != end - start:
                raise ValueError(f"{name}: shape and bytes do not match")
            if start != end_before:
                raise ValueError(f"{name}: begins at {start}, not at {end_before}")
            digest = hashlib.sha256()
            file.seek(8 + length + start)
            left = end - start
            while left:
                piece = file.read(min(left, 1 << 20))
                if not piece:
                    raise ValueError(f"{name}: the file ends in it")
                digest.update(piece)
                left -= len(piece)
            end_before = end
            yield name, [entry["dtype"], entry["shape"], digest.hexdigest()]
        if 8 + length + end_before != size:
            raise ValueError("there are bytes behind the last tensor")


def directory(root):
    found = {}
    for path in sorted(pathlib.Path(root).rglob("*.safetensors")):
        name = str(path.relative_to(root))
        try:
            found[name] = dict(tensors(path))
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(f"{name}: {error}")
    if not found:
        sys.exit(f"no safetensors file in {root}")
    return found


def main():
    arguments = sys.argv[1:]
    if len(arguments) == 3 and arguments[0] == "--write":
        pathlib.Path(arguments[1]).write_text(json.dumps(directory(arguments[2]), indent=1))
        return
    if len(arguments) != 2:
        sys.exit(__doc__)
    expected = json.loads(pathlib.Path(arguments[0]).read_text())
    found = directory(arguments[1])
    problems = []
    for file in sorted(expected.keys() | found.keys()):
        old, new = expected.get(file, {}), found.get(file, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                problems.append(f"{file}: {name} differs")
    if problems:
        sys.exit("\n".join(problems))
    print(sum(len(of_file) for of_file in found.values()), "tensors are what they were")


main()
