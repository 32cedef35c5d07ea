"""`fastlt granularity`: chooses images and labels, encodes them, trains a study of them, and says what imbalance costs.

Everything lies in one folder: data/ has the data sets and the lists that they were made of, study/ the trainings,
granularity.csv, runs.csv and granularity.html what was found. After any end of this process the same command goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from fastlt.atomic import write_text
from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.experiments.granularity.design import BALANCED, Design, Images, read_design
from fastlt.experiments.granularity.options import GranularityOptions
from fastlt.experiments.granularity.taxonomy import Level
from fastlt.experiments.study import run_study
from fastlt.experiments.study_file import read_study
from fastlt.label_space import LabelSpace
from fastlt.launch import number_of_ranks
from fastlt.loaders.sampler import EpochPlan
from fastlt.messages import listed
from fastlt.options import OptionError
from fastlt.preflight import check_without_data, require_a_batch
from fastlt.recipe import Recipe, load_recipe
from fastlt.run_folder import hold

_ARM = "trained"
_OURS = ("data.path", "output", "seed")


def granularity(
    images: Path,
    overrides: Sequence[str],
    options: GranularityOptions,
    storage: EncodeOptions,
    plan_only: bool = False,
    redo: bool = False,
    other_commits: bool = False,
) -> int:
    """Does all of it; returns the exit status.

    Args:
        images: class folders.
        overrides: keys of the recipe to set.
        options, storage: what is trained, and how images are stored.
        plan_only: only says what would be done.
        redo, other_commits: as for `run_study`; redo also makes data sets anew that had other images or labels.

    Raises:
        ValueError, OptionError: images, taxonomy or recipe do not do, or OUT has something else.
    """
    if ours := [word for word in overrides if word.partition("=")[0] in _OURS]:
        raise OptionError(f"{ours[0]}: data.path, output and seed are set for each training: leave them out.")
    if storage.skip_broken:
        raise OptionError("--skip-broken would take images from some labels alone: remove broken ones first.")
    recipe = load_recipe(options.base, ["data.path=x", "output=x", *overrides])
    check_without_data(recipe, number_of_ranks(0))
    design = read_design(images, options)
    require_a_batch(recipe, design.num_images)
    _tell(design, options, recipe)
    if plan_only:
        return 0
    held = hold(options.out)
    if held is None:
        raise ValueError(f"another study is running in {options.out}: wait, or name another folder with --out.")
    try:
        file = prepare(design, overrides, options, storage, redo)
        status = run_study(file, options.out / "study", redo=redo, other_commits=other_commits)
        if status <= 1:  # else it was told to stop
            conclude(design, options)
        return status
    finally:
        os.close(held)


def prepare(
    design: Design, overrides: Sequence[str], options: GranularityOptions, storage: EncodeOptions, redo: bool = False
) -> Path:
    """Encodes every version under every level's labels, and writes the file of their study, which it returns.

    Raises:
        ValueError: there is something else in OUT, or images cannot be encoded.
    """
    data = {name: options.out / "data" / name for name in _data_sets(design)}
    for name, (ratio, level) in _data_sets(design).items():
        _encode(design, level, ratio, data[name], storage, redo)
    base = str(Path(options.base).resolve()) if Path(options.base).is_file() else options.base
    paths, arms = {name: str(path) for name, path in data.items()}, {_ARM: list(overrides)}
    keys = {"base": base, "data": paths, "arms": arms, "seeds": options.seeds}
    file = options.out / "study.yaml"
    write_text(file, yaml.safe_dump(keys, sort_keys=False, allow_unicode=True))
    return file


def _data_sets(design: Design) -> dict[str, tuple[float, Level]]:
    """Ratio and level of each data set, by its name."""
    return {f"ratio{r:g}_{len(level)}": (r, level) for r in design.versions for level in design.levels}


def _tell(design: Design, options: GranularityOptions, recipe: Recipe) -> None:
    """Levels, images, runs and steps."""
    if design.second_best:
        print(design.second_best)
    for level, asked in zip(design.levels, [*sorted(set(options.levels)), None], strict=False):
        largest = [f"{group} ({len(classes):,} classes)" for group, classes in level.groups.items()]
        is_last = level is design.levels[-1]
        said = "the classes themselves" if is_last else f"asked for {asked:,}: {listed(largest)}"
        print(f"level of {len(level):,}, {said}")
    held = sum(map(len, design.held_out.values()))
    print(f"{design.num_images:,} training images in each version, {held:,} held out; judged as {len(design.common):,}")
    for ratio in design.versions:
        counts = [sorted(design.counts(level, ratio).values()) for level in (design.levels[0], design.levels[-1])]
        most_to_fewest = [f"{of[-1]:,} to {of[0]:,} with {len(of):,} classes" for of in counts]
        print(f"{'balanced' if ratio == BALANCED else f'ratio {ratio:g}'}: images a class {', '.join(most_to_fewest)}")
    space = LabelSpace.build(design.counts(design.common, BALANCED))
    epoch = EpochPlan.of(space, recipe.data.auxiliary_per_class, recipe.seed)
    steps = epoch.steps_before(recipe.optimizer.epochs, recipe.optimizer.batch_size)
    runs = len(design.levels) * len(design.versions) * options.seeds
    shape = f"{len(design.levels)} levels x {len(design.versions)} versions x {options.seeds} seeds"
    print(f"{runs} trainings ({shape}) of {steps:,} steps each, {runs * steps:,} in all", flush=True)
    if options.seeds < 2:
        print("warning: one seed gives no intervals, and without them no difference means much: use --seeds 2 or more")


def _encode(design: Design, level: Level, ratio: float, folder: Path, storage: EncodeOptions, redo: bool) -> None:
    """Encodes a data set, or goes on with it; one that is there is left as it is, if it is the same.

    Raises:
        ValueError: there is another one of this name, or it cannot be encoded.
    """
    about = {name: value for name, value in asdict(storage).items() if name != "workers"}
    lists = {"train": design.images(level, ratio), "val": design.images(level)}
    files = {split: folder.with_name(f"{folder.name}_{split}.json") for split in lists}
    texts = {split: _coco(design.root, of, about) for split, of in lists.items()}
    made = [path for path in (folder, folder.with_name(f".{folder.name}.partial")) if path.exists()]
    if made and any(not file.is_file() or file.read_text() != texts[split] for split, file in files.items()):
        if not redo:
            raise ValueError(
                f"{folder} was made of other images, labels or settings: repeat that command, name another folder with "
                "--out, or have --redo make it anew and train its runs again."
            )
        for file in files.values():
            file.unlink(missing_ok=True)  # so that a kill leaves nothing half deleted that looks whole
        for stale in made:
            shutil.rmtree(stale)
    for split, file in files.items():
        write_text(file, texts[split])
    if not folder.exists():
        encode(folder, EncodeInputs(train=files["train"], val=files["val"], images=design.root), storage)


def _coco(root: Path, images: Images, about: dict[str, object]) -> str:
    """A split file in COCO's form: groups are categories in the order of their labels."""
    categories = [{"id": i, "name": group} for i, group in enumerate(images)]
    rows = [(label, path.relative_to(root)) for label, of in enumerate(images.values()) for path in of]
    entries = [{"id": i, "file_name": str(path)} for i, (_, path) in enumerate(rows)]
    annotations = [{"id": i, "image_id": i, "category_id": label} for i, (label, _) in enumerate(rows)]
    return json.dumps({"info": about, "categories": categories, "images": entries, "annotations": annotations})


