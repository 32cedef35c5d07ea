"""Data sets and runs that several tests look at: small, but made by the real commands."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("DS_ACCELERATOR", "cpu")
if not torch.cuda.is_available():  # Triton's interpreter, which must be chosen before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"

from fastlt.loaders.workers import start_server
from support.workshop import Workshop

start_server("fastlt.loaders.plain")  # once for all tests of this process: later ones could not preload it any more


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Holds `species` (class folders), `encoded` (FFCV) and `plain` (an index of the same)."""
    from fastlt.demo.species import DrawnSize, draw_dataset

    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    size = DrawnSize(genera=3, targets=3, auxiliaries=2, most=40, fewest=4, auxiliary_images=9, val_images=5, pixels=32)
    draw_dataset(workshop.folder / "species", size)
    for out, options in (("encoded", ["--mode", "raw"]), ("plain", ["--format", "plain"])):
        done = workshop.encode(out, *options)
        assert done.returncode == 0, done.stderr
    return workshop


@pytest.fixture(scope="session")
def trained(workshop: Workshop) -> Path:
    """A finished run of two epochs on two ranks."""
    done = workshop.train("data.path=encoded", "output=trained", deepspeed=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return workshop.folder / "trained"
