"""Weights of a file into a backbone, whatever trained them: found by names and shapes, counted, and told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fastlt.backbone.weight_file import read_weights
from fastlt.messages import listed

Tensors = dict[str, Tensor]
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGES = {"ema", "teacher"}
# As in momentum_encoder and encoder_k, and what a training began with or had besides.
_SECOND = {"student", "momentum", "target", "k", "key", "initial", "init", "grad", "grads", "gradients", "last"}
_HEAD = re.compile(r"(^|\.)(\w*head\w*|fc\d*|classifier|last_linear|project\w*|predict\w*|prototypes?)\.")
_DECODER = re.compile(r"(^|\.)(decoder\w*|mask_token)")


@dataclass(frozen=True)
class Network:
    """A part of a file that may be a network: names without the prefix that they share there."""

    place: str
    prefix: str
    tensors: Tensors

    def __str__(self) -> str:
        return f"{self.place}.{self.prefix}".strip(".")

    def is_within(self, other: Network) -> bool:
        """Whether this is the other one, or a part of it."""
        return self.place == other.place and self.prefix.startswith(other.prefix)

    @property
    def rank(self) -> int:
        """Averages (EMA, teacher) come first, students and momentum encoders last."""
        words = set(re.split(r"[\W_]+", f"{self.place}.{self.prefix}".lower()))
        return 0 if words & _AVERAGES else 2 if words & _SECOND else 1


@dataclass(frozen=True)
class Taken:
    """What a file gives to a backbone.

    Attributes:
        tensors: to be loaded, by the backbone's names.
        needed: how many tensors the backbone has that training starts with.
        unfilled: names of those that the file lacks, with both shapes where it has another one.
        beyond: names of the file's that a larger model of the same kind would have.
        said: all of it in one sentence.
    """

    tensors: Tensors
    needed: int
    unfilled: Sequence[str]
    beyond: Sequence[str]
    said: str

    @property
    def is_of_another_model(self) -> bool:
        """Whether names or shapes say so, and not just a few tensors that are missing."""
        other_shapes = sum(name.endswith(")") for name in self.unfilled)
        return bool(self.beyond) or other_shapes > 2 or 2 * len(self.unfilled) > self.needed


def weights_for(backbone: nn.Module, file: Path, to_timm: Callable[[Tensors], Tensors]) -> Taken:
    """What of a file fits a backbone: of several networks in it, the one that fills most.

    Args:
        backbone: of timm, without classifier.
        file: as `read_weights` takes it.
        to_timm: timm's names and shapes of this model's tensors, from those that its authors gave them.

    Raises:
        ValueError: the file cannot be read.
    """
    state = backbone.state_dict()
    places = {
        place: {_WRAPPERS.sub("", name): weight for name, weight in tensors.items()}
        for place, tensors in read_weights(file).items()
    }
    needed = [name for name, weight in state.items() if weight.is_floating_point()]
    networks = list(_networks(places, len(needed)))
    tried = [(network, _renamed(named, to_timm)) for network in networks for named in _spellings(network, backbone)]

    def unfilled(weights: Tensors) -> list[str]:
        return [name for name in needed if name not in weights or not _fits(weights[name], state[name])]

    network, weights = min(tried, key=lambda one: (len(unfilled(one[1])), one[0].rank))
    fitting = {n: w for n, w in weights.items() if n in state and _fits(w, state[n])}
    heads = _classifiers(backbone)
    left_out = _left_out(network, fitting, networks, heads)
    missing = [_unlike(name, weights, state) for name in unfilled(weights)]
    where = f" ({network})" if str(network) else ""
    said = f"{len(needed) - len(missing)} of the backbone's {len(needed)} tensors taken from {file}{where}"
    kinds, layers = {_kind(name) for name in state}, {layer for name in state for layer in _layers(name)}
    others = [n for n, w in weights.items() if n not in state and w.is_floating_point() and not n.startswith(heads)]
    beyond = [name for name in others if _kind(name) in kinds or layers & _layers(name)]
    return Taken(fitting, len(needed), missing, beyond, f"{said}; left out: {left_out or 'nothing'}")


def _networks(places: dict[str, Tensors], size: int) -> Iterator[Network]:
    """Wherever at least half as many tensors as a network has share a prefix, and each place as a whole."""
    for place, tensors in places.items():
        shared = Counter(name[: dot.end()] for name in tensors for dot in re.finditer(r"\.", name))
        for prefix in ["", *(prefix for prefix, number in shared.items() if number >= size / 2)]:
            below = {n.removeprefix(prefix): w for n, w in tensors.items() if n.startswith(prefix)}
            yield Network(place, prefix, below)


def _spellings(network: Network, backbone: nn.Module) -> Iterator[Tensors]:
    """Names as they stand, and those of a backbone whose parts were put in a Sequential, or in DINOv2's chunks."""
    yield dict(network.tensors)
    parts = [name for name, _ in backbone.named_children()]
    names = {n: re.match(r"(\d+)\.", n) for n in network.tensors}
    if any(names.values()):
        yield {
            f"{parts[int(at[1])]}.{n[at.end() :]}": network.tensors[n]
            for n, at in names.items()
            if at and int(at[1]) < len(parts)
        }
    if any(re.match(r"blocks\.\d+\.\d+\.", n) for n in network.tensors):
        yield {re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", n): w for n, w in network.tensors.items()}


def _renamed(tensors: Tensors, to_timm: Callable[[Tensors], Tensors]) -> Tensors:
    try:
        renamed = to_timm(dict(tensors))
    except Exception:  # these are not the tensors that it knows
        return tensors
    return {name: weight for name, weight in renamed.items() if isinstance(weight, Tensor)}


def _fits(weight: Tensor, place: Tensor) -> bool:
    """Quantized weights are whole numbers, and their scales lie elsewhere."""
    return weight.shape == place.shape and weight.is_floating_point() == place.is_floating_point()


def _layers(name: str) -> set[str]:
    """The modules around a tensor that are one of several: layer1.0 of layer1.0.conv1.weight."""
    parts = name.split(".")[:-1]
    return {".".join(parts[: at + 1]) for at, part in enumerate(parts) if part.isdecimal() and at}


def _kind(name: str) -> str:
    """What the same tensor of every layer is called."""
    return re.sub(r"\d+", "N", name)


def _unlike(name: str, weights: Tensors, state: Tensors) -> str:
    if name not in weights:
        return name
    if weights[name].shape == state[name].shape:
        return f"{name} ({weights[name].dtype} in the file, {state[name].dtype} in the model)".replace("torch.", "")
    return f"{name} ({list(weights[name].shape)} in the file, {list(state[name].shape)} in the model)"


def _left_out(chosen: Network, fitting: Tensors, networks: Sequence[Network], classifiers: tuple[str, ...]) -> str:
    """What of a file was not taken, by kind: heads, decoders, other networks, and other tensors."""
    taken = {weight.data_ptr() for weight in fitting.values()}  # renamed ones too
    others = [network for network in networks if not chosen.is_within(network)]
    kinds: dict[str, list[str]] = {}
    for network in (network for network in networks if not network.prefix):
        for name, weight in network.tensors.items():
            ours = name.removeprefix(chosen.prefix) if network.place == chosen.place else ""
            if ours in fitting or weight.data_ptr() in taken:
                continue
            whose = next((o for o in others if o.place == network.place and name.startswith(o.prefix)), None)
            if whose:
                kind = f"of {whose}"
            elif _HEAD.search(ours) or ours.startswith(classifiers):
                kind = "of a classifier or projection head"
            else:
                kind = "of a decoder or mask" if _DECODER.search(ours) else "other"
            kinds.setdefault(kind, []).append(name)
    return ", ".join(f"{len(names)} {kind} ({listed(names, 3)})" for kind, names in kinds.items())


def _classifiers(backbone: nn.Module) -> tuple[str, ...]:
    """timm's names of the layers that a backbone does without."""
    named = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
