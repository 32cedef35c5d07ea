"""Run on some ranks, which train and save, then on others, which load and compare; test_resharding.py reads the output.

`reshard_ranks.py FOLDER RECIPE KEY=VALUE...`
"""

import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from fastlt.classifier import Classifier
from fastlt.label_space import LabelSpace
from fastlt.recipe import load_recipe
from fastlt.run_folder import RunFolder
from fastlt.training.checkpointing import Progress, newest_whole, restore, save
from fastlt.training.distributed import join_process_group
from fastlt.training.ema import EngineEma
from fastlt.training.engine import EngineState, start_engine, whole_weights
from fastlt.training.optimizer import set_learning_rate

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
BATCH, FIRST, LATER = 12, range(3), range(3, 6)


def train(steps: range) -> list[float]:
    """Losses of steps on the same images, however many ranks there are: no batch statistics, nothing random."""
    losses = []
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 3, recipe.data.image_size, recipe.data.image_size, generator=draw)
        labels = torch.randint(0, space.num_classes, (BATCH,), generator=draw)
        set_learning_rate(engine.optimizer, 1e-3 / (1 + step), head_only=step < 1)
        loss = engine(images[rank::ranks], labels[rank::ranks])
        engine.backward(loss)
        engine.step()
        average.update(step + 1)
        mean = loss.detach().clone()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        losses.append(mean.item())
    return losses


def whole_state() -> dict[str, torch.Tensor]:
    """Weights, buffers, averages and what the optimizer has, as one rank alone would hold them."""
    if recipe.engine.zero_stage < 3:
        engine.optimizer._hp_optimizer_states_linked = False  # was done when the first group alone had a state
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    state = {f"weight {name}": value for name, value in whole_weights(engine).items()}
    with average.in_place():
        state |= {f"average {name}": value for name, value in whole_weights(engine).items()}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter, enabled=recipe.engine.zero_stage == 3):
            state[f"held {name}"] = parameter.detach().clone()
        for key in MOMENTS[recipe.optimizer.name] if parameter.requires_grad else ():
            state[f"{key} {name}"] = deepspeed.utils.safe_get_full_optimizer_state(parameter, key).clone()
    held = engine.optimizer.optimizer.state.values()
    state["steps"] = torch.tensor(sorted({float(of_flat["step"]) for of_flat in held if "step" in of_flat}))
    for number, group in enumerate(engine.optimizer.optimizer.param_groups):
        state[f"group {number}"] = torch.tensor([group["lr_scale"], group["weight_decay"], group["lr"]])
    return state


folder, recipe = Path(sys.argv[1]), load_recipe(sys.argv[2], ["data.path=none", "output=none", *sys.argv[3:]])
device = join_process_group()
torch.set_num_threads(1)
rank, ranks = dist.get_rank(), dist.get_world_size()
space = LabelSpace(("a", "b", "c"), ("d", "e"), (9, 5, 2, 4, 4), ((0, 3), (1, 4)))
goes_on = folder.exists()
torch.manual_seed(7 if goes_on else 0)  # another seed: what is not loaded differs
model = Classifier(recipe, space)
model.settle(device, "float32")
for name, buffer in model.named_buffers():
    if "running" in name:
        buffer.uniform_(0.5, 1.5)
engine = start_engine(model, recipe, BATCH // ranks)
engine.eval()  # normalized by what is loaded, not by the batch
average = EngineEma(engine, 0.9)
parts, run = [EngineState(engine), average], RunFolder(folder)
position = Progress(FIRST.stop, BATCH, {}, "labels", "data", ranks, recipe.engine.zero_stage, False)
dist.barrier()
if goes_on:
    checkpoint, _ = newest_whole(run)
    wrote = restore(checkpoint, position, parts).world_size
    found, saved = whole_state(), torch.load(folder / "whole.pt")
    losses = train(LATER)
    if rank == 0:  # which alone has all of it
        assert found.keys() == saved.keys(), found.keys() ^ saved.keys()
        for name, value in saved.items():
            assert torch.equal(found[name], value), f"{name} is not as it was saved"
        torch.testing.assert_close(losses, torch.load(folder / "losses.pt"), rtol=1e-5, atol=0)
        print(f"{len(saved)} tensors are on {ranks} ranks as {wrote} had them", flush=True)
else:
    train(FIRST)
    save(run, position, 1, parts)
    state = whole_state()
    losses = train(LATER)
    if rank == 0:
        torch.save(state, folder / "whole.pt")
        torch.save(losses, folder / "losses.pt")
dist.destroy_process_group()
