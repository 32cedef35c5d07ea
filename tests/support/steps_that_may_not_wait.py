"""Trains as `fastlt/train.py` does, but ends with a traceback where one of some steps would wait for the GPU."""

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from fastlt.recipe import load_recipe
from fastlt.training.trainer import Trainer

FIRST, LAST = 5, 10  # before, kernels are compiled


def refuse(*_: object) -> None:
    raise RuntimeError("torch.cuda.synchronize is called within a step")


class Watched:
    """Batches of a loader, between some of which nothing may wait."""

    def __init__(self, batches: Iterator) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator:
        allowed = torch.cuda.synchronize
        for step, batch in enumerate(self.batches):
            if step == FIRST:
                torch.cuda.set_sync_debug_mode("error")
                torch.cuda.synchronize = refuse
            if step == LAST:
                torch.cuda.synchronize = allowed
                torch.cuda.set_sync_debug_mode("default")
                print("no step waited", flush=True)
            yield batch


recipe, *words = sys.argv[2:]  # after --config
try:
    trainer = Trainer(load_recipe(Path(recipe), words))
    trainer.train_loader = Watched(trainer.train_loader)
    trainer.run()
except BaseException:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # without what is left of the GPU's work
