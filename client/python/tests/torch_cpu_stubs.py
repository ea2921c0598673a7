"""Empty stand-ins for the CUDA libraries that PyPI's PyTorch links to: `torch_cpu_stubs.py LIBDIR`.

With them it loads on a machine without the 3 GB of those libraries. They are for tests on a CPU, which call
none of their functions. Needs gcc and binutils.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

SYSTEM = re.compile(r"lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|gomp)[.]|ld-linux")
CUDA = re.compile(
    r"_*cuda|cu[A-Z]|cu(blas|dnn|fft|rand|sparse|solver|pti|File|file)|p?nccl|nv(rtc|shmem|Jit|ml|tx)"
)


def said(*command: object) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wanted(directory: pathlib.Path) -> dict[str, dict[str, list[str]]]:
    """By missing library, the versions and symbols that are wanted of it."""
    needed: dict[str, None] = {}
    undefined: dict[str, str] = {}
    defined: set[str] = set()
    library_of: dict[str, str] = {}
    for path in sorted(directory.iterdir()):
        if ".so" not in path.name or path.is_dir() or path.is_symlink():
            continue
        for match in re.finditer(r"NEEDED.*\[(.*)\]", said("readelf", "-dW", path)):
            needed[match[1]] = None
        library = None
        for line in said("readelf", "-VW", path).splitlines():
            if match := re.search(r"Version: 1\s+File: (\S+)", line):
                library = match[1]
            elif (match := re.search(r"Name: (\S+)\s+Flags", line)) and library:
                library_of[match[1]] = library
        for line in said("nm", "-D", path).splitlines():
            *_, kind, name = line.split()
            name, _, version = name.partition("@")
            if kind in "Uw":
                undefined[name] = version.strip("@")
            else:
                defined.add(name)
    missing = [name for name in needed if not (directory / name).exists() and not SYSTEM.match(name)]
    found: dict[str, dict[str, list[str]]] = {name: {} for name in missing}
    # What names no version is looked for everywhere: any library will do.
    runtime = next((name for name in missing if name.startswith("libcudart")), None)
    for name, version in undefined.items():
        library = library_of.get(version)
        if name in defined or not (CUDA.match(name) or library in found):
            continue
        library = library if library in found else runtime
        if library is not None:
            found[library].setdefault(version, []).append(name)
    return found


def make(path: pathlib.Path, versions: dict[str, list[str]]) -> None:
    """Functions that return an error, under the versions that the dynamic linker checks."""
    # What registers kernels as it is loaded must succeed.
    lines = [
        f"int {name}(void) {{ return {0 if name.startswith('__cuda') else 100}; }}"
        for names in versions.values()
        for name in names
    ]
    script = [
        f"{version or 'ANY'} {{ global: {' '.join(f'{name};' for name in names)} }};"
        for version, names in sorted(versions.items())
    ]
    with tempfile.TemporaryDirectory() as directory:
        source, map_file = pathlib.Path(directory, "stub.c"), pathlib.Path(directory, "stub.map")
        source.write_text("\n".join(lines))
        map_file.write_text("\n".join(script or ["ANY { local: *; };"]))
        flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}"]
        flags.append(f"-Wl,--version-script={map_file}")
        subprocess.run(["gcc", *flags, "-o", path, source], check=True)


def main(directory: pathlib.Path) -> None:
    found = wanted(directory)
    for library, versions in found.items():
        make(directory / library, versions)


if __name__ == "__main__":
    main(pathlib.Path(os.path.abspath(sys.argv[1])))
