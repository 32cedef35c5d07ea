"""README.md of an encoded data set: what is in it, under which licenses, where it comes from; for people and hubs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fastlt import __version__
from fastlt.atomic import write_text
from fastlt.dataset.attribution import FILE, read_credits
from fastlt.dataset.encoded import EncodedDataset
from fastlt.foreign import load_json, markdown
from fastlt.label_space import FEW_SHOT_BELOW, MANY_SHOT_ABOVE
from fastlt.licenses import counted, name_on_the_hub, permits

CARD = "README.md"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_NAMED = 20  # licenses or sources
_HOW = ("batch_size", "workers")  # settings of filter that change nothing


class Contents(NamedTuple):
    """What an encoded data set holds, by where it comes from.

    Attributes:
        num_images: in all splits.
        num_own: those that its maker brought, of which ATTRIBUTION.csv says nothing.
        own_license: what the maker says of these, "" for nothing.
        licenses, sources: {name as the catalog had it: images} of the others.
    """

    num_images: int
    num_own: int
    own_license: str
    licenses: dict[str, int]
    sources: dict[str, int]


def contents(data: EncodedDataset) -> Contents:
    """Counts them.

    Raises:
        ValueError: ATTRIBUTION.csv is missing, damaged, or of another data set, or nobody knows whether there has to be
            one.
    """
    made = settings(data)
    has_credits = (data.path / FILE).is_file()
    if made.get("catalog") and not has_credits:
        raise ValueError(f"{data.path} has no {FILE} to credit anybody by: encode again.")
    if data.label_space.auxiliary_names and not has_credits and "catalog" not in made:
        raise ValueError(
            f"{data.path} was encoded before data sets said whose the images of auxiliary classes are: encode again."
        )
    licenses: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    last, counts = -1, data.label_space.counts
    for credit in read_credits(data.path):
        licenses[credit.license] += 1
        sources[credit.source] += 1
        last = credit.sample
    credited, crawled = sum(licenses.values()), sum(counts[data.label_space.num_targets :])
    if has_credits and (credited != crawled or (crawled and last != sum(counts) - 1)):
        raise ValueError(  # or what it lacks would count as its maker's own
            f"{data.path / FILE} is cut off, or of another data set: it credits {credited:,} images of the {crawled:,} "
            "that came from a catalog. Encode again."
        )
    number = sum(sum(split.counts) for split in data.splits.values())
    own_license = str(made.get("own_license", ""))
    return Contents(number, number - credited, own_license, dict(licenses), dict(sources))


def settings(data: EncodedDataset) -> dict[str, Any]:
    """How it was encoded, as its manifest says."""
    found = load_json(data.path / "manifest.json").get("settings")
    if not isinstance(found, dict) or not isinstance(found.get("catalog") or {}, dict):
        raise ValueError(f"{data.path / 'manifest.json'} is damaged, its settings are none: encode again.")
    return found


def write_card(path: Path) -> None:
    """Writes the card of the encoded data set in a folder, from what lies there.

    Raises:
        ValueError: it is none, or damaged.
    """
    data = EncodedDataset.open(path)
    write_text(path / CARD, _card(data, contents(data), settings(data)))


def _card(data: EncodedDataset, found: Contents, made: Mapping[str, Any]) -> str:
    space = data.label_space
    size = next((name for most, name in _SIZES if found.num_images < most), "n>10M")
    head = {
        "license": _license(found),
        "task_categories": ["image-classification"],
        "size_categories": [size],
        "tags": ["long-tailed", "fastlt"],
    }
    groups = {name: len(classes) for name, classes in space.shot_groups().items()}
    counts, strengths = space.counts[: space.num_targets], " of different strengths" if space.strengths else ""
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).rstrip(),
        "---",
        "",
        "# Images for long-tailed classification",
        "",
        f"{found.num_images:,} images of {space.num_targets:,} target classes and {len(space.auxiliary_names):,}",
        f"auxiliary classes, which look like targets and are left out of predictions; {len(space.neighbors):,} pairs",
        f"of a target and an auxiliary neighbor{strengths}. Training images of a target: {min(counts):,} to",
        f"{max(counts):,} ({groups['many']:,} classes with more than {MANY_SHOT_ABOVE}, {groups['few']:,} with fewer",
        f"than {FEW_SHOT_BELOW}).",
        "",
        "| split | images | classes | file |",
        "| --- | --- | --- | --- |",
        *(
            f"| {markdown(name)} | {sum(split.counts):,} | {sum(n > 0 for n in split.counts):,} | `{split.file}` |"
            for name, split in data.splits.items()
        ),
        "",
        *_licenses(found),
        *_origin(found, made),
        "## To use it",
        "",
        f"The format is `{data.format}`; `label_space.json` has names, counts and neighbor pairs. To train on it:",
        "`fastlt train RECIPE data.path=FOLDER`.",
        "",
        f"Made by fastlt {__version__}.",
    ]
    return "\n".join(lines) + "\n"


def _license(found: Contents) -> str:
    """For the head: the license of all images, if it is one."""
    said = [*found.licenses, *([found.own_license] if found.num_own else [])]
    if not all(said):
        return "unknown"
    names = {name_on_the_hub(license) for license in said}
    return names.pop() if len(names) == 1 else "other"


def _licenses(found: Contents) -> list[str]:
    known, unknown = counted(found.licenses)
    lines = ["## Licenses", "", "| license | images | commercial use | changed copies | asks for credit |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, number in known.items():
        may = permits(name)
        assert may is not None, "known licenses have a meaning"
        lines.append(f"| {name} | {number:,} | {' | '.join('yes' if said else 'no' for said in may)} |")
    for name, number in _first(unknown):
        lines.append(f"| {markdown(name) or 'none told'}, which nobody knows | {number:,} | no | no | |")
    if found.num_own:
        own = markdown(found.own_license) or "not told"
        lines.append(f"| of the maker's own images: {own} | {found.num_own:,} | | | |")
    lines += [""]
    if found.licenses:
        lines += [
            f"Each image that was fetched is a smaller or compressed copy of its original; `{FILE}` names its page,",
            "author and license. The column of changed copies says whether such a copy may be passed on. This sums up",
            "what the licenses permit, and is no legal advice.",
            "",
        ]
    return lines


def _origin(found: Contents, made: Mapping[str, Any]) -> list[str]:
    catalog = made.get("catalog")
    if not isinstance(catalog, dict):
        return []
    sources = ", ".join(f"{number:,} from {markdown(name)}" for name, number in _first(_by_number(found.sources)))
    lines = ["## Where the images come from", "", f"Fetched: {sources or 'none'}."]
    if crawled := catalog.get("crawled"):
        lines.append(f"Dates: {' to '.join(dict.fromkeys(map(str, crawled)))}.")
    if licenses := catalog.get("licenses"):
        lines.append(f"Licenses were narrowed to {markdown(' '.join(licenses))}.")
    if removed := made.get("removed"):
        lines.append(f"{removed:,} images were removed later, on request.")
    filtered = catalog.get("filter")
    if isinstance(filtered, dict) and filtered:
        told = {name: value for name, value in without_run(filtered).items() if value is not None and name not in _HOW}
        values = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in told.items()}
        said = ", ".join(f"{markdown(str(name))} {markdown(value)}" for name, value in values.items())
        lines.append(f"Filter, which keeps what shows its class and repeats no image to judge by: {said}.")
    else:
        lines.append("No filter has looked at them.")
    return ["\n".join(lines), ""]


def without_run(filtered: Mapping[str, Any]) -> dict[str, Any]:
    """What filter was told, without the place of the run whose backbone was its encoder."""
    encoder = re.sub(r" of .*, epoch (\d+),", r" of a run, epoch \1,", str(filtered.get("encoder", "")))
    return {**filtered, "encoder": encoder}


def _first(numbers: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    rows = list(numbers.items())
    if len(rows) > _NAMED:
        rows = [*rows[:_NAMED], (f"{len(rows) - _NAMED:,} others", sum(number for _, number in rows[_NAMED:]))]
    return rows


def _by_number(numbers: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(numbers.items(), key=lambda item: (-item[1], item[0])))
