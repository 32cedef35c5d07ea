"""The front door of measurement, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick_kernels_leave_whole_records(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "kernels", "--device", "cpu", "--quick"]
    done = subprocess.run([*command, "--results", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert {r["impl"] for r in records} == {"fastlt", "eager", "authors"}
    for record in records:
        assert 0 < record["p20_ms"] <= record["median_ms"] <= record["p80_ms"]
        assert record["peak_bytes"] > 0
        assert record["device"]
        assert record["versions"]["torch"]
        assert record["commit"]
