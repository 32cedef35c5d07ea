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
FEW_ROWS = {  # microseconds that an H100 is predicted to need at most for 64 rows
    ("loss", 3000): 9.5, ("gradient", 3000): 9.5, ("both", 3000): 12,
    ("loss", 32568): 18, ("gradient", 32568): 15, ("both", 32568): 23,
    ("loss", 131072): 32, ("gradient", 131072): 32, ("both", 131072): 52,
}  # fmt: skip


def compile_in(folder: Path, *command: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    compiling = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": path}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=os.environ | compiling, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("kinds", "variants"),
    [(["90:bf16", "90:fp32"], 5 + 2), pytest.param(["80:bf16", "90:fp16"], 2 + 2, marks=pytest.mark.slow)],
)
def test_every_variant_compiles_for_gpus(tmp_path, kinds, variants):
    done = compile_in(tmp_path, Path(__file__).with_name("compile_for_gpu.py"), *kinds)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compiled") == 4 * variants


@pytest.fixture(scope="module")
def machine_code(tmp_path_factory) -> Path:
    """Records of the kernels' machine code on an H100."""
    folder = tmp_path_factory.mktemp("sass")
    done = compile_in(folder, ROOT / "bench" / "run.py", "sass", "--quick", "--results", folder)
    assert done.returncode == 0, done.stderr
    return folder / "sass-nvidia-h100-80gb-hbm3.jsonl"


def test_machine_code_keeps_its_line(machine_code):
    found = [json.loads(line) for line in machine_code.read_text().splitlines()]
    variants = {r["case"]: r["spills"] for r in found if "pass" not in r}
    assert variants == dict.fromkeys(variants, 0)
    assert len(variants) == 4
    records = {(r["pass"], r["C"], r["B"]): r for r in found if "pass" in r}
    assert {case: r["narrowest"] for case, r in records.items()} == dict.fromkeys(records, 16)
    assert all(r["single"] <= r["shape"][0] for r in records.values())  # the logit of each row's label
    assert {case: r["spills"] for case, r in records.items()} == dict.fromkeys(records, 0)
    many = {(kind, C): r["resident"] for (kind, C, B), r in records.items() if B == 4096}
    assert many.keys() == RESIDENT.keys()
    assert not {case: held for case, held in many.items() if held < RESIDENT[case]}
    few = {(kind, C): 1000 * r["predicted_ms"]["3"] for (kind, C, B), r in records.items() if B == 64}
    assert few.keys() == FEW_ROWS.keys()
    assert not {case: us for case, us in few.items() if us > FEW_ROWS[case]}
    ratios = [r["predicted/measured"] for r in records.values() if "measured_ms" in r]
    assert all(0.75 < ratio < 1.35 for ratio in ratios)  # see bench/harness/gpu_model.py


def test_machine_code_got_no_worse_than_the_last_record(machine_code):
    hold_to_the_last_record(machine_code)
