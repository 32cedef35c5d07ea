"""Run by torchrun: a run evaluated on ranks that share a split; test_mistakes.py reads what rank 0 writes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from fastlt.evaluation.finished_run import FinishedRun
from fastlt.evaluation.metrics import evaluate
from fastlt.evaluation.mistakes import Predictions
from fastlt.loaders.loader import EvalLoader
from fastlt.loaders.transform import eval_transform

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, ranks, batch_size = dist.get_rank(), dist.get_world_size(), 11
run, predictions = FinishedRun(Path(sys.argv[1])), Predictions()
model, all_images = run._ready("val", eval_transform(run.recipe), batch_size=batch_size)
mine = EvalLoader(all_images.reader, all_images.labels, all_images.normalize, batch_size, rank, ranks)
found = evaluate(model, mine, run.label_space, torch.device("cpu"), predictions)
mistakes = predictions.mistakes(run.label_space, "data", "sha256")
Path(f"{sys.argv[2]}.{rank}").write_text(json.dumps([asdict(found), asdict(mistakes)]))
dist.destroy_process_group()
