"""A step never waits for the GPU: torch raises where the host would."""

import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist

from fastlt.kernels import NeighborSilencingHead, NeighborTable
from fastlt.loaders.loader import Normalize
from fastlt.recipe import AugmentRecipe, load_recipe
from fastlt.training.batch_augment import BatchAugment
from fastlt.training.step_stats import StepStats

pytest.importorskip("deepspeed")  # which a machine that cannot install anything may lack
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
            loss = head(mixed.flatten(1), labels, second, weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            meter.add(loss.detach(), B)
            meter.end_step()
            if step % 10 == 9:
                ended.append(meter.end(step, False, False, 0.1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for window in ended:
        assert np.isfinite(window.read()[0])
        assert window.speed()["step_ms"] > 0


def test_the_trainer_does_not_wait(workshop, monkeypatch):
    """Nor does DeepSpeed, whose timers synchronize if they are let."""
    from fastlt.training.trainer import Trainer

    words = [f"data.path={workshop.folder / 'encoded'}", f"output={workshop.folder / 'not-waiting'}"]
    words += ["augment.mixup=0.5", "augment.random_erasing=0.5", "log.steps=1000", "optimizer.epochs=1"]
    trainer = Trainer(load_recipe(workshop.folder / "recipe.yaml", words))
    batches, seen = trainer.train_loader, []

    class Watched:
        def __iter__(self):
            for step, batch in zip(itertools.count(), batches, strict=False):
                seen.append(step)
                if step == 5:
                    torch.cuda.set_sync_debug_mode("error")
                    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
                if step == 10:
                    monkeypatch.undo()
                    torch.cuda.set_sync_debug_mode("default")
                yield batch

    def refuse(*_):
        raise AssertionError("a step waits for the GPU")

    trainer.train_loader = Watched()
    try:
        trainer.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) > 10
