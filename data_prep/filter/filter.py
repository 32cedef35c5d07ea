"""Which crawled images stay: those of their category, or near enough to a target, and near no validation or test image.

Everything that costs time is stored beside the catalog, so other thresholds take seconds. N is the number of crawled
images in shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.embed import Embedder, embed, open_embeddings
from fastlt.data_prep.filter.embedding_store import RowStore, file_keys
from fastlt.data_prep.filter.inputs import SPLITS, held_out_images, read_crawled, require_split, training_images
from fastlt.data_prep.filter.judgment import Judgment
from fastlt.data_prep.filter.labels import Labels, judge_labels
from fastlt.data_prep.filter.options import FilterOptions
from fastlt.data_prep.filter.similarity import (
    Neighbors,
    References,
    Space,
    near_duplicates,
    nearest_targets,
    similarities,
    strengths_of_pairs,
)
from fastlt.data_prep.inputs.images import TargetImages, read_class_images, warn_of_overlap
from fastlt.data_prep.verdicts import BROKEN, LIKE_ANOTHER, NEAR_DUPLICATE, are_kept, by_thresholds
from fastlt.messages import listed


def judge(catalog: Catalog, encoder: Embedder, sources: TargetImages, options: FilterOptions) -> Judgment:
    """Embeds what is not embedded yet and decides about every image of the finished shards; writes no states.

    Args:
        catalog: held by `lock`.
        encoder: see `embed.py`.
        sources: the images of the targets, and in `val` and `test` those that no kept image may repeat; of held-out
            folders every image below them counts.
        options: see `FilterOptions`.

    Raises:
        ValueError: no images, targets without folder or without an image that can be read, or no split.
    """
    options = options.with_preset()
    require_split(sources)
    assert sources.train, "as required"
    images = read_crawled(catalog)
    classes = read_class_images(sources.train, "training images", sources.images)
    targets = training_images(catalog, classes)
    splits = {
        what: held_out_images(source, split, sources.images, list(classes))
        for split, what in SPLITS.items()
        if (source := getattr(sources, split))
    }
    for what, paths in splits.items():
        warn_of_overlap(targets, paths, f"{what} images")
    folder = catalog.path.with_name(f"{catalog.path.stem}_embeddings")
    with open_embeddings(folder, encoder) as store:
        training = [path for files in targets.values() for path in files]
        readable = set(_embed_whole(encoder, training, store, options.batch_size, options.workers, "training"))
        targets = {name: [path for path in paths if path in readable] for name, paths in targets.items()}
        if lost := [name for name, paths in targets.items() if not paths]:
            raise ValueError(f"no training image of {listed(lost)} can be read.")
        for what, paths in splits.items():
            splits[what] = _embed_whole(encoder, paths, store, options.batch_size, options.workers, what)
        broken = embed(
            encoder, images.names, images.keys, store, options.batch_size, options.workers, "auxiliary", images.shards
        )
        rows = store.find(images.keys)
        space = Space(store, encoder.device, [store.find(file_keys(paths)) for paths in targets.values()])
        paths = [path for split in splits.values() for path in split]
        names = [name for name, split in splits.items() for _ in split]
        keys = file_keys(paths)
        references = References(paths, names, keys, store.find(keys))

    whole = np.flatnonzero(rows >= 0)  # the positions of all images but broken ones, [n]
    if not len(whole):
        raise ValueError(f"none of the images of {catalog.path} can be read: {next(iter(broken.values()))}")
    rows, categories = rows[whole], images.categories[whole]
    duplicates = near_duplicates(folder / encoder.digest, space, images.keys[whole], rows, references, options)
    neighbors = Neighbors(catalog, list(targets), images.categories)
    similarity, nearest = similarities(space, rows, neighbors.of(categories))
    gamma2 = space.gamma2() if options.gamma2 == "auto" else options.gamma2
    ids, category = np.unique(categories, return_inverse=True)
    labels = judge_labels(space, rows, category) if options.gamma1 == "auto" else None
    reasons, likes = _reasons(similarity, gamma2, labels, options), {}
    if labels:
        titles = [catalog.category(at)["title"] for at in ids.tolist()] + list(targets)
        for at in np.flatnonzero(reasons == LIKE_ANOTHER).tolist():
            likes[int(whole[at])] = titles[labels.other[at]], float(labels.cosine[at])
    for at, (reference, cosine) in duplicates.items():
        reasons[at] = NEAR_DUPLICATE.format(references.splits[reference])
        likes[int(whole[at])] = str(references.paths[reference]), cosine
    by_hand = catalog.images_by_hand()
    kept = are_kept(reasons, images.ids[whole], by_hand)
    lonely = np.isin(categories, neighbors.without()) & kept
    found_pairs = nearest_targets(space, rows[lonely], categories[lonely], options.neighbors)
    pairs = [*neighbors.pairs(), *found_pairs]
    strengths = strengths_of_pairs(space, rows[kept], categories[kept], pairs)
    return Judgment(
        ids=images.ids,
        categories=images.categories,
        names=images.names,
        targets=targets,
        similarity=_spread(similarity, whole, len(images.ids), np.nan),
        nearest=_spread(nearest, whole, len(images.ids), -1),
        reasons=_spread(reasons, whole, len(images.ids), BROKEN),
        kept=_spread(kept, whole, len(images.ids), False),
        likes=likes,
        broken={at: broken[images.names[at]] for at in np.setdiff1d(np.arange(len(images.ids)), whole).tolist()},
        options=options,
        gamma2=gamma2,
        labels=labels,
        found_pairs=found_pairs,
        strengths=dict(zip(pairs, strengths, strict=True)),
        encoder=encoder.title,
    )


def _embed_whole(
    encoder: Embedder, paths: Sequence[Path], store: RowStore, batch_size: int, workers: int | None, what: str
) -> list[Path]:
    """Embeds images of targets; those that are not broken, of which it says how many there are."""
    broken = embed(encoder, [*map(str, paths)], file_keys(paths), store, batch_size, workers, what)
    whole = [path for path in paths if str(path) not in broken]
    if not whole:
        raise ValueError(f"none of the {what} images can be read: {next(iter(broken.values()))}")
    if broken:
        print(f"left out: {len(broken):,} {what} images that cannot be read: {next(iter(broken.values()))}")
    return whole


def _reasons(similarity: np.ndarray, gamma2: float, labels: Labels | None, options: FilterOptions) -> np.ndarray:
    """Why each image is dropped, "" of kept ones."""
    if labels:
        return by_thresholds(similarity, -np.inf, gamma2, labels.right < 0.5)
    if options.gamma1 == "auto" or options.gamma1 >= gamma2:
        raise ValueError(f"--gamma1 {options.gamma1} must be below --gamma2, which is {gamma2:.3f} for this encoder.")
    return by_thresholds(similarity, options.gamma1, gamma2)


def _spread(values: np.ndarray, positions: np.ndarray, size: int, fill: object) -> np.ndarray:
    spread = np.full(size, fill, values.dtype)
    spread[positions] = values
    return spread
