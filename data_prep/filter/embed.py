"""Features of images: from any timm model or a run's backbone, computed once and kept on the disk.

Shapes: B images of a batch, D features, N rows of a store.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fastlt.atomic import write_text
from fastlt.backbone.create import create_backbone
from fastlt.classifier import features_of
from fastlt.cores import available_cores, keep_freed_memory
from fastlt.data_prep.filter.embedding_store import RowStore
from fastlt.data_prep.filter.options import EncoderOptions
from fastlt.data_prep.perceptual.hash import perceptual_hash
from fastlt.dataset.images import BrokenImageError, read_pixels
from fastlt.loaders.ffcv.images import center_crop
from fastlt.loaders.normalize import Normalize
from fastlt.loaders.workers import WORKERS, end_with_parent, start_server
from fastlt.recipe import ModelRecipe

_BATCHES = 32  # of images in files of their own, that make a shard
_Sample = tuple[Tensor | None, tuple[int, int] | None, str]
_Part = tuple[Tensor, np.ndarray, list[str]]
"""Whole images uint8 [b, 3, H, W], their hashes int64 [b, 2], and why each of B is broken or ""."""


class Batch(NamedTuple):
    """Images that go through an encoder together: keys int64 [B], and names as `read_pixels` takes them."""

    keys: np.ndarray
    names: list[str]


class Embedder(Protocol):
    """What embeds images: an `Encoder`, or several on the machines of a cluster.

    Attributes:
        title, dimension, digest: as those of an `Encoder`.
        device: where embeddings are compared.
    """

    title: str
    dimension: int
    digest: str
    device: torch.device

    def embedded(self, shards: list[list[Batch]], store: RowStore, workers: int | None) -> Iterator[Embedded]:
        """Embeds batches into the store; what it yields is on the disk.

        Args:
            shards: batches of each.
            store: of this embedder.
            workers: processes that read images, of each encoder; 0 for none, None for one a core.
        """
        ...


Embedded = tuple[list[str], list[str]]
"""Names of images that were embedded, and why each of them was not, or ""."""


class Encoder:
    """A backbone with the transform its weights expect; computes in float16 on a GPU, in float32 elsewhere.

    float16 is eight times as fine as bfloat16: similarities move by 0.0002, at most by 0.0024, where bfloat16 moves
    them by 0.0023 and 0.028 (tf_efficientnet_lite0 on 256 photographs). What it has no room for is computed again in
    float32.

    A pickled one computes on the device of the process that loads it, and has its digest.

    Attributes:
        title: for people.
        transform: keyword arguments of timm's `create_transform`.
        dimension: D.
        digest: changes with anything that changes features: architecture, weights, image size, crop, normalization.
    """

    def __init__(
        self,
        title: str,
        backbone: nn.Module,
        size: int,
        crop: float,
        interpolation: str,
        normalization: tuple[Sequence[float], Sequence[float]],
        crop_mode: str = "center",
    ) -> None:
        self._made_of = title, backbone, size, crop, interpolation, normalization, crop_mode
        self.title = f"{title} at {size} px"
        self.transform = {"input_size": size, "crop_pct": crop, "interpolation": interpolation, "crop_mode": crop_mode}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        mean, std = (tuple(values) for values in normalization)
        self._normalize = Normalize(mean, std, self.device)
        self._dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._backbone = backbone.eval().to(self.device).to(memory_format=torch.channels_last)
        self.dimension = features_of(backbone)
        self.digest = _digest([title, self.transform, mean, std, str(self._dtype)], backbone)

    def embedded(self, shards: list[list[Batch]], store: RowStore, workers: int | None) -> Iterator[Embedded]:
        """See `Embedder`; yields batch by batch."""
        batches = [batch for shard in shards for batch in shard]
        for batch, (rows, why) in zip(batches, self.rows([b.names for b in batches], workers), strict=True):
            if len(rows):
                store.append(batch.keys[np.array([not reason for reason in why])], rows)
            yield batch.names, why

    def rows(self, batches: list[list[str]], workers: int | None) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Of batches of images, the rows of those that are whole, [b] of `row_dtype`, and why the others are not."""
        workers = available_cores() if workers is None else workers
        workers = workers if len(batches) > 1 else 0  # starting them takes longer than a batch
        shares = 1
        if self.device.type == "cpu":
            keep_freed_memory()
            shares = max(workers, 1)  # a core that reads has the others wait with the model: so all read at one time
        # They travel with the batches, not in copies.
        parts = [[batch[at] for at in _slices(len(batch), shares)] for batch in batches]
        if workers:
            start_server(__name__)
        loader = DataLoader(
            EmbeddedImages(self.transform),
            batch_sampler=[part for split in parts for part in split],
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_settle,
            multiprocessing_context=WORKERS if workers else None,
        )
        loaded = iter(loader)
        for split in parts:
            pixels, hashes, why = _joined([next(loaded) for _ in split])
            rows = np.empty(len(hashes), row_dtype(self.dimension))
            if len(hashes):
                rows["hashes"], rows["features"] = hashes, self(pixels).numpy()
            yield rows, why

    def __reduce__(self) -> tuple[type[Encoder], tuple[Any, ...]]:
        title, backbone, *others = self._made_of
        return Encoder, (title, backbone if self.device.type == "cpu" else deepcopy(backbone).cpu(), *others)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] on the host to float32 [B, D] on the host, each row of norm 1.

        Raises:
            ValueError: the model gives NaN or infinity.
        """
        for dtype in (self._dtype, torch.float32):
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                features = self._backbone(self._normalize(images))  # [B, D]
            features = F.normalize(features.float(), dim=1).cpu()
            if features.isfinite().all():
                return features
        raise ValueError(f"{self.title} gives features that are not finite: its weights are damaged.")


def open_encoder(options: EncoderOptions) -> Encoder:
    """The encoder that a user asks for.

    Raises:
        ValueError: as `timm_encoder` and `run_encoder`.
    """
    if options.run:
        return run_encoder(options.run)
    assert options.model, "one of the two is given"
    return timm_encoder(options.model, options.weights, options.image_size)


def timm_encoder(name: str, weights: Path | None, image_size: int | None = None) -> Encoder:
    """A timm model with a local file's weights, or with those of its hub when `weights` is None.

    Raises:
        ValueError: timm has no such model, or the weights cannot be had or belong to another model.
    """
    config = get_pretrained_cfg(name)
    if config is None:
        raise ValueError(f"timm has no model {name!r}: see timm.list_models().")
    size = image_size or config.input_size[-1]
    recipe = ModelRecipe(name=name, pretrained=str(weights) if weights else True)
    backbone = create_backbone(recipe, size, tell=print)
    data: dict[str, Any] = resolve_model_data_config(backbone)
    normalization = data["mean"], data["std"]
    return Encoder(name, backbone, size, data["crop_pct"], data["interpolation"], normalization, data["crop_mode"])


def run_encoder(run: Path) -> Encoder:
    """The backbone of a fastlt run, with the transform of its evaluation.

    Raises:
        ValueError: no run, or no weights in it.
    """
    from fastlt.evaluation.finished_run import FinishedRun  # loads what the workers do without

    finished = FinishedRun(run)
    data, crop = finished.recipe.data, finished.recipe.augment.crop_pct
    title = f"{finished.recipe.model.name} of {run}, epoch {finished.about['epoch']},"
    return Encoder(title, finished.model.backbone, data.image_size, crop, "bicubic", finished.model.normalization)


def _digest(about: list[Any], backbone: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def row_dtype(dimension: int) -> np.dtype:
    """Of what is stored of an image: unit `features` [D], and perceptual `hashes` [2] of it and of its mirror image."""
    return np.dtype([("hashes", "<i8", (2,)), ("features", "<f2", (dimension,))])


def open_embeddings(folder: Path, encoder: Embedder) -> RowStore:
    """The stored embeddings of an encoder below `folder`, as rows of `row_dtype`."""
    mine = folder / encoder.digest
    store = RowStore(mine, "embeddings", row_dtype(encoder.dimension))
    write_text(mine / "encoder.txt", f"{encoder.title}\n")
    store.add_left()
    return store


def embed(
    encoder: Embedder,
    names: Sequence[str],
    keys: np.ndarray,
    store: RowStore,
    batch_size: int,
    workers: int | None,
    what: str,
    shards: np.ndarray | None = None,
) -> dict[str, str]:
    """Embeds the images that the store lacks; what is done is on the disk batch by batch.

    Args:
        encoder: whose store it is.
        names: images, as `read_pixels` takes them.
        keys: int64 [N], unique.
        store: what they are added to.
        batch_size: images at once.
        workers: see `Embedder.embedded`.
        what: for the progress bar.
        shards: int64 [N], in which shard each image lies; None for images in files of their own.

    Returns:
        {name: why} of broken images, which are not in the store and so tried again another time.
    """
    if shards is None:
        shards = np.arange(len(names)) // (_BATCHES * batch_size)
    batches = batches_of(store.find(keys) < 0, shards, batch_size)
    work: dict[int, list[Batch]] = {}
    for batch in batches:
        work.setdefault(int(shards[batch[0]]), []).append(Batch(keys[batch], [names[i] for i in batch]))
    broken: dict[str, str] = {}
    with tqdm(desc=f"embedding {what}", total=sum(map(len, batches)), unit=" images", disable=None) as progress:
        for done, why in encoder.embedded(list(work.values()), store, workers) if work else ():
            broken |= {name: reason for name, reason in zip(done, why, strict=True) if reason}
            progress.update(len(done))
    return broken


def batches_of(missing: np.ndarray, shards: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Positions of the images of each batch, shard after shard.

    A batch is of one shard, and counted from its first image, missing or not: the same images go through the encoder
    together, and so give the same features to the bit, whoever embeds which shards, and wherever an earlier run ended.

    Args:
        missing: which images to embed, bool [N].
        shards: int64 [N].
        batch_size: images in a batch, of which those that are not missing are left out.
    """
    order = np.argsort(shards, kind="stable")
    _, starts, sizes = np.unique(shards[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(starts, sizes)
    batch = np.cumsum(within % batch_size == 0)[missing[order]]
    chosen = order[missing[order]]
    return np.split(chosen, np.flatnonzero(np.diff(batch)) + 1) if len(chosen) else []


def _slices(number: int, shares: int) -> list[slice]:
    """`number` things in up to `shares` parts of nearly the same size."""
    ends = np.linspace(0, number, min(shares, number) + 1).round().astype(int).tolist()
    return [slice(*both) for both in pairwise(ends)]


def _settle(worker: int) -> None:
    cv2.setNumThreads(1)  # there is a process for each core
    end_with_parent(worker)


class EmbeddedImages(Dataset):
    """Images by name: (uint8 [3, H, W], both hashes, "") or, of a broken one, (None, None, why)."""

    def __init__(self, transform: dict[str, Any]) -> None:
        self._transform = create_transform(**transform, is_training=False, use_prefetcher=True)  # uint8 out
        self._size, self._shorter = transform["input_size"], math.floor(transform["input_size"] / transform["crop_pct"])
        is_usual = transform["interpolation"] == "bicubic" and transform["crop_mode"] == "center"
        self._is_compiled = is_usual and self._shorter >= self._size  # or it pads

    def __getitem__(self, name: str) -> _Sample:
        try:
            pixels = read_pixels(name)  # [H, W, 3]
        except BrokenImageError as error:
            return None, None, str(error)
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        hashes = perceptual_hash(gray), perceptual_hash(np.ascontiguousarray(gray[:, ::-1]))
        return self._transformed(pixels), hashes, ""

    def _transformed(self, pixels: np.ndarray) -> Tensor:
        """What timm's transform makes of an image; the usual one takes an eighth of the time where it is compiled."""
        if not self._is_compiled:
            return torch.as_tensor(self._transform(Image.fromarray(pixels)))
        cropped = np.empty((self._size, self._size, 3), np.uint8)
        center_crop(
            np.require(pixels, requirements=["C", "W"]), self._shorter, cropped
        )  # numba compiles for writable memory
        return torch.from_numpy(cropped).permute(2, 0, 1)


def _collate(samples: list[_Sample]) -> _Part:
    pixels = [image for image, _, _ in samples if image is not None]
    hashes = np.array([both for _, both, _ in samples if both is not None], np.int64).reshape(-1, 2)
    return torch.stack(pixels) if pixels else torch.empty(0, dtype=torch.uint8), hashes, [why for _, _, why in samples]


def _joined(parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]  # in pinned memory, where there is a GPU
    pixels, hashes, why = zip(*parts, strict=True)
    return torch.cat(pixels), np.concatenate(hashes), [reason for part in why for reason in part]
