"""What the interpreter does not see: that the kernels compile, for GPUs that this machine need not have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

pytest.importorskip("triton", reason="Triton is not installed")


def test_every_variant_compiles_for_gpus(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_for_gpu.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compiled") == 4 * (4 + 3)
