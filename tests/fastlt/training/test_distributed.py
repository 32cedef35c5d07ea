"""A rank's process on a CPU, as the trainer prepares it."""

import ctypes
import subprocess
import sys

import pytest

pytestmark = pytest.mark.medium

PROGRAM = """
import resource
import torch
from fastlt.training.distributed import prepare_cpu

def faults_of_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24), torch.ones(2**22)  # 64 MB, 16 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
given_back = faults_of_steps()
prepare_cpu()
faults_of_steps()
print(given_back, faults_of_steps())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told to keep memory")
def test_memory_that_a_step_frees_is_there_for_the_next():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back, kept = (int(word) for word in done.stdout.split())
    assert kept < given_back / 10


WAITING = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from fastlt.training.distributed import while_others_wait

rank, fails = int(sys.argv[2]), sys.argv[3] == "fails"
meeting = dict(init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
dist.init_process_group("gloo", **meeting, timeout=timedelta(seconds=8))

def task():
    if rank == 1:
        time.sleep(0 if fails else 16)  # twice as long as anybody waits in a collective
        if fails:
            raise ValueError("the disk is full")
    elif fails:
        time.sleep(1000)
    return f"done by {rank}"

try:
    print(while_others_wait(task), flush=True)
except ValueError as error:
    print(f"told: {error}", flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize("how", [pytest.param("works", marks=pytest.mark.slow), "fails"])
def test_a_rank_that_takes_long_is_waited_for_and_one_that_fails_is_not(tmp_path, how):
    words = [sys.executable, "-c", WAITING, str(tmp_path / "meeting")]
    started = [subprocess.Popen([*words, str(rank), how], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    said = [process.communicate(timeout=300)[0].strip() for process in started]
    if how == "works":
        assert said == ["done by 0", "done by 1"]
    else:
        assert said[1] == "told: the disk is full"
        assert said[0].startswith("told: ")
        assert said[0].endswith(": the disk is full")
