"""What an encode is given: classes, images and neighbor pairs, read and checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.encode.neighbors import read_neighbors
from fastlt.data_prep.inputs.class_folders import tell_taken
from fastlt.data_prep.inputs.images import ClassImages, TargetImages, read_class_images, warn_of_overlap
from fastlt.data_prep.inputs.split_files import is_json, read_rows, text_classes
from fastlt.data_prep.names import all_keys, class_name, plain_names
from fastlt.label_space import LabelSpace, Neighbors
from fastlt.licenses import chosen, counted, family, normalize
from fastlt.messages import listed
from fastlt.options import Flag, Names, OptionalFile, OptionalSource, OptionError


@dataclass(frozen=True)
class EncodeInputs(TargetImages):
    """Where the images are. A SOURCE is a folder of class folders, or a split file: JSON like COCO's and iNaturalist's,
    or text with a line `path label` for each image."""

    auxiliary: OptionalSource = None
    """Images of the auxiliary classes."""
    neighbors: OptionalFile = None
    """Neighbors of each target, a JSON object {target: [auxiliary, ...]} or {target: {auxiliary: strength}}."""
    catalog: OptionalFile = None
    """A catalog whose kept images are taken instead of --auxiliary, with its neighbors unless --neighbors has others.
    There its classes are called by their names or as a list of URLs had them."""
    unfiltered: Flag = False
    """Take all images of the catalog."""
    licenses: Names = ()
    """Take only images of these licenses from the catalog: families such as cc0 pdm cc-by, and two words that narrow
    them, commercial (without NC) and redistributable (without ND)."""
    own_license: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The license of your own images, for the card and `fastlt publish`."""

    def __post_init__(self) -> None:
        if self.licenses and not self.catalog:
            raise OptionError("--licenses is about the images of a catalog: give --catalog too.")
        if self.catalog and self.auxiliary:
            raise OptionError("--catalog has the auxiliary images: leave out --auxiliary.")
        if self.auxiliary and not self.neighbors:
            raise OptionError("--auxiliary and --neighbors go together: give both or neither.")
        if self.neighbors and not (self.auxiliary or self.catalog):
            raise OptionError("--neighbors is of auxiliary images: give --auxiliary or --catalog too.")


@dataclass(frozen=True)
class Inputs:
    """Images by split and class, classes in the order of their labels, and the neighbor pairs."""

    splits: dict[str, ClassImages]
    num_targets: int
    pairs: Neighbors

    def label_space(self) -> LabelSpace:
        """Of the training images.

        Raises:
            ValueError: names or pairs that contradict each other, or a class without images.
        """
        counts = [(name, len(images)) for name, images in self.splits["train"].items()]
        return LabelSpace.build(dict(counts[: self.num_targets]), dict(counts[self.num_targets :]), self.pairs)

    def without(self, broken: Mapping[str, str]) -> Inputs:
        """The same, less these images.

        Raises:
            ValueError: a class of training images, or a split, has no other image.
        """
        splits: dict[str, ClassImages] = {}
        for split, classes in self.splits.items():
            splits[split] = {name: [i for i in images if str(i) not in broken] for name, images in classes.items()}
            empty = [name for name, images in splits[split].items() if not images]
            if empty and (split == "train" or len(empty) == len(classes)):
                raise ValueError(f"every image of class {empty[0]!r} in {split} is broken.")
            if emptied := [name for name in empty if classes[name]]:
                print(f"warning: every image of {listed(emptied)} in {split} is broken", flush=True)
        return Inputs(splits, self.num_targets, self.pairs)

    def digest(self) -> str:
        """SHA-256 of all of it, in hex."""
        splits = [[s, [[name, list(map(str, i))] for name, i in c.items()]] for s, c in self.splits.items()]
        pairs = {t: sorted(n.items() if isinstance(n, Mapping) else n) for t, n in self.pairs.items()}
        content = json.dumps([splits, self.num_targets, sorted(pairs.items())])
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


def read_inputs(sources: EncodeInputs) -> Inputs:
    """Reads them.

    Raises:
        ValueError: missing or empty folders, bad split files, unknown classes or neighbors, options that clash.
    """
    if not sources.train:
        raise ValueError("--train is missing: say where the training images are.")
    if not (sources.val or sources.test):
        raise ValueError("without --val and --test nothing can be evaluated: give one of them, or both.")
    given = [s for s in (sources.train, sources.val, sources.test, sources.auxiliary) if s]
    if sources.images and not any(source.is_file() for source in given):
        raise ValueError("--images is for split files, and none is given: leave it out.")
    targets = read_class_images(sources.train, "training images", sources.images)
    if len(targets) == 1:
        print(f"warning: {sources.train} has one class, {listed(list(targets))}: a classifier needs two", flush=True)
    auxiliaries: ClassImages = {}
    pairs: Neighbors = {}
    if sources.auxiliary and sources.neighbors:
        auxiliaries = read_class_images(sources.auxiliary, "auxiliary images", sources.images)
        pairs = read_neighbors(sources.neighbors, {name: [] for name in targets}, {name: [] for name in auxiliaries})
    if sources.catalog:
        with Catalog(sources.catalog) as catalog:
            auxiliaries, pairs = _of_catalog(catalog, sources, list(targets))
        for name in auxiliaries:
            class_name(name, str(sources.catalog))
        pairs = _of_kept(pairs, auxiliaries)
    if auxiliaries and not any(pairs.values()):
        print("warning: there are no neighbor pairs, so nothing is silenced: --neighbors FILE gives pairs", flush=True)
    twice = [name for name in auxiliaries if name in targets]
    if twice:
        raise ValueError(f"class name {twice[0]!r} occurs twice; a class is either a target or an auxiliary.")
    splits: dict[str, ClassImages] = {"train": {**targets, **auxiliaries}}
    for split, source, what in (("val", sources.val, "validation images"), ("test", sources.test, "test images")):
        if source:
            splits[split] = _read_like(source, what, split, sources, targets)
            warn_of_overlap(targets, (image for images in splits[split].values() for image in images), what)
    inputs = Inputs(splits, len(targets), pairs)
    inputs.label_space()  # contradictions show before an hour of encoding, not after
    return inputs


