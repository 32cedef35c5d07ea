"""Levels without a taxonomy, as second best: clusters of classes that look alike to a network.

Shapes: C classes, D features.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fastlt.cores import available_cores
from fastlt.data_prep.filter.options import EncoderOptions
from fastlt.experiments.granularity.options import GranularityOptions
from fastlt.experiments.granularity.taxonomy import Level, Node, coarser, cut
from fastlt.run_folder import RunFolder, hold

_BATCH = 128


def clustered_levels(pool: Mapping[str, Sequence[Path]], options: GranularityOptions) -> tuple[list[Level], str]:
    """The levels of these classes as `taxonomy.levels_of` has them, and by which encoder; what that gives is kept.

    Args:
        pool: the images of each class, without those held out.
        options: of the study.

    Raises:
        ValueError: the encoder or scikit-learn cannot be had, images are broken, or no two levels have these numbers.
    """
    numbers = coarser(options.levels, len(pool))
    if find_spec("sklearn") is None:
        raise ValueError("--clusters needs scikit-learn: pip install 'fastlt[tsne]'.")
    rows, title = _prototypes(pool, _encoder_options(options), options.out / "embeddings")
    images = {name: len(of) for name, of in pool.items()}
    return [*cut(_tree(rows, images), images, numbers), Level({name: (name,) for name in images})], title


def _encoder_options(options: GranularityOptions) -> EncoderOptions:
    told, weights = options.clusters, options.cluster_weights
    assert told, "levels are clusters where it is given"
    if not RunFolder(Path(told)).is_begun:
        return EncoderOptions(model=told, weights=weights, pretrained=weights is None)
    if weights:
        raise ValueError(f"--clusters {told} is a run with weights of its own: leave out --cluster-weights.")
    return EncoderOptions(run=Path(told))


def _prototypes(pool: Mapping[str, Sequence[Path]], options: EncoderOptions, folder: Path) -> tuple[np.ndarray, str]:
    """The normalized mean features of each class [C, D], and the encoder's title."""
    from fastlt.data_prep.filter.embed import embed, open_embeddings, open_encoder  # these import torch
    from fastlt.data_prep.filter.embedding_store import file_keys

    encoder = open_encoder(options)
    held = hold(folder)
    if held is None:
        raise ValueError(f"another process looks at images in {folder}: wait, or name another folder with --out.")
    try:
        paths = [path for of in pool.values() for path in of]
        keys = file_keys(paths)
        with open_embeddings(folder, encoder) as store:
            broken = embed(encoder, [*map(str, paths)], keys, store, _BATCH, available_cores(), "images to cluster")
            if broken:
                name, why = next(iter(broken.items()))
                raise ValueError(f"{len(broken):,} images are broken, for example {name}: {why}. Remove them first.")
            features = store.rows()["features"][store.find(keys)].astype(np.float64)  # [N, D]
    finally:
        os.close(held)
    starts = np.cumsum([0, *(len(of) for of in pool.values())])[:-1]
    return _normalized(np.add.reduceat(features, starts)), encoder.title


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _tree(prototypes: np.ndarray, images: Mapping[str, int]) -> Node:
    """Classes put together two by two by Ward's rule, those that are most alike first; prototypes [C, D].

    A cluster is called after its class that is nearest to the mean of all of its classes.
    """
    from sklearn.cluster import AgglomerativeClustering  # an extra

    merges = AgglomerativeClustering(n_clusters=None, distance_threshold=0).fit(prototypes).children_
    place = {name: i for i, name in enumerate(images)}
    nodes = [Node(name, (), (name,), number) for name, number in images.items()]
    for first, second in merges:
        both = Node.above("", (nodes[first], nodes[second]))
        rows = prototypes[[place[name] for name in both.classes]]
        middle = both.classes[int((rows @ rows.mean(0)).argmax())]
        nodes.append(Node(f"like {middle}", both.children, both.classes, both.images))
    return nodes[-1]
