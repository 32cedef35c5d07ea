"""`fastlt/train.py`, but each rank writes down which images reach the model at which step, told by their color."""

import json
import os
import sys
from pathlib import Path

import torch

from fastlt import train
from fastlt.training import trainer


class TellingTrainer(trainer.Trainer):
    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values).view(3, 1) for values in self.engine.module.normalization)
        colors = (images[:, :, 0, 0].T * std + mean).mul(255).round().long()  # [3, B]
        told = {"step": self.step, "rank": self.rank, "images": (colors[0] + 256 * colors[1]).tolist()}
        with Path(os.environ["TOLD"], f"{os.getppid()}-{self.rank}.jsonl").open("a") as out:
            out.write(json.dumps(told | {"labels": labels.tolist()}) + "\n")
        return super()._loss(images, labels)


trainer.Trainer = TellingTrainer  # type: ignore[misc]

if __name__ == "__main__":
    sys.exit(train.main())
