"""An exponential moving average (EMA) of weights, float32, updated once per optimizer step.

Source: Polyak averaging as timm's ModelEmaV3 does it, with the decay warmed up as min(decay, (1 + t) / (10 + t)). Each
rank averages what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastlt.training.resharding import part_of


class Ema:
    """Averages tensors that are updated elsewhere.

    Args:
        live: gives the tensors by name as they are now; ZeRO may move them between steps.
        decay: of the average, below 1.
    """

    def __init__(self, live: Callable[[], dict[str, Tensor]], decay: float) -> None:
        self.live, self.decay = live, decay
        self.restart()

    def restart(self) -> None:
        """Begins with the weights as they are now."""
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in self.live().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step `step`, counted from 1."""
        if not self.tensors:  # the head alone is trained, and is elsewhere
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [tensor.detach() for tensor in self.live().values()]
        torch._foreach_lerp_(list(self.tensors.values()), live, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the averages are where the weights were; afterwards the weights are back, bit by bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for tensor, average in zip(self.live().values(), self.tensors.values(), strict=True):
            held = tensor.detach().clone()
            tensor.detach().copy_(average)
            average.copy_(held)


@contextmanager
def all_in_place(emas: Sequence[Ema]) -> Iterator[None]:
    """`Ema.in_place` of several, or of none."""
    with ExitStack() as stack:
        for ema in emas:
            stack.enter_context(ema.in_place())
        yield


class EngineEma(Ema):
    """That of what an engine's module trains, BatchNorm's statistics included; under ZeRO-3 of this rank's parts."""

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine = engine
        self.partitioned = engine.zero_optimization_stage() == 3
        self._parameters = {n: p for n, p in engine.module.named_parameters() if p.requires_grad}
        self._buffers = {n: b for n, b in engine.module.named_buffers() if b.is_floating_point()}
        super().__init__(self._held, decay)

    def _held(self) -> dict[str, Tensor]:
        held = {n: p.ds_tensor for n, p in self._parameters.items()} if self.partitioned else self._parameters
        return held | self._buffers

    def _exchange(self) -> None:
        # ZeRO-3 keeps small parameters whole beside their parts.
        whole = self.engine.optimizer.persistent_parameters if self.partitioned else []
        if whole:
            whole[0].partition(whole)
        super()._exchange()
        if whole:
            whole[0].all_gather(whole)

    def save(self, folder: Path) -> None:
        """Writes the average into a checkpoint's folder; called by all ranks."""
        if self.partitioned or self.engine.global_rank == 0:
            save_file({n: t.contiguous() for n, t in self.tensors.items()}, self._file(folder))

    def load(self, folder: Path) -> None:
        """Reads them on any number of ranks; to be called when the weights are loaded: without an average there, it
        begins with these."""
        files = sorted(folder.glob("ema-*.safetensors"))
        resharded = self.partitioned and len(files) not in (0, dist.get_world_size())
        if not resharded:
            files = [self._file(folder)]
            if not files[0].is_file():
                self.restart()
                return
        with ExitStack() as stack:
            parts = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
            for name, average in self.tensors.items():
                held = [part.get_tensor(name) for part in parts]
                split = resharded and name in self._parameters
                average.copy_(part_of(held, self._parameters[name].ds_numel) if split else held[0])

    def _file(self, folder: Path) -> Path:
        part = f"-{self.engine.global_rank:05d}" if self.partitioned else ""
        return folder / f"ema{part}.safetensors"