def conclude(design: Design, options: GranularityOptions) -> None:
    """Judges those runs of the study that are finished, and writes what they say."""
    from fastlt.experiments.granularity.findings import Findings, Key  # these import torch, which takes seconds
    from fastlt.experiments.granularity.judging import Judged, judge
    from fastlt.experiments.granularity.page import draw_page

    judged: dict[Key, Judged] = {}
    first: dict[float, dict[int, Path]] = {}
    plan = read_study(options.out / "study.yaml", options.out / "study")
    for cell in plan.cells:
        if cell.folder.evaluation(cell.split).is_file():  # it is finished
            ratio, level = _data_sets(design)[cell.data]
            judged[ratio, len(level), cell.seed] = judge(design, level, cell.folder.path)
            first.setdefault(ratio, {}).setdefault(len(level), cell.folder.path)
    findings = Findings(design, judged)
    table, page = (options.out / f"granularity.{ending}" for ending in ("csv", "html"))
    runs = options.out / "runs.csv"
    findings.write_csv(table)
    findings.write_runs(runs)
    draw_page(findings, first, shlex.join([plan.keys.base, *plan.keys.words(_ARM, "")]), page)
    for ratio in design.ratios:
        print(findings.sentence(ratio))
    print(f"written: {table}, {runs}, {page}")
