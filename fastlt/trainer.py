"""The training loop: reads batches, steps the engine, logs, evaluates, saves, and stops when told to."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from timm.utils import distribute_bn
from torch import Tensor
from torch.nn import functional as F

from fastlt import checkpointing
from fastlt.augment import BatchAugment
from fastlt.average import EngineAverage
from fastlt.checkpointing import Progress
from fastlt.classifier import Classifier, device_dtype
from fastlt.distributed import join_process_group, share_of_cores
from fastlt.encoded import EncodedDataset
from fastlt.epoch_plan import EpochPlan
from fastlt.evaluation import Evaluation, evaluate
from fastlt.flops import forward_flops
from fastlt.label_space import LabelSpace
from fastlt.loaders import EvalLoader, Normalize, TrainLoader, open_source
from fastlt.loaders.transform import Transform
from fastlt.optimization import create_optimizer, learning_rate, set_learning_rate
from fastlt.recipe import Recipe
from fastlt.run_log import RunLog
from fastlt.sharded_classes import ShardedClasses
from fastlt.step_meter import StepMeter, Stretch, memory_bytes, peak_flops

RECIPE_FILE, LABEL_SPACE_FILE = "recipe.yaml", "label_space.json"
LAST_WEIGHTS, BEST_WEIGHTS = "last.safetensors", "best.safetensors"


class Trainer:
    """One rank of a run; construct and call `run` on every rank.

    All randomness is a function of the recipe's seed and of step, sample and rank, so a resumed
    run needs no generator state to repeat what an unbroken one would have done.

    Raises:
        ValueError: recipe, data set and run folder do not fit together, or the loss is not finite.
    """

    def __init__(self, recipe: Recipe, resume: bool = False) -> None:
        self.recipe, self.folder = recipe, recipe.output
        data = EncodedDataset.open(recipe.data.path)
        self.label_space = trained_label_space(data, recipe)
        checkpoint = self._checkpoint_to_resume(resume)
        self.device = join_process_group()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.micro_batch = self._micro_batch()
        torch.manual_seed(recipe.seed)
        auxiliary_per_class = recipe.data.auxiliary_per_class
        sharded = recipe.engine.shard_classes
        model = Classifier(
            recipe.model,
            recipe.loss,
            self.label_space,
            auxiliary_per_class,
            recipe.data.image_size,
            with_head=not sharded,
        ).to(self.device)
        model.compute_dtype = device_dtype(recipe.engine.precision, self.device)
        if recipe.engine.checkpoint_gradients:
            model.backbone.set_grad_checkpointing()
        if recipe.engine.compile:
            model.backbone.compile()
        self.train_loader, self.val_loader = self._open_loaders(data, model)
        self.plan = self.train_loader.plan
        if len(self.plan) < recipe.optimizer.batch_size:
            raise ValueError(f"an epoch has {len(self.plan)} images, fewer than one batch: lower optimizer.batch_size.")
        self.steps_per_epoch = len(self.plan) / recipe.optimizer.batch_size
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=create_optimizer(model, recipe.optimizer), config=self._engine_config()
        )
        self.sharded: ShardedClasses | None = None
        if sharded:
            self.sharded = ShardedClasses(recipe, self.label_space, model.backbone.head_hidden_size, self.device)
        if recipe.engine.channels_last and recipe.engine.zero_stage == 0:  # ZeRO holds weights flat
            model.to(memory_format=torch.channels_last)  # after initialize, which broadcasts only contiguous weights
        decay = recipe.optimizer.average
        self.average = EngineAverage(self.engine, decay) if decay else None
        self.augment = BatchAugment(recipe.augment, self.device)
        self.step, self.best = 0, {"all": -1.0, "epoch": -1}
        if checkpoint:
            self._resume(checkpoint)
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            recipe.save(self.folder / RECIPE_FILE)
            self.label_space.save(self.folder / LABEL_SPACE_FILE)
        total = self._last_step(recipe.optimizer.epochs - 1)
        self.log = RunLog(self.folder, self.rank == 0, total, self.step, recipe.log.tensorboard)
        self._stop = False
        self._meter = StepMeter(self.device)
        self._ended: Stretch | None = None
        self._flops = 3 * forward_flops(recipe.model, recipe.data.image_size, self.label_space.num_classes)
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Trains to the end, or until SIGTERM or SIGINT; either way what was learned is saved."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._say_what_runs()
        batches = iter(self.train_loader)  # one for all epochs: workers live on, and read ahead while we evaluate
        epochs = range(self.recipe.optimizer.epochs)
        for epoch in (e for e in epochs if self._last_step(e) > self.step):
            stop = self._train_epoch(epoch, batches)
            if self.step == self._last_step(epoch):
                self._finish_epoch(epoch, save=stop)
            if stop:
                self.log.say(f"stopped at step {self.step}, saved; continue with --resume")
                break
        else:
            self.log.summarize(self.recipe.output)
        batches.close()
        self.log.close()
        dist.destroy_process_group()

    def _last_step(self, epoch: int) -> int:
        """Steps done when every image of this epoch has been learned; the last of them may begin the next one."""
        return self.plan.steps_before(epoch + 1, self.recipe.optimizer.batch_size)

    def _train_epoch(self, epoch: int, batches: Iterator[tuple[Tensor, Tensor]]) -> bool:
        """Trains from where the loader is to the epoch's end; True when asked to stop, maybe before it."""
        recipe = self.recipe.optimizer
        head_only = epoch < recipe.head_only_epochs
        self.engine.module.head_only = head_only
        self.engine.train()
        last = self._last_step(epoch)
        self._meter.restart()
        while self.step < last:
            rate = learning_rate(recipe, self.step, self.steps_per_epoch)
            set_learning_rate(self.engine.optimizer, rate, head_only)
            for micro_step in range(recipe.accumulation):
                with self._meter.waiting():
                    images, labels = next(batches)
                self._seed_step(micro_step)
                loss = self._loss(images, labels)
                self.engine.backward(loss)
                self.engine.step()
                self._meter.add(loss.detach(), len(labels) * self.world_size)
            self.step += 1
            if self.sharded:
                self.sharded.step(rate)
                self.sharded.update_average(self.step)
            if self.average:
                self.average.update(self.step)
            self._meter.end_step()
            if (self.step % self.recipe.log.steps == 0 or self.step == last) and self._look_up(epoch, rate, last):
                return True
        return False

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        images, second, weight = self.augment(images, labels)
        if self.sharded:
            return self.sharded.head(self.engine(images), labels, second, weight)
        return self.engine(images, labels, second, weight)

    def _logits(self) -> Callable[[Tensor], Tensor]:
        """images [B, 3, H, W] to logits of the targets at least."""
        if not self.sharded:
            return self.engine
        weight, bias = (part[: self.label_space.num_targets] for part in self.sharded.head.gathered())
        return lambda images: F.linear(self.engine(images).float(), weight, bias)  # [B, T]

    def _look_up(self, epoch: int, rate: float, last: int) -> bool:
        """Every `log.steps`: reads what the stretch before this one has left, and has this one's on its way.

        So nobody waits for the device; both are read where one waits anyway: when saving, stopping, and at the end of
        an epoch. True to stop.
        """
        stop, save = self._read(self._ended) if self._ended else (False, False)
        minutes = self.recipe.checkpoint.minutes
        due = bool(minutes) and not save and time.monotonic() - self._saved_at > 60 * minutes
        self._ended = self._meter.end(self.step, self._stop, due and self.rank == 0, rate)
        if stop or save or self.step == last:
            stops, saves = self._read(self._ended)
            stop, save, self._ended = stop or stops, save or saves, None
        if (save or stop) and self.step < last:  # at the end the epoch is finished and saved as one
            self._save(self.train_loader.state_dict())
        return stop

    def _read(self, stretch: Stretch) -> tuple[bool, bool]:
        """Logs a stretch of steps; (whether to stop, whether to save), the same on all ranks.

        Raises:
            ValueError: the loss is not finite.
        """
        loss, stop, save = stretch.read()
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} at step {stretch.step}: lower optimizer.blr, warm up longer or set "
                "optimizer.clip_grad; the checkpoints before it are good."
            )
        values = {"epoch": stretch.step / self.steps_per_epoch, "loss": loss, "lr": stretch.rate} | stretch.speed()
        values["memory_gb"] = memory_bytes(self.device) / 1e9
        if peak := peak_flops(self.device):
            values["mfu"] = self._flops * values["images_per_s"] / self.world_size / peak
        self.log.write("train", stretch.step, **values)
        self.log.progress(stretch.step, f"loss {loss:.3f}  {values['images_per_s']:.0f} images/s")
        return stop, save

    def _finish_epoch(self, epoch: int, save: bool) -> None:
        done = epoch + 1
        final = done == self.recipe.optimizer.epochs
        if final or _due(done, self.recipe.log.eval_epochs):
            self._evaluate(epoch)
        if final or save or _due(done, self.recipe.checkpoint.epochs):
            self._save(self.train_loader.state_dict())

    def _evaluate(self, epoch: int) -> None:
        started = time.monotonic()
        self.engine.eval()
        with ExitStack() as averaged:
            for average in (self.average, self.sharded and self.sharded.average):
                if average:
                    averaged.enter_context(average.in_place())
            self._share_batch_statistics()
            result = evaluate(self._logits(), self.val_loader, self.label_space, self.device)
            weights = checkpointing.whole_weights(self.engine)
            if self.sharded:
                weights |= self.sharded.whole_weights()
        about = {"epoch": epoch + 1, "label_space": self.label_space.digest(), "evaluation": _without_classes(result)}
        better = self.chooses and result.all > self.best["all"]
        if better:
            self.best = {"all": result.all, "epoch": epoch + 1}
        if self.rank == 0:
            checkpointing.save_weights(weights, self.folder / LAST_WEIGHTS, about)
            if better:
                checkpointing.save_weights(weights, self.folder / BEST_WEIGHTS, about)
        seconds = time.monotonic() - started
        self.log.write("eval", self.step, epoch=epoch + 1, seconds=seconds, **_without_classes(result))
        self.log.say(f"epoch {epoch + 1}/{self.recipe.optimizer.epochs}  {result.row()}")

    def _save(self, loader: dict[str, int]) -> None:
        self._share_batch_statistics()
        progress = Progress(
            self.step, loader, self.best, self.label_space.digest(), self.world_size, self.recipe.engine.zero_stage
        )
        parts = [part for part in (self.sharded, self.average) if part]
        checkpointing.save(self.engine, self.folder, progress, self.recipe.checkpoint.keep, parts)
        self._saved_at = time.monotonic()

    def _share_batch_statistics(self) -> None:
        """Averages BatchNorm's running statistics over the ranks; they are linear, so it does not matter when."""
        if self.world_size > 1:
            distribute_bn(self.engine.module, self.world_size, reduce=True)

    def _seed_step(self, micro_step: int) -> None:
        """Gives drop path, mixing and erasing generators that depend on seed, step and rank alone."""
        key = np.random.SeedSequence([self.recipe.seed, self.step, micro_step, self.rank])
        seeds = key.generate_state(3)
        torch.manual_seed(int(seeds[0]))
        np.random.seed(seeds[1])
        random.seed(int(seeds[2]))

    def _checkpoint_to_resume(self, resume: bool) -> Path | None:
        """The newest checkpoint; none for a new run, and for one that was killed before its first."""
        found, begun = checkpointing.latest(self.folder), (self.folder / RECIPE_FILE).exists()
        if resume and not begun:
            raise ValueError(f"{self.folder} holds no run to resume: start without --resume.")
        if begun and not resume:
            raise ValueError(f"{self.folder} holds a run already: add --resume to continue it or set another output.")
        return found

    def _resume(self, checkpoint: Path) -> None:
        progress = checkpointing.read_progress(checkpoint)
        if progress.label_space != self.label_space.digest():
            raise ValueError(
                f"{checkpoint} belongs to another label space ({progress.label_space}) than {self.recipe.data.path} "
                f"({self.label_space.digest()})."
            )
        if progress.loader["samples"] % self.recipe.optimizer.batch_size:
            raise ValueError(f"{checkpoint} was written with another batch size: resume with the same one.")
        checkpointing.restore(self.engine, checkpoint, progress, self.sharded, self.average)
        self.step, self.best = progress.step, progress.best
        self.train_loader.load_state_dict(progress.loader)

    def _micro_batch(self) -> int:
        batch, parts = self.recipe.optimizer.batch_size, self.world_size * self.recipe.optimizer.accumulation
        if batch % parts:
            raise ValueError(
                f"optimizer.batch_size={batch} does not divide by {self.world_size} ranks x "
                f"{self.recipe.optimizer.accumulation} accumulation steps."
            )
        return batch // parts

    def _open_loaders(self, data: EncodedDataset, model: Classifier) -> tuple[TrainLoader, EvalLoader]:
        recipe = self.recipe
        workers = recipe.data.workers or share_of_cores()
        # Without a validation split the test split is watched, but nothing is chosen by it.
        self.chooses = "val" in data.splits
        held_out = "val" if self.chooses else "test"
        normalize = Normalize(*model.normalization, self.device)
        transforms = train_transform(recipe, normalize.mean), eval_transform(recipe)
        train, val = (
            open_source(data, split, transform, self.micro_batch, workers, recipe.data.loader, self.device)
            for split, transform in zip(("train", held_out), transforms, strict=True)
        )
        counts = np.array(self.label_space.counts)
        plan = EpochPlan(counts, self.label_space.num_targets, recipe.data.auxiliary_per_class, recipe.seed)
        labels = data.split("train").labels(), data.split(held_out).labels()
        return (
            TrainLoader(train, plan, labels[0], normalize, self.micro_batch, self.rank, self.world_size),
            EvalLoader(val, labels[1], normalize, self.micro_batch, self.rank, self.world_size),
        )

    def _engine_config(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "train_batch_size": recipe.optimizer.batch_size,
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": recipe.optimizer.accumulation,
            "gradient_clipping": recipe.optimizer.clip_grad,
            "zero_optimization": {"stage": recipe.engine.zero_stage},
            "zero_allow_untested_optimizer": True,  # SGD
            "steps_per_print": 10**12,
        }

    def _say_what_runs(self) -> None:
        space, recipe = self.label_space, self.recipe
        parameters = sum(getattr(p, "ds_numel", p.numel()) for p in self.engine.module.parameters())
        self.log.say(
            f"{recipe.model.name}, {parameters / 1e6:.1f}M parameters; {space.num_targets} target and "
            f"{len(space.auxiliary_names)} auxiliary classes; {len(self.plan):,} images an epoch, "
            f"{self.steps_per_epoch:.1f} steps of {recipe.optimizer.batch_size} on {self.world_size} "
            f"{self.device.type} ranks, {self.engine.module.compute_dtype}, ZeRO {recipe.engine.zero_stage}"
        )
        if not self.chooses:
            self.log.say(
                f"warning: {recipe.data.path} has no validation split: the accuracies below are those of the test "
                "split, the last weights are kept and none are chosen. Choosing anything by them would flatter it."
            )

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = True


def trained_label_space(data: EncodedDataset, recipe: Recipe) -> LabelSpace:
    """The classes a run trains on: those of the data set, without auxiliaries where the recipe says so."""
    return data.label_space if recipe.data.auxiliary else data.label_space.without_auxiliary()


def train_transform(recipe: Recipe, mean: tuple[float, ...]) -> Transform:
    """Host-side transform of training images; `mean` per channel, 0..1, fills what is left empty."""
    augment = recipe.augment
    return Transform(
        recipe.data.image_size,
        train=True,
        crop_scale=augment.crop_scale,
        crop_ratio=augment.crop_ratio,
        flip=augment.flip,
        rand_augment=augment.rand_augment,
        color_jitter=augment.color_jitter,
        fill=(round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])),
        seed=recipe.seed,
    )


def eval_transform(recipe: Recipe) -> Transform:
    """Host-side transform of validation and test images."""
    return Transform(recipe.data.image_size, train=False, crop_fraction=recipe.augment.test_crop)


def _due(epochs_done: int, every: int) -> bool:
    return every > 0 and epochs_done % every == 0


def _without_classes(result: Evaluation) -> dict[str, Any]:
    values = asdict(result)
    values.pop("per_class")
    return values