def _of_catalog(catalog: Catalog, sources: EncodeInputs, targets: list[str]) -> tuple[ClassImages, Neighbors]:
    """Images of the auxiliary classes, and the neighbors that the catalog or the user's file has."""
    refused = refused_licenses(catalog, sources)
    kept = catalog.kept_images(sources.unfiltered, refused)
    if refused:
        _tell_refused(catalog.path, refused)
    images = _without_targets(catalog, kept, targets)
    tell_taken(catalog.path, "auxiliary images", images)
    if not sources.neighbors:
        return images, {class_name(target, str(catalog.path)): names for target, names in catalog.neighbors().items()}
    titles = {row["name"]: [row["title"]] for row in catalog.categories()}
    target_titles = {class_name(row["name"], str(catalog.path)): [row["title"]] for row in catalog.targets()}
    return images, read_neighbors(sources.neighbors, {name: target_titles.get(name, []) for name in targets}, titles)


def refused_licenses(catalog: Catalog, sources: EncodeInputs) -> dict[str, int]:
    """{license: images} of what `--licenses` leaves out; a license that nobody knows is none that is allowed."""
    families = chosen(sources.licenses)
    if families is None:
        return {}
    found = catalog.licenses_of_kept(sources.unfiltered)
    return {said: number for said, number in found.items() if family(normalize(said)) not in families}


def _tell_refused(path: Path, refused: Mapping[str, int]) -> None:
    known, unknown = counted(refused)
    parts = [listed([f"{number:,} {name}" for name, number in known.items()])] if known else []
    if unknown:
        said = listed([f"{number:,} {repr(name) if name else 'none told'}" for name, number in unknown.items()])
        parts.append(f"of licenses that nobody knows: {said}")
    print(f"{path}: {sum(refused.values()):,} images are left out by --licenses: {'; '.join(parts)}", flush=True)


def _without_targets(catalog: Catalog, images: ClassImages, targets: list[str]) -> ClassImages:
    """The auxiliary classes that are no target under another name, as labels of a list may be; says which are."""
    target_of = {
        key: target
        for target, plain in zip(targets, plain_names(targets), strict=True)
        for key in all_keys(target) | all_keys(plain)
    }
    titles = {row["name"]: row["title"] for row in catalog.categories()}
    same = {}
    for name in images:
        keys = all_keys(titles[name]) | all_keys(name)
        if found := sorted(target_of[key] for key in keys if key in target_of):
            same[name] = found[0]
    if same:
        named = listed([f"{name} is {target}" for name, target in same.items()])
        print(f"{catalog.path}: {len(same):,} auxiliary classes are left out, as they are targets: {named}", flush=True)
    return {name: paths for name, paths in images.items() if name not in same}


def _of_kept(pairs: Neighbors, auxiliaries: ClassImages) -> Neighbors:
    """The pairs whose auxiliary class has images; says how many have none."""
    kept = {
        target: {name: strength for name, strength in names.items() if name in auxiliaries}
        if isinstance(names, Mapping)
        else [name for name in names if name in auxiliaries]
        for target, names in pairs.items()
    }
    if lost := sum(map(len, pairs.values())) - sum(map(len, kept.values())):
        print(f"{lost:,} neighbor pairs are left out, as no image of their auxiliary class was kept", flush=True)
    return {target: names for target, names in kept.items() if names}


def _read_like(source: Path, what: str, split: str, sources: EncodeInputs, targets: ClassImages) -> ClassImages:
    """Images of the same classes as `targets`, in the same order; says which of them have none."""
    names = None
    if source.is_file() and not is_json(source):
        if sources.train is None or is_json(sources.train) or not sources.train.is_file():
            raise ValueError(
                f"the labels of {source} are numbers: only a text list of training images says which classes they are, "
                f"and {sources.train} is not one."
            )
        names = text_classes(sources.train, read_rows(sources.train))
    classes = read_class_images(source, what, sources.images, names, may_be_empty=True, split=split)
    unknown = [name for name, images in classes.items() if images and name not in targets]
    if unknown:
        raise ValueError(f"the {what} in {source} have class {unknown[0]!r}, which the training images do not have.")
    lacking = [name for name in targets if not classes.get(name)]
    if len(lacking) == len(targets):
        raise ValueError(f"{source} has no {what} of any class: nothing could be evaluated.")
    if lacking:
        print(
            f"warning: {source} has no {what} of {len(lacking):,} of the {len(targets):,} classes ({listed(lacking)}): "
            "accuracies are means over the others",
            flush=True,
        )
    return {name: classes.get(name, []) for name in targets}
