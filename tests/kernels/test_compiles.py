"""What the interpreter does not see: that the kernels compile for GPUs, which need not be there, and to what."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.last_record import hold_to_the_last_record
from support.paths import ROOT

pytestmark = pytest.mark.medium

pytest.importorskip("triton", reason="Triton is not installed")

RESIDENT = {  # programs that a multiprocessor of an H100 holds at least, with Triton 3.6 and 3.9; see kernels/README.md
    ("loss", 1000): 32, ("gradient", 1000): 18, ("both", 1000): 23,
    ("loss", 3000): 32, ("gradient", 3000): 18, ("both", 3000): 18,
    ("loss", 8144): 8, ("gradient", 8144): 4, ("both", 8144): 8,
    ("loss", 32568): 8, ("gradient", 32568): 4, ("both", 32568): 2,
}  # fmt: skip


def compile_in(folder: Path, *command: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    compiling = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": path}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=os.environ | compiling, capture_output=True, text=True, timeout=300)


def test_every_variant_compiles_for_gpus(tmp_path):
    done = compile_in(tmp_path, Path(__file__).with_name("compile_for_gpu.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compiled") == 4 * (4 + 3)


@pytest.fixture(scope="module")
def machine_code(tmp_path_factory) -> Path:
    """Records of the kernels' machine code on an H100."""
    folder = tmp_path_factory.mktemp("sass")
    done = compile_in(folder, ROOT / "bench" / "run.py", "sass", "--quick", "--results", folder)
    assert done.returncode == 0, done.stderr
    return folder / "sass-nvidia-h100-80gb-hbm3.jsonl"


def test_machine_code_keeps_its_line(machine_code):
    records = {(r["pass"], r["C"]): r for r in map(json.loads, machine_code.read_text().splitlines())}
    assert records.keys() == RESIDENT.keys()
    assert {case: r["narrowest"] for case, r in records.items()} == dict.fromkeys(RESIDENT, 16)
    assert all(r["single"] <= r["shape"][0] for r in records.values())  # the logit of each row's label
    assert {case: r["spills"] for case, r in records.items()} == dict.fromkeys(RESIDENT, 0)
    fewer = {case: r["resident"] for case, r in records.items() if r["resident"] < RESIDENT[case]}
    assert not fewer
    found = [r["predicted/measured"] for r in records.values() if "measured_ms" in r]
    assert all(0.75 < ratio < 1.35 for ratio in found)  # see bench/harness/gpu_model.py


def test_machine_code_got_no_worse_than_the_last_record(machine_code):
    hold_to_the_last_record(machine_code)
