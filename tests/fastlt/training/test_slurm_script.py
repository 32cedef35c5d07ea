"""docs/train.sbatch, with stand-ins for Slurm's commands: it queues itself before its time is over, and goes on."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fastlt.launch import meeting_port
from fastlt.run_folder import RunFolder
from support.paths import ROOT

SCRIPT = ROOT / "docs" / "train.sbatch"
STAND_INS = {
    # As srun: the tasks of this node, and the status of the worst. It notes them, for scancel.
    "srun": """
shift  # --kill-on-bad-exit
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks="${tasks:-} $!"; done
echo $tasks > $NOTED/tasks
status=0
for task in $tasks; do wait $task || status=1; done
exit $status
""",
    "scancel": '[ "$1" = --signal=TERM ] && kill -TERM $(cat $NOTED/tasks)',
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> $NOTED/requeued; fi',
}


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """The environment of a job of two tasks."""
    for name, script in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node[1]", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_JOB_ID": str(meeting_port() - 20000), "NOTED": str(tmp_path), "FASTLT": str(ROOT)}
    return os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_job_queues_itself_again_before_its_time_is_over(workshop, slurm, tmp_path):
    run, out = RunFolder(workshop.folder / "batch"), tmp_path / "out"

    def submit(*words: str) -> subprocess.Popen:
        command = ["bash", SCRIPT, "recipe.yaml", run.path, "data.path=encoded", "engine.zero_stage=1", *words]
        with out.open("w") as stream:
            return subprocess.Popen(command, cwd=workshop.folder, env=slurm, stdout=stream, stderr=stream)

    job = submit("optimizer.epochs=2000")
    deadline = time.monotonic() + 600
    while not (run.log.is_file() and any(record["step"] >= 3 for record in run.records())):
        assert job.poll() is None, out.read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)  # as --signal=B: does, to the script alone
    assert job.wait(timeout=600) == 0, out.read_text()
    assert "saved; continue with --resume" in out.read_text()
    requeued = Path(slurm["NOTED"], "requeued")
    assert requeued.read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    saved = int(run.all_checkpoints()[-1].name[5:])

    requeued.unlink()
    job = submit("optimizer.epochs=2")
    assert job.wait(timeout=600) == 0, out.read_text()
    assert f"resumed at step {saved:,} " in out.read_text()
    assert "epoch 2/2" in out.read_text()
    assert not requeued.exists(), "it is done"

    job = submit("optimizer.epochs=2", "optimizer.epoch=3")
    assert job.wait(timeout=600) == 1
    assert not requeued.exists(), "what fails would fail again"
