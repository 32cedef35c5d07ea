"""The file of a study: its keys, and the runs that they mean, each with its whole recipe, checked before any starts."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from fastlt.dataset.encoded import Described
from fastlt.dataset.staging import described
from fastlt.launch import number_of_ranks
from fastlt.loaders.sampler import EpochPlan
from fastlt.messages import harmless, listed, one_line
from fastlt.places import Place, as_place, is_url
from fastlt.preflight import check
from fastlt.recipe import Recipe, changed_keys, find_recipe, load_recipe
from fastlt.run_folder import RunFolder
from fastlt.yaml_keys import Section, validated
from fastlt.yaml_text import read_mapping

_UNLEARNED = ("output", "data.path", "data.stage_to", "data.workers", "checkpoint", "log.steps", "log.trackers")
"""Keys that change nothing of what a run learns; of the data set a digest counts, not its path."""
_MOST_SEEDS = 10_000


class Study(Section):
    base: str
    """The recipe of all arms: a file beside the study, another path, or the name of one of ours."""
    data: dict[str, Any]
    """The encoded data sets on which every arm is trained: for each name a path or a URL."""
    arms: dict[str, Any]
    """For each arm's name the keys of the recipe that it changes, as `fastlt train` takes them (data.auxiliary=false
    loss.tau=0), as a list of such words, or as a mapping. In them {data} is the path of the data set:
    data.path={data}_cut."""
    seeds: Any
    """The seeds with which every arm is trained: a list, or how many, from 0 on."""
    baseline: str | None = None
    """The arm with which all others are compared, over two seeds or more; without this key it is the first arm."""
    against: dict[str, str] = Field({})
    """For an arm's name another arm, with which it is compared as well."""
    steps: int | Literal["baseline"] | None = None
    """The same number of optimizer steps for all arms: this one, or `baseline` for those of the baseline's recipe.
    Each arm gets the whole epochs that come nearest and, where its warmup_epochs is the baseline's, a warm-up of as
    many steps. Arms with epochs of different length cannot have head_only_epochs."""
    ranks: int = Field(0, ge=0)
    """Processes of a training; 0 starts one for each GPU, or one on the CPU."""

    @field_validator("data", "arms", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """With names that YAML takes for numbers."""
        if not isinstance(value, dict):
            return value
        names = [str(name) for name in value]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"has the name {one_line(twice[0])!r} twice")
        return dict(zip(names, value.values(), strict=True))

    @field_validator("steps", "ranks", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """Python takes yes for 1."""
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for kind, names in (("arms", self.arms), ("data", self.data), ("seeds", self.seed_list)):
            if not names:
                raise ValueError(f"{kind} names nothing to train")
        for name in (*self.arms, *self.data):
            _require_folder_name(name)
        for arm in self.arms:
            self.words(arm, "")
        if odd := next((name for name, path in self.data.items() if not isinstance(path, str | int) or not path), None):
            raise ValueError(f"data set {odd!r} must be the path of a folder")
        for name, path in self.data.items():
            try:
                Path(str(path)).expanduser()
            except RuntimeError:
                raise ValueError(f"data set {name!r} is {one_line(path)}, of a user whom nobody knows") from None
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Study:
        seeds = self.seed_list
        if twice := [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]:
            raise ValueError(f"seed {twice[0]} stands twice in seeds: a repeated run is no further evidence")
        baseline = {"baseline": [self.baseline]} if self.baseline is not None else {}
        pairs = {"against": [name for pair in self.against.items() for name in pair]} if self.against else {}
        for key, names in {**baseline, **pairs}.items():
            if unknown := next((name for name in names if name not in self.arms), None):
                raise ValueError(f"{key} {one_line(unknown)!r} is none of the arms {listed(list(self.arms))}")
            if len(seeds) < 2:
                raise ValueError(
                    f"{key} asks for paired differences, and one seed gives no interval: name two seeds or more, or "
                    f"leave {key} out to have the means alone"
                )
        if same := next((arm for arm, other in self.against.items() if arm == other), None):
            raise ValueError(f"against compares {one_line(same)!r} with itself")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be a number above 0, or baseline")
        return self

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds one by one.

        Raises:
            ValueError: something else is there.
        """
        number = self.seeds if type(self.seeds) is int else None
        seeds = list(range(number)) if number is not None and number <= _MOST_SEEDS else self.seeds
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
            most = f"up to {_MOST_SEEDS:,}"
            raise ValueError(
                f"seeds is {self.seeds!r}; it must be a list of whole numbers, or how many from 0 on, {most}"
            )
        return tuple(seeds)

    @property
    def compared_with(self) -> str:
        """The arm with which the others are compared."""
        return self.baseline or next(iter(self.arms))

    def words(self, arm: str, path: str) -> list[str]:
        """The words that an arm adds to those of `fastlt train`, on the data set of this path.

        Raises:
            ValueError: they are none.
        """
        given = self.arms[arm]
        try:
            if isinstance(given, dict):
                given = [as_word(str(key), value) for key, value in given.items()]
            words = shlex.split(given) if isinstance(given, str) else given or []
        except ValueError as error:  # a quotation mark without its other one
            raise ValueError(f"arm {arm!r}: {error}") from None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"arm {arm!r} is {given!r}; it must be words like optimizer.epochs=3, or a mapping")
        keys = [word.partition("=")[0] for word in words]
        if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise ValueError(f"arm {arm!r} sets {one_line(twice[0])} twice: leave one of them out")
        return [word.replace("{data}", path) for word in words]


def as_word(key: str, value: Any) -> str:
    """A word like optimizer.epochs=3 for `fastlt train`, whose value is YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=2**20, allow_unicode=True)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def _require_folder_name(name: str) -> None:
    if not re.fullmatch(r"[^./\n][^/\n]{0,79}", name) or harmless(name) != name or name != name.strip():
        raise ValueError(
            f"{one_line(name)!r} cannot be the name of a folder of runs: no /, and no dot at its beginning"
        )


