"""`fastlt doctor` on this machine, and what it says where something raises, crashes or hangs."""

import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from fastlt.doctor.doctor import Found, doctor, run_attempt
from support.command import run_here
from support.paths import ROOT


@pytest.mark.medium
def test_what_an_attempt_made_is_told_and_nothing_of_it_stays():
    def tried(code: str, timeout: float = 60) -> Found:
        return run_attempt([sys.executable, "-c", code], "it", True, "do this", timeout)

    assert tried("print('noise'); print('8 images')") == Found("it", "8 images", True, True)
    raised = tried("raise ValueError('no such\\x1b[2J thing')")
    assert (raised.works, raised.said) == (False, "ValueError: no such [2J thing")
    assert raised.line().startswith("FAILS   it")
    assert raised.line().endswith("-> do this")
    assert tried("import os; os.abort()").said == "crashes (SIGABRT)"
    assert tried("raise SystemExit(3)").said == "ends with status 3"
    assert tried("import subprocess; subprocess.run(['sleep', '600'])", 1).said == "hangs: nothing came of it in 1 s"


@pytest.mark.medium
def test_ctrl_c_ends_what_is_tried_too(tmp_path):
    tried = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = "import sys; from fastlt.doctor.doctor import run_attempt\n" + (
        f"run_attempt([sys.executable, '-c', {tried!r}], 'it', True, '', 600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    left = Path("/proc", (tmp_path / "pid").read_text())
    while left.exists() and "State:\tZ" not in (left / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_all_of_it_works_here():
    lines: list[str] = []
    assert doctor(lines.append), "\n".join(lines)
    told = "\n".join(lines)
    for name in ("torch", "loss, numba", "loader, ffcv", "loader, plain", "training"):
        assert f"ok      {name} " in told
    for extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]:
        assert (f" {extra} " in told) == (extra not in ("bench", "dev"))


@pytest.mark.slow
def test_a_broken_package_is_named_with_what_to_type(tmp_path):
    """Numba cannot be imported, as after an update of numpy."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.3 or less')")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom fastlt.cli import main\n"]
    command[-1] += "sys.exit(main(['doctor']))"
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/bin"}
    )
    assert done.returncode == 1
    assert "FAILS   loss, numba         ImportError: Numba needs NumPy 2.3 or less" in done.stdout
    assert "NOT all that fastlt needs works here: see FAILS." in done.stdout


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_no_time_for_attempts_is_told_before_all_of_them_fail(seconds):
    done = run_here(["doctor", "--timeout", seconds])
    assert done.returncode == 1
    assert f"--timeout is {seconds}; give seconds" in done.stderr
