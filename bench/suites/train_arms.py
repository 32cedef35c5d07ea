"""The trainer with more and more taken away from it, each an arm that trains without end: what does each layer cost?

Shapes: B batch, C classes.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.harness.turns import Tick

KEPT_BATCHES = 4
FOREVER = ("optimizer.epochs=1000000", "log.eval_epochs=0", "checkpoint.epochs=0", "checkpoint.minutes=0")


def real(recipe: Path, words: list[str], device: str, tick: Tick) -> None:
    """The trainer and its data."""
    trainer = _trainer(recipe, words, device)
    trainer.train_loader = _Ticking(trainer.train_loader, tick)
    trainer.run()


def resident(recipe: Path, words: list[str], device: str, tick: Tick) -> None:
    """The trainer on a few batches that lie on the device already."""
    trainer = _trainer(recipe, words, device)
    batches = iter(trainer.train_loader)
    kept = list(itertools.islice(batches, KEPT_BATCHES))
    batches.close()
    trainer.train_loader = _Ticking(itertools.cycle(kept), tick)
    trainer.run()


def bare(recipe: Path, words: list[str], device: str, tick: Tick) -> None:
    """The same backbone with a linear layer and plain cross-entropy, in a loop of a few lines."""
    settle(device)
    import torch
    from torch import nn
    from torch.nn import functional as F

    from fastlt.backbone.create import create_backbone
    from fastlt.classifier import device_dtype
    from fastlt.dataset.encoded import EncodedDataset
    from fastlt.recipe import load_recipe
    from fastlt.training.distributed import prepare_cpu

    if device == "cpu":  # as in the trainer
        prepare_cpu()
    read = load_recipe(recipe, words)
    size, batch_size, optimizing = read.data.image_size, read.optimizer.batch_size, read.optimizer
    num_classes = EncodedDataset.open(read.data.path).label_space.num_classes
    backbone = create_backbone(read.model, size)
    head = nn.Linear(backbone.head_hidden_size, num_classes)  # type: ignore[arg-type]
    model = nn.Sequential(backbone, head).to(memory_format=torch.channels_last).to(device)
    if read.engine.compile:
        backbone.compile()
    optimizer: torch.optim.Optimizer
    if optimizing.name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, optimizing.momentum, nesterov=True, fused=True)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, optimizing.betas, fused=True)
    images = torch.randn(batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(num_classes, (batch_size,), device=device)
    dtype = device_dtype(read.engine.precision, torch.device(device))
    while True:
        with torch.autocast(device, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tick(batch_size)


def _trainer(recipe: Path, words: list[str], device: str):
    settle(device)
    from fastlt.recipe import load_recipe
    from fastlt.training.trainer import Trainer

    return Trainer(load_recipe(recipe, words))


def settle(device: str) -> None:
    """Says nothing, and takes no GPU where the CPU is meant; to be called before torch looks for one."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.environ["DS_ACCELERATOR"] = device
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


class _Ticking:
    """Gives batches, and ticks when the trainer comes for the next one."""

    def __init__(self, batches: Iterable, tick: Tick) -> None:
        self._batches, self._tick = batches, tick

    def __iter__(self) -> Iterator:
        for images, labels in self._batches:
            yield images, labels
            self._tick(len(labels))