@dataclass(frozen=True)
class Cell:
    """One run of a study: an arm on a data set with a seed.

    Attributes:
        data, arm, seed: which one.
        base, words: of `fastlt train`, but for the folder of the run.
        recipe: what these make, folder and all.
        data_digest: of what the data set holds.
        steps: optimizer steps of it.
        split: that `fastlt evaluate` judges it on.
    """

    data: str
    arm: str
    seed: int
    base: str
    words: tuple[str, ...]
    recipe: Recipe
    data_digest: str
    steps: int
    split: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.data, self.arm, self.seed

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.recipe.output)

    @property
    def command(self) -> str:
        """What repeats it."""
        return shlex.join(["fastlt", "train", self.base, *self.words, "output=runs/repeated"])

    def recipe_digest(self) -> str:
        """Identifies what is learned: 16 hex digits of the SHA-256 of all keys that have a part in it."""
        values = self.recipe.model_dump(mode="json", exclude_defaults=True)
        for key in _UNLEARNED:
            section, _, last = key.rpartition(".")
            (values.get(section, {}) if section else values).pop(last, None)
        return _digest({name: value for name, value in values.items() if value != {}})

    def changed(self, before: Recipe) -> list[str]:
        """The keys that have a part in what is learned and were others in a recipe, with both values."""
        differ = changed_keys(before, self.recipe)
        unlearned = tuple(f"{key}." for key in _UNLEARNED)
        return [f"{key}: {old} -> {new}" for key, (old, new) in differ.items() if not f"{key}.".startswith(unlearned)]


@dataclass(frozen=True)
class Plan:
    """A study that can be started.

    Attributes:
        file: where it is written down.
        out: the folder of the study.
        keys: what the file says.
        ranks: processes of a training.
        cells: its runs in the order in which they are trained: seed after seed, all arms with each.
    """

    file: Path
    out: Path
    keys: Study
    ranks: int
    cells: tuple[Cell, ...]


def read_study(file: Path, out: Path | None = None) -> Plan:
    """Reads the file of a study and checks all of its runs.

    Args:
        file: YAML.
        out: the folder of the study; that of the file's name without its ending if None.

    Raises:
        ValueError: the file, an arm or a data set is not as it must be; the message says which one.
    """
    keys = validated(Study, read_mapping(file, "study"), f"study {file}")
    paths: dict[Place, str] = {}
    for name, path in keys.data.items():
        place = as_place(str(path))
        if (same := paths.setdefault(place.resolve() if isinstance(place, Path) else place, name)) != name:
            raise ValueError(f"data sets {same!r} and {name!r} are one data set twice: {path}.")
    if out is None and not file.suffix:
        raise ValueError(f"{file} has no ending such as .yaml: name the folder of the study with --out.")
    out = out or file.with_suffix("")
    beside = file.parent / keys.base
    base = str(beside if beside.is_file() else keys.base)
    find_recipe(base)
    ranks = number_of_ranks(keys.ranks)
    cells = tuple(cell for name in keys.data for cell in _cells(keys, base, out, name))
    for cell in cells:
        with _blaming(f"arm {cell.arm!r} on data set {cell.data!r}"):
            check(cell.recipe, None, ranks)
    return Plan(file, out, keys, ranks, cells)


