"""Run on some ranks, whose averages have batch statistics of their own when they save; test_ema.py reads the file.

`ema_ranks.py RECIPE KEY=VALUE...`
"""

import sys

import torch
import torch.distributed as dist

from fastlt.recipe import load_recipe
from fastlt.training.trainer import Trainer

trainer = Trainer(load_recipe(sys.argv[1], sys.argv[2:]))
(average,) = trainer.emas
before = {name: buffer.clone() for name, buffer in trainer.engine.module.named_buffers()}
for name, tensor in average.tensors.items():
    if "running" in name:
        tensor.fill_(1 + trainer.rank)
trainer._save()
for name, buffer in trainer.engine.module.named_buffers():
    assert torch.equal(buffer, before[name]), f"{name} of what is trained is another now"
trainer.log.close()
dist.destroy_process_group()
