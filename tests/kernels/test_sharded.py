"""The class-sharded head on real gloo ranks: equal to a whole head, saved on some ranks and loaded on others."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium
SCRIPT = Path(__file__).with_name("sharded_ranks.py")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first number of ranks leaves its weight for the others."""
    return tmp_path_factory.mktemp("sharded") / "head"


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_equals_a_whole_head(ranks, saved):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run([*command, str(SCRIPT), str(saved)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        assert f"rank {rank} of {ranks}: all equal" in done.stdout