def _cells(keys: Study, base: str, out: Path, data: str) -> Iterator[Cell]:
    """The runs on one data set."""
    with _blaming(f"data set {data!r}"):
        path = as_place(str(keys.data[data]))
        whole = described(path)
    alike: dict[str, str] = {}
    first = {arm: _cell(keys, base, out, data, arm, keys.seed_list[0], []) for arm in keys.arms}
    for arm, cell in first.items():
        if (same := alike.setdefault(cell.recipe_digest() + cell.data_digest, arm)) != arm:
            raise ValueError(f"arms {same!r} and {arm!r} are one arm twice: they train the same recipe.")
        if _judged(described(cell.recipe.data.path)) != _judged(whole):
            raise ValueError(f"arm {arm!r}: {cell.recipe.data.path} is judged by other classes or images than {path}.")
    epochs = load_recipe(base, ["data.path=x", "output=x"]).optimizer.epochs
    lengths = _lengths(keys, epochs, {arm: cell.recipe for arm, cell in first.items()})
    for seed in keys.seed_list:
        for arm in keys.arms:
            yield _cell(keys, base, out, data, arm, seed, lengths[arm])


def _cell(keys: Study, base: str, out: Path, data: str, arm: str, seed: int, length: list[str]) -> Cell:
    given = str(keys.data[data])
    path = given if is_url(given) else str(Path(given))
    folder = out / "runs" / data / arm / f"seed{seed}"
    ours = [as_word("data.path", path), f"seed={seed}"]
    theirs = keys.words(arm, path)
    with _blaming(f"arm {arm!r}"):
        recipe = load_recipe(base, [*ours, as_word("output", str(folder)), *theirs, *length])
        if (recipe.seed, recipe.output) != (seed, folder.expanduser()):
            raise ValueError("the study sets seed and output: leave them out.")
        if len(keys.data) > 1 and recipe.data.path != as_place(path) and "{data}" not in str(keys.arms[arm]):
            raise ValueError("data.path is the same for all data sets of the study: write it with {data}.")
        dataset = described(recipe.data.path)
    plan = _epochs(recipe)
    splits = {name: split.sha256 for name, split in dataset.splits.items()}
    return Cell(
        data=data,
        arm=arm,
        seed=seed,
        base=base,
        words=(*ours, *theirs, *length),
        recipe=recipe,
        data_digest=_digest([dataset.label_space.digest(), splits]),
        steps=plan.steps_before(recipe.optimizer.epochs, recipe.optimizer.batch_size),
        split=dataset.judged_on,
    )


def _judged(dataset: Described) -> tuple[object, ...]:
    """By what an arm is judged, which must be the same for all: split, classes, and images of each."""
    names = dataset.label_space.target_names
    return dataset.judged_on, names, dataset.split(dataset.judged_on).counts[: len(names)]


def _epochs(recipe: Recipe) -> EpochPlan:
    """What an epoch of a run has, as its trainer will find."""
    space = described(recipe.data.path).label_space.trained(recipe.data.auxiliary)
    return EpochPlan.of(space, recipe.data.auxiliary_per_class, recipe.seed)


def _lengths(keys: Study, base_epochs: int, recipes: dict[str, Recipe]) -> dict[str, list[str]]:
    """For each arm the words that give it as many optimizer steps as the baseline, and as many of warm-up.

    A warm-up that is another than the baseline's in epochs stays as it is.

    Raises:
        ValueError: an arm sets its epochs, or has epochs of another length and some for the head alone.
    """
    if keys.steps is None:
        return {arm: [] for arm in recipes}
    baseline = recipes[keys.compared_with]
    plan, batch_size = _epochs(baseline), baseline.optimizer.batch_size
    epochs = baseline.optimizer.epochs if keys.steps == "baseline" else plan.epochs_of(keys.steps, batch_size)
    steps = plan.steps_before(epochs, batch_size)
    found = {}
    for arm, recipe in recipes.items():
        asked, plan = recipe.optimizer, _epochs(recipe)
        if asked.epochs != base_epochs and (recipe is not baseline or keys.steps != "baseline"):
            raise ValueError(f"arm {arm!r}: optimizer.epochs follows from `steps`: leave one of them out.")
        longer = len(plan) / asked.batch_size / (len(_epochs(baseline)) / batch_size)  # an epoch of this arm
        if longer != 1 and asked.head_only_epochs:
            raise ValueError(
                f"arm {arm!r}: its epochs have {longer:.3g} times the baseline's steps, so that "
                f"optimizer.head_only_epochs={asked.head_only_epochs} would train the head alone for other steps: set "
                "it to 0, or leave `steps` out."
            )
        found[arm] = [f"optimizer.epochs={plan.epochs_of(steps, asked.batch_size)}"]
        if longer != 1 and asked.warmup_epochs and asked.warmup_epochs == baseline.optimizer.warmup_epochs:
            found[arm].append(f"optimizer.warmup_epochs={asked.warmup_epochs / longer:.6g}")
    return found


@contextmanager
def _blaming(who: str) -> Iterator[None]:
    """Puts who is to blame before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
