"""The last record of what no busy machine changes, which is the line that tests hold."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT


def hold_to_the_last_record(measured: Path) -> None:
    """Fails where a count of ours in a file of records is worse than the last one of bench/results; skips where none
    was made with the same versions."""
    kept = ROOT / "bench" / "results" / measured.name
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--compare", str(kept), str(measured)]
    if not kept.is_file():
        pytest.skip(f"there is no {kept.name} among the records")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "no measurement in common" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
