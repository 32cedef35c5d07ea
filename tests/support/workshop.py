"""A folder with small data sets and runs, made by the commands that a user would type."""

import subprocess
import sys
from pathlib import Path

from support.command import run_here
from support.paths import BIN, ROOT

RECIPE = """
data: {image_size: 32}
augment: {crop_scale: [0.5, 1.0], crop_pct: 1.0}
model:
  name: resnet18
  drop_path: 0.1
  arguments: {channels: [8, 16, 16, 16], layers: [1, 1, 1, 1], stem_type: deep, stem_width: 8}
optimizer: {name: adamw, epochs: 2, batch_size: 16, blr: 1.0e-2}
engine: {precision: float32}
log: {steps: 1, trackers: []}
"""


class Workshop:
    """Runs the commands a user would type, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "recipe.yaml").write_text(RECIPE)

    def fastlt(self, *words: object, timeout: float = 300) -> subprocess.CompletedProcess:
        if words and words[0] in ("evaluate", "export", "predict", "report"):
            return run_here([str(word) for word in words], self.folder)
        command = [sys.executable, "-m", "fastlt", *map(str, words)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=timeout)

    def encode(self, out: str, *options: object) -> subprocess.CompletedProcess:
        """`fastlt encode` of the drawn species."""
        folders = ["--train", "species/train", "--val", "species/val", "--auxiliary", "species/auxiliary"]
        return self.fastlt("encode", out, *folders, "--neighbors", "species/neighbors.json", *options)

    def train_command(
        self, *words: object, ranks: int = 2, deepspeed: bool = False, script: Path = ROOT / "fastlt" / "train.py"
    ) -> list[str]:
        """The command of a training; with DeepSpeed's own launcher, or one that starts sooner."""
        launcher = [sys.executable, str(ROOT / "tests" / "support" / "launch.py"), str(ranks)]
        if deepspeed:
            from fastlt.launch import meeting_port  # imports what a machine for the kernels' tests alone may lack

            port = ["--master_port", str(meeting_port())]
            launcher = [str(BIN / "deepspeed"), *port, "--num_accelerators", str(ranks)]
        return [*launcher, str(script), "--config", "recipe.yaml", *map(str, words)]

    def train(self, *words: object, **options) -> subprocess.CompletedProcess:
        command = self.train_command(*words, **options)
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
