"""The training loop: get a batch, loss, backward, step, log, save; and what stands ready before it begins."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.utils import distribute_bn
from torch import Tensor

from fastlt.backbone.create import unseen_pixels
from fastlt.caches import give_inductor_a_folder
from fastlt.classifier import Classifier
from fastlt.cores import share_of_cores
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.staging import described, staged
from fastlt.evaluation.metrics import Evaluation, evaluate
from fastlt.kernels.implementations import resolve
from fastlt.loaders.loader import EvalLoader, TrainLoader
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.readers import loader_of, open_reader
from fastlt.loaders.sampler import EpochPlan
from fastlt.loaders.transform import eval_transform, train_transform
from fastlt.messages import listed
from fastlt.provenance import gpu, processor
from fastlt.recipe import Recipe, changed_keys, load_recipe
from fastlt.run_folder import RunFolder
from fastlt.stopping import stop_signals
from fastlt.training import checkpointing
from fastlt.training.batch_augment import BatchAugment
from fastlt.training.checkpointing import Progress
from fastlt.training.distributed import join_process_group, require_equal, require_seen_by_all, while_others_wait
from fastlt.training.ema import EngineEma, all_in_place
from fastlt.training.engine import EngineState, start_engine, whole_weights
from fastlt.training.heads import build_head
from fastlt.training.log_windows import LogWindows
from fastlt.training.optimizer import learning_rate, set_learning_rate
from fastlt.training.run_log import RunLog
from fastlt.training.step_stats import StepStats


class Trainer:
    """One rank of a run; construct and call `run` on every rank.

    All randomness is a function of the recipe's seed and of step, sample and rank, so a resumed
    run needs no generator state to repeat what an unbroken one would have done.

    Args:
        recipe: what to do.
        resume: go on with the run at the newest checkpoint.

    Raises:
        ValueError: recipe, data set and run folder do not fit together, or the loss is not finite.
    """

    def __init__(self, recipe: Recipe, resume: bool = False) -> None:
        self.recipe, self.folder = recipe, RunFolder(recipe.output)
        told = described(recipe.data.path)
        self.label_space, self.data_digest = told.label_space.trained(recipe.data.auxiliary), told.split("train").sha256
        self.device = join_process_group()
        require_equal(f"classes or images of {recipe.data.path}", self.label_space.digest() + self.data_digest)
        if recipe.data.is_staged:
            data = while_others_wait(partial(staged, recipe.data.path, recipe.data.stage_to))
        else:
            assert isinstance(recipe.data.path, Path), "URLs are staged"
            data = EncodedDataset.open(recipe.data.path)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.micro_batch = recipe.optimizer.micro_batch(self.world_size)
        torch.manual_seed(recipe.seed)
        model = Classifier(recipe, self.label_space, with_head=not recipe.engine.shard_classes)
        model.settle(self.device, recipe.engine.precision)
        if recipe.engine.activation_checkpointing:
            model.backbone.set_grad_checkpointing()
        if recipe.engine.compile:
            give_inductor_a_folder()
            model.backbone.compile()
        self.plan = EpochPlan.of(self.label_space, recipe.data.auxiliary_per_class, recipe.seed)
        # Without a validation split the test split is watched, but nothing is chosen by it.
        self.held_out = "val" if "val" in data.splits else "test"
        self.train_loader, self.val_loader = self._open_loaders(data, model)
        self.steps_per_epoch = len(self.plan) / recipe.optimizer.batch_size
        self.engine = start_engine(model, recipe, self.micro_batch)
        self.head = build_head(recipe, self.label_space, self.engine, self.device)
        decay = recipe.optimizer.ema_decay
        engine_emas = [EngineEma(self.engine, decay)] if decay else []
        self.emas = [*engine_emas, *self.head.emas]
        self.parts: list[checkpointing.Part] = [
            *self.head.parts,
            EngineState(self.engine),
            *engine_emas,
            self.train_loader,
        ]
        self.augment = BatchAugment(recipe.augment, self.device)
        self.step, self.best = 0, {"all": -1.0, "epoch": -1}
        if self.rank == 0:
            self.folder.claim()
            self.folder.require_startable(resume)  # another run may have come and gone while this one got ready
        require_seen_by_all(self.folder.path)
        said = self._resume() if resume else []
        if self.rank == 0:
            recipe.save(self.folder.recipe)
            self.label_space.save(self.folder.label_space)
        total = self._end_of(recipe.optimizer.epochs - 1)
        self.log = RunLog(self.folder, self.rank == 0, total, self.step, recipe)
        for line in (*self._what_runs(data), *said):
            self.log.say(line)
        self._told_to_stop = False
        self._stats = StepStats(self.device)
        num_classes = self.label_space.num_classes
        self._windows = LogWindows(self._stats, self.log, recipe, num_classes, self.steps_per_epoch)

    def run(self) -> None:
        """Trains to the end, or until SIGINT, SIGTERM or SIGHUP; either way what was learned is saved."""
        for number in stop_signals():
            signal.signal(number, self._on_signal)
        batches = iter(self.train_loader)  # one for all epochs: workers live on, and read ahead while we evaluate
        left = [e for e in range(self.recipe.optimizer.epochs) if self._end_of(e) > self.step]
        for epoch in left:
            stop = self._train_epoch(epoch, batches)
            if self.step == self._end_of(epoch):
                self._finish_epoch(epoch, save=stop)
            if stop and self.step < self._end_of(left[-1]):
                self.log.say(f"stopped at step {self.step}, saved; continue with --resume")
                break
        else:
            if left:
                self.log.summarize()
            else:
                self.log.say("this run is finished; more optimizer.epochs would go on with it")
        batches.close()
        self.log.close()
        dist.destroy_process_group()

    def _train_epoch(self, epoch: int, batches: Iterator[tuple[Tensor, Tensor]]) -> bool:
        """Trains from where the loader is to the epoch's end; True when asked to stop, maybe before it."""
        recipe, end = self.recipe.optimizer, self._end_of(epoch)
        head_only = epoch < recipe.head_only_epochs
        self.engine.module.head_only = head_only
        self.engine.train()
        self._stats.restart()
        while self.step < end:
            is_logged = (self.step + 1) % self.recipe.log.steps == 0 or self.step + 1 == end
            rate = learning_rate(recipe, self.step, self.steps_per_epoch)
            set_learning_rate(self.engine.optimizer, rate, head_only)
            for micro_step in range(recipe.accumulation):
                with self._stats.waiting():
                    images, labels = next(batches)
                self._seed_step(micro_step)
                # Of the last batch before a log line alone, as it costs the head's forward pass twice.
                measures = is_logged and micro_step + 1 == recipe.accumulation and bool(self.label_space.neighbors)
                self.head.module.measures_silenced = measures
                loss = self._loss(images, labels)
                self.engine.backward(loss)
                self.engine.step()
                self._stats.add(loss.detach(), len(labels) * self.world_size)
            self.step += 1
            self.head.step(rate)
            for ema in self.emas:
                ema.update(self.step)
            self._stats.end_step()
            if is_logged:
                self._count_silenced()
                stop, save = self._windows.end(self.step, rate, self._told_to_stop, is_last=self.step == end)
                if (stop or save) and self.step < end:  # at the end the epoch is finished and saved as one
                    self._save()
                if stop:
                    return True
        return False

    def _count_silenced(self) -> None:
        """Has the log window know what was measured, of the targets' samples."""
        if self.head.module.silenced:
            labels, mass = self.head.module.silenced
            self._stats.add_silenced(mass, labels < self.label_space.num_targets)
            self.head.module.silenced = None

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.head.loss(*self.augment(images, labels))

    def _seed_step(self, micro_step: int) -> None:
        """Gives drop path, mixing and erasing generators that depend on seed, step and rank alone."""
        key = np.random.SeedSequence([self.recipe.seed, self.step, micro_step, self.rank])
        seeds = key.generate_state(3)
        torch.manual_seed(int(seeds[0]))
        np.random.seed(seeds[1])
        random.seed(int(seeds[2]))

    def _end_of(self, epoch: int) -> int:
        """Steps done when every image of this epoch has been learned; the last of them may begin the next one."""
        return self.plan.steps_before(epoch + 1, self.recipe.optimizer.batch_size)

    def _finish_epoch(self, epoch: int, save: bool) -> None:
        done = epoch + 1
        final = done == self.recipe.optimizer.epochs
        if final or _due(done, self.recipe.log.eval_epochs):
            self._evaluate(epoch)
        if final or save or _due(done, self.recipe.checkpoint.epochs):
            self._save()

    def _evaluate(self, epoch: int) -> None:
        started = time.monotonic()
        self.engine.eval()
        with all_in_place(self.emas):
            self._share_batch_statistics()
            result = evaluate(self.head.logits(), self.val_loader, self.label_space, self.device)
            weights = whole_weights(self.engine) | self.head.whole_weights()
        about = {"epoch": epoch + 1, "label_space": self.label_space.digest(), "evaluation": _in_short(result)}
        better = self.held_out == "val" and result.all > self.best["all"]
        if better:
            self.best = {"all": result.all, "epoch": epoch + 1}
        if self.rank == 0:
            self.folder.save_weights(weights, "last", about)
            if better:
                self.folder.save_weights(weights, "best", about)
        seconds = time.monotonic() - started
        self.log.write("eval", self.step, epoch=epoch + 1, seconds=seconds, **_in_short(result))
        self.log.say(f"epoch {epoch + 1}/{self.recipe.optimizer.epochs}  {result.row()}")

    def _save(self) -> None:
        with all_in_place(self.emas if self.world_size > 1 else ()):  # the averages have statistics of their own
            self._share_batch_statistics()
        self._share_batch_statistics()
        checkpointing.save(self.folder, self._progress(), self.recipe.checkpoint.keep, self.parts)
        self._windows.saved()

    def _progress(self) -> Progress:
        recipe, space = self.recipe, self.label_space.digest()
        batch_size, stage = recipe.optimizer.batch_size, recipe.engine.zero_stage
        sharded = recipe.engine.shard_classes
        return Progress(self.step, batch_size, self.best, space, self.data_digest, self.world_size, stage, sharded)

    def _resume(self) -> list[str]:
        """Goes on at the newest checkpoint; one that was killed before its first begins anew. Tells where and how."""
        before = load_recipe(self.folder.recipe)
        changed = [f"  {key}: {old} -> {new}" for key, (old, new) in changed_keys(before, self.recipe).items()]
        said = ["changed keys:", *changed] if changed else []
        checkpoint, damaged = checkpointing.newest_whole(self.folder)
        said += damaged
        if not checkpoint:
            return [f"{self.folder.path} has no checkpoint yet: starting over", *said]
        said += checkpointing.whose(self.folder, checkpoint)
        try:
            progress = checkpointing.restore(checkpoint, self._progress(), self.parts)
        except ValueError as error:
            models = [line.strip() for line in changed if line.startswith("  model.")]
            if not (models and isinstance(error.__cause__, RuntimeError)):  # torch found other tensors
                raise
            raise ValueError(
                f"{checkpoint} does not fit the model of this command ({listed(models)}): resume with the keys that "
                "it was begun with, or set another output."
            ) from error
        if progress.data != self.data_digest:
            said.append("warning: the data set was encoded again since, from other images or with other settings")
        if progress.world_size != self.world_size:
            said.append(f"{progress.world_size} ranks had saved it, {self.world_size} go on")
        self.step, self.best = progress.step, progress.best
        epoch = self.step / self.steps_per_epoch
        return [f"resumed at step {self.step:,} (epoch {epoch:.1f}) from {checkpoint}", *said]

    def _share_batch_statistics(self) -> None:
        """Averages BatchNorm's running statistics over the ranks; they are linear, so it does not matter when."""
        if self.world_size > 1:
            distribute_bn(self.engine.module, self.world_size, reduce=True)

    def _open_loaders(self, data: EncodedDataset, model: Classifier) -> tuple[TrainLoader, EvalLoader]:
        recipe = self.recipe
        workers = recipe.data.workers or share_of_cores()
        normalize = Normalize(*model.normalization, self.device)
        transforms = train_transform(recipe, normalize.mean), eval_transform(recipe)
        train, val = (
            open_reader(data, split, transform, self.micro_batch, workers, recipe.data.loader, self.device)
            for split, transform in zip(("train", self.held_out), transforms, strict=True)
        )
        labels = data.split("train").labels(), data.split(self.held_out).labels()
        return (
            TrainLoader(train, self.plan, labels[0], normalize, self.micro_batch, self.rank, self.world_size),
            EvalLoader(val, labels[1], normalize, self.micro_batch, self.rank, self.world_size),
        )

    def _what_runs(self, data: EncodedDataset) -> list[str]:
        space, recipe = self.label_space, self.recipe
        sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in self.engine.module.parameters()]
        if recipe.engine.shard_classes:
            sizes.append((space.num_classes * (self.engine.module.in_features + 1), True))
        parameters = sum(size for size, _ in sizes)
        lines = [
            f"{recipe.model.name}, {parameters / 1e6:.1f}M parameters; {space.num_targets} target and "
            f"{len(space.auxiliary_names)} auxiliary classes; {len(self.plan):,} images an epoch, "
            f"{self.steps_per_epoch:.1f} steps of {recipe.optimizer.batch_size} on {self.world_size} "
            f"{self.device.type} ranks, {self.engine.module.compute_dtype}, ZeRO {recipe.engine.zero_stage}"
        ]
        device = gpu() if self.device.type == "cuda" else f"{processor()}, {share_of_cores()} cores a rank"
        workers = recipe.data.workers or share_of_cores()
        loader = loader_of(data, recipe.data.loader)
        loss = resolve(recipe.loss.impl, self.device, torch.float32)
        lines.append(f"it uses: {device}; {loader} loader, workers a rank: {workers}; loss by {loss}")
        if recipe.model.tune != "full":
            lines.append(self._what_is_trained(sum(size for size, trained in sizes if trained), parameters))
            if not recipe.model.pretrained:
                lines.append("warning: model.pretrained is false: what is not trained stays as it is drawn.")
        if recipe.data.is_staged:
            lines.append(f"images are read from {data.path}, a copy of {recipe.data.path}")
        side = recipe.data.image_size
        if unseen := unseen_pixels(self.engine.module.backbone, side):
            lines.append(
                f"warning: {recipe.model.name} cuts images of {side} pixels a side into whole patches: {unseen} at the "
                f"right and the bottom are not seen; data.image_size={side - unseen} shows what it sees now."
            )
        if space.auxiliary_names and not space.neighbors and recipe.loss.lambda_s < 1:
            lines.append(
                f"warning: {recipe.data.path} has no neighbor pairs, so no auxiliary class is silenced for a target, "
                f"whatever loss.lambda_s={recipe.loss.lambda_s:g} says: `fastlt encode --neighbors` gives pairs."
            )
        if not self.step:
            lines += [f"weights: {said}" for said in self.engine.module.said]
        if self.held_out == "test":
            lines.append(
                f"warning: {recipe.data.path} has no validation split: the accuracies below are those of the test "
                "split, the last weights are kept and none are chosen. Do not select a model by them."
            )
        return lines

    def _what_is_trained(self, trained: int, parameters: int) -> str:
        model, layers = self.recipe.model, len(self.engine.module.tuned_layers)
        how = {
            "lora": f"lora, rank {model.tune_rank}, in {layers} layers",
            "adaptformer": f"adaptformer, width {model.tune_rank}, in {layers} blocks",
        }.get(model.tune, model.tune)
        said = [f"{n / 1e6:.1f}M" if n >= 50_000 else f"{n:,}" for n in (trained, parameters)]
        return f"{said[0]} of {said[1]} parameters are trained ({how})"

    def _on_signal(self, number: int, frame: object) -> None:
        self._told_to_stop = True


def _due(epochs_done: int, every: int) -> bool:
    return every > 0 and epochs_done % every == 0


def _in_short(result: Evaluation) -> dict[str, Any]:
    left_out = ("per_class", "bins", "temperature", "ece_calibrated")
    return {name: value for name, value in asdict(result).items() if name not in left_out}
