"""Nowhere to keep what is compiled: home is not to be written to, and neither is the code. Everything runs as ever."""

import os
import shutil
import subprocess
import sys

import pytest

from support.paths import BIN, ROOT

pytestmark = pytest.mark.slow  # compiling everything takes a minute

READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


@pytest.fixture(scope="module")
def read_only():
    """Words before a command that has the code under a read-only mount, where nobody's root helps."""
    words = ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", str(ROOT)]
    allowed = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    if not allowed:
        pytest.skip("needs root or user namespaces, to mount the code read-only")
    return words


def homeless(tmp_path) -> dict[str, str]:
    """An environment whose home is a file: nobody can make a folder in it, not even root."""
    home = tmp_path / "home"
    home.write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_CACHE_DIR", "XDG_CACHE_HOME"))}
    return kept | {"HOME": str(home), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}


def test_training_and_evaluation(workshop, read_only, tmp_path):
    environment = homeless(tmp_path)
    words = ["recipe.yaml", "data.path=encoded", f"output={tmp_path / 'run'}", "optimizer.epochs=1"]
    for command in (["train", *words, "--ranks", "1"], ["evaluate", str(tmp_path / "run")]):
        done = subprocess.run(
            [*read_only, str(BIN / "fastlt"), *command],
            cwd=workshop.folder, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "NUMBA_CACHE_DIR names another folder" in done.stderr
    assert not list(tmp_path.glob("fastlt-*")), "what was compiled for a process stays behind it"


def test_a_folder_that_is_named_keeps_it(workshop, read_only, tmp_path):
    environment = homeless(tmp_path) | {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    words = ["recipe.yaml", "data.path=encoded", f"output={tmp_path / 'run'}", "optimizer.epochs=1"]
    done = subprocess.run(
        [*read_only, str(BIN / "fastlt"), "train", *words, "--ranks", "1"],
        cwd=workshop.folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NUMBA_CACHE_DIR names" not in done.stderr
    assert list((tmp_path / "kept").rglob("*.nbi"))


@pytest.mark.parametrize("module", ["fastlt.data_prep.perceptual.index", "fastlt.loaders.dali.resize"])
def test_what_else_is_compiled(read_only, tmp_path, module):
    if "dali" in module:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    done = subprocess.run(
        [*read_only, sys.executable, "-c", f"import {module}"],
        cwd=tmp_path, env=homeless(tmp_path), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
