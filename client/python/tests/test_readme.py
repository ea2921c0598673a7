"""The guide, as a user who copies it sees it: each example in order, in a directory of its own."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(program, directory, code=0):
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=directory, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == code, f"{program}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_save_and_load(cluster, tmp_path):
    said = run(EXAMPLES[0], tmp_path)
    assert said.startswith("committed ") and "b'weig'" in said
    assert (tmp_path / "restored" / "model.bin").read_bytes() == b"weights"


def test_killed_run_resumes(cluster, client, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    program = EXAMPLES[1]
    save = "    dcp.save("
    assert save in program
    # Killed before the save of step 3.
    killed = program.replace(save, f"    step == 3 and os._exit(9)\n{save}")
    run(f"import os\n{killed}", tmp_path, code=9)
    assert client.latest("team/toy").step == 2
    said = run(program.replace(save, f"    print(step)\n{save}"), tmp_path)
    assert said.split() == ["3", "4", "5"]
    assert client.show("team/toy@best:loss:min").metrics["loss"] >= 0


def test_addresses_for_other_libraries(cluster, client, tmp_path):
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    client.put({"config.json": b"{}"}, "team/run7", step=1001)
    assert run(EXAMPLES[2], tmp_path) == "b'{}'\n"


def test_parts_of_tensors(cluster, client, tmp_path):
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    from test_safetensors import file_of

    array = numpy.arange(40, dtype="float32").reshape(20, 2)
    stored = file_of({"model.embed.weight": ("F32", array)})
    client.put({"model.safetensors": stored}, "team/run7", step=1002)
    assert run(EXAMPLES[3], tmp_path).strip().endswith("[18. 19.]]")


def test_command_line_is_in_the_package(cluster):
    command = os.path.join(os.path.dirname(sys.executable), "cairn")
    ran = subprocess.run([command, "ls", "--json"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and '"checkpoints"' in ran.stdout


def test_every_example_is_tried():
    assert len(EXAMPLES) == 4
    assert all("import" in one for one in EXAMPLES)
    assert not re.search(r"```(?!python\n|\n)", README.read_text())
