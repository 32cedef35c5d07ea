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
