"""Packs a wheel from what cargo has built already: `pack.py BUILT OUT`.

    BUILT/lib_cairn.so   the extension module     --> cairn/_cairn.abi3.so
    BUILT/cairn          the command line         --> bin/cairn
    python/cairn, pyproject.toml                  --> the package and its metadata

maturin would build all crates again with other features, and without the command line. The tests need the wheel
of the build that they test.
"""

import base64
import hashlib
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile

HERE = pathlib.Path(__file__).resolve().parent


def main(built: pathlib.Path, out: pathlib.Path) -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    workspace = tomllib.loads((HERE.parent.parent / "Cargo.toml").read_text())
    version = workspace["workspace"]["package"]["version"]
    name = project["name"].replace("-", "_")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    tag = f"cp311-abi3-{platform}"
    info = f"{name}-{version}.dist-info"
    files = {
        f"cairn/{path.relative_to(HERE / 'python' / 'cairn')}": path.read_bytes()
        for path in sorted((HERE / "python" / "cairn").rglob("*"))
        if path.suffix in (".py", ".pyi", ".typed")
    }
    files["cairn/_cairn.abi3.so"] = stripped(built / "lib_cairn.so")
    script = f"{name}-{version}.data/scripts/cairn"
    files[script] = stripped(built / "cairn")
    files[f"{info}/METADATA"] = metadata(project, version).encode()
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: cairn\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    files[f"{info}/entry_points.txt"] = entry_points(project).encode()
    record = f"{info}/RECORD"
    lines = [f"{path},sha256={digest(data)},{len(data)}" for path, data in files.items()]
    files[record] = ("\n".join([*lines, f"{record},,"]) + "\n").encode()
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"{name}-{version}-{tag}.whl"
    # A test installs it at once: speed counts more than size.
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if path == script else 0o100644) << 16
            archive.writestr(entry, data, compresslevel=1)
    print(wheel)


def stripped(path: pathlib.Path) -> bytes:
    if shutil.which("strip") is None:
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory, "stripped")
        subprocess.run(["strip", "-o", copy, path], check=True)
        return copy.read_bytes()


def metadata(project: dict, version: str) -> str:
    lines = [
        "Metadata-Version: 2.3",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"License: {project['license']['text']}",
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown; charset=UTF-8",
        *(f"Classifier: {one}" for one in project["classifiers"]),
    ]
    for extra, requirements in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {one} ; extra == '{extra}'" for one in requirements]
    return "\n".join(lines) + "\n\n" + (HERE / project["readme"]).read_text()


def entry_points(project: dict) -> str:
    groups = project["entry-points"].items()
    text = [
        "\n".join([f"[{group}]", *(f"{name}={to}" for name, to in entries.items())])
        for group, entries in groups
    ]
    return "\n\n".join(text) + "\n"


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
