"""Data sets and runs that several tests look at: small, but made by the real commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DS_ACCELERATOR", "cpu")
if not torch.cuda.is_available():  # Triton's interpreter, which must be chosen before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"

RECIPE = """
data: {image_size: 32}
augment: {crop_scale: [0.5, 1.0], test_crop: 1.0}
model:
  name: resnet18
  drop_path: 0.1
  arguments: {channels: [8, 16, 16, 16], layers: [1, 1, 1, 1], stem_type: deep, stem_width: 8}
optimizer: {name: adamw, epochs: 2, batch_size: 16, blr: 1.0e-2}
engine: {precision: float32}
log: {steps: 1, tensorboard: false}
"""


class Workshop:
    """Runs the commands a user would type, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "recipe.yaml").write_text(RECIPE)

    def fastlt(self, *words: object) -> subprocess.CompletedProcess:
        command = [str(Path(sys.executable).with_name("fastlt")), *map(str, words)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)

    def train_command(
        self, *words: object, ranks: int = 2, deepspeed: bool = False, script: Path = ROOT / "fastlt" / "train.py"
    ) -> list[str]:
        """The command of a training; with DeepSpeed's own launcher, or one that starts sooner."""
        launcher = [sys.executable, str(ROOT / "tests" / "launch.py"), str(ranks)]
        if deepspeed:
            port = ["--master_port", str(20000 + os.getpid() % 20000)]
            launcher = [str(Path(sys.executable).with_name("deepspeed")), *port, "--num_accelerators", str(ranks)]
        return [*launcher, str(script), "--config", "recipe.yaml", *map(str, words)]

    def train(self, *words: object, **options) -> subprocess.CompletedProcess:
        command = self.train_command(*words, **options)
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Holds `species` (class folders), `encoded` (FFCV) and `plain` (an index of the same)."""
    from fastlt.data_prep.drawn_species import DrawnSize, draw_dataset

    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    size = DrawnSize(genera=3, targets=3, auxiliaries=2, most=40, fewest=4, auxiliary_images=9, val_images=5, pixels=32)
    draw_dataset(workshop.folder / "species", size)
    for out, options in (("encoded", ["--mode", "raw"]), ("plain", ["--format", "plain"])):
        done = encode(workshop, out, *options)
        assert done.returncode == 0, done.stderr
    return workshop


def encode(workshop: Workshop, out: str, *options: object) -> subprocess.CompletedProcess:
    """`fastlt encode` of the drawn species."""
    folders = ["--train", "species/train", "--val", "species/val", "--auxiliary", "species/auxiliary"]
    return workshop.fastlt("encode", out, *folders, "--neighbors", "species/neighbors.json", *options)


@pytest.fixture(scope="session")
def trained(workshop: Workshop) -> Path:
    """A finished run of two epochs on two ranks."""
    done = workshop.train("data.path=encoded", "output=trained", deepspeed=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return workshop.folder / "trained"
