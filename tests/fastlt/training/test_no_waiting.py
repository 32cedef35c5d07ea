"""A step never waits for the GPU: torch raises where the host would."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

pytest.importorskip("deepspeed")  # which a machine that cannot install anything may lack

from fastlt.kernels import NeighborSilencingHead, NeighborTable
from fastlt.loaders.loader import Normalize
from fastlt.recipe import AugmentRecipe
from fastlt.training.batch_augment import BatchAugment
from fastlt.training.step_stats import StepStats
from support.paths import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
B, C, SIDE = 8, 30, 16


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_steps_and_log_lines_do_not_wait(process_group):
    device = torch.device("cuda")
    table = NeighborTable.from_pairs(C, [(0, 20), (1, 21)])
    head = NeighborSilencingHead(3 * SIDE * SIDE, table, torch.full((C,), 9.0)).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), fused=True)
    augment = BatchAugment(AugmentRecipe(random_erasing=0.5, mixup=0.5, cutmix=0.5), device)
    normalize = Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), device)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (B, 3, SIDE, SIDE), np.uint8)).pin_memory()
    batches = normalize.feed((images, torch.arange(B)) for _ in range(40))
    meter, ended = StepStats(device), []
    try:
        for step, (batch, labels) in enumerate(batches):
            if step == 10:  # kernels are compiled and memory is there
                torch.cuda.set_sync_debug_mode("error")
            mixed, labels, second, weight = augment(batch, labels)
            head.measures_silenced = step % 10 == 9
            loss = head(mixed.flatten(1), labels, second, weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.add(loss.detach(), B)
            meter.end_step()
            if step % 10 == 9:
                measured, mass = head.silenced
                meter.add_silenced(mass, measured < 20)
                ended.append(meter.end(step, False, False, 0.1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for window in ended:
        assert np.isfinite(window.read()[0])
        assert window.speed()["step_ms"] > 0
        assert 0 <= window.read()[3] <= 1


def test_the_trainer_does_not_wait(workshop):
    """Nor does DeepSpeed, whose timers synchronize if they are let."""
    words = ["data.path=encoded", "output=not-waiting", "augment.mixup=0.5", "augment.random_erasing=0.5"]
    script = ROOT / "tests" / "support" / "steps_that_may_not_wait.py"
    done = workshop.train(*words, "log.steps=1000", "optimizer.epochs=1", ranks=1, script=script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no step waited" in done.stdout
