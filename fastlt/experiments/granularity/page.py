"""The page of a granularity study: what was found, and how features lie under coarse and under fine labels."""

from __future__ import annotations

import html
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from fastlt.dataset.images import read_image
from fastlt.evaluation.page import log_counts, picture, plt, table, write_page
from fastlt.experiments.comparison import FIGURES
from fastlt.experiments.granularity.design import BALANCED, Design
from fastlt.experiments.granularity.findings import Findings, difference, mean, shown
from fastlt.experiments.granularity.judging import SPLIT, group_labels, labels, load
from fastlt.experiments.granularity.taxonomy import Level

_NEIGHBORS = 3  # groups around the tail class
_MOST_POINTS = 600
_ROWS, _NEAREST = 6, 4
_NAMED = 6  # classes of a group
_TEXT: Any = {"text.parse_math": False}  # names may have a $


def draw_page(findings: Findings, runs: dict[float, dict[int, Path]], recipe: str, out: Path) -> None:
    """Writes the page.

    Args:
        findings: of the study.
        runs: for each ratio and number of classes a run whose features are looked at; those that are there.
        recipe: of all trainings, in words.
        out: the page.
    """
    design = findings.design
    with plt.rc_context(_TEXT):
        body = "".join(f"<p>{html.escape(findings.sentence(ratio))}</p>\n" for ratio in design.ratios)
        body += f"<p>{html.escape(_how(design))}</p>\n{picture(_costs(findings))}\n"
        body += f"<h2>Accuracy at the common level, %</h2>\n{_accuracies(findings)}\n"
        body += f"<h2>What imbalance costs, points</h2>\n<p>{_SHOTS}</p>\n{_cost_table(findings)}\n"
        body += f"<h2>Training images</h2>\n{picture(_histogram(design))}\n{_level_table(design)}\n"
        body += f"<h2>Spread of features</h2>\n<p>{_SPREAD}</p>\n{_spreads(findings)}\n"
        body += _looks(design, runs.get(design.ratios[-1], {}))
        body += f"<h2>The groups of the common level</h2>\n{_groups(design)}\n"
        body += f"<p>Recipe: {html.escape(recipe)}. study/runs.jsonl has commit, device and versions of each run.</p>\n"
    write_page(out, "Does finer labeling make imbalance hurt less?", body)


_SHOTS = (
    "Balanced minus long-tailed accuracy, paired by seed, as mean ± half of the 95% interval. many, medium and few are "
    "the thirds of the groups with the most, middling and fewest training images in the long-tailed version."
)
_SPREAD = (
    "Variance of held-out features within classes over variance between them, first with the groups as classes, then "
    "with the finest classes: the smaller, the better they are apart. Means over seeds."
)


def _how(design: Design) -> str:
    levels = ", ".join(f"{len(level):,}" for level in design.levels)
    held = sum(map(len, design.held_out.values()))
    return (
        f"{design.second_best} The same images with {levels} classes. Every training has {design.num_images:,} images, "
        f"at each ratio the same ones at every level. All are judged by the same {held:,} held-out images with "
        f"{len(design.common):,} classes: the probabilities of finer classes are added up."
    ).strip()


def _costs(findings: Findings) -> Figure:
    design = findings.design
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    sizes = [len(level) for level in design.levels]
    for i, ratio in enumerate(design.ratios):
        found = {classes: difference(findings.costs(ratio, classes)) for classes in sizes}
        places = [classes * 1.02**i for classes in sizes if found[classes]]  # beside each other
        costs = [cost for cost in found.values() if cost]
        halves = [cost.half if cost.pairs > 1 else 0.0 for cost in costs]
        left.errorbar(places, [cost.mean for cost in costs], halves, marker="o", capsize=4, label=f"ratio {ratio:g}")
    left.axhline(0, color="gray", linewidth=0.8)
    left.set(ylabel="cost of imbalance, points")
    for ratio in design.versions:
        values = {classes: findings.accuracy(ratio, classes, "all") for classes in sizes}
        means = [(classes, mean(of)) for classes, of in values.items() if of]
        (line,) = right.plot([c for c, _ in means], [value for _, value in means], label=_named(ratio))
        dots = [(classes, value) for classes, of in values.items() for value in of.values()]
        right.scatter([c for c, _ in dots], [value for _, value in dots], s=14, color=line.get_color())
    right.set(ylabel=f"accuracy with {sizes[0]} classes, %")
    for axes in (left, right):
        axes.set(xlabel="classes trained on", xscale="log", xticks=sizes, xticklabels=[f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    return figure


def _named(ratio: float) -> str:
    return "balanced" if ratio == BALANCED else f"ratio {ratio:g}"


def _accuracies(findings: Findings) -> str:
    rows = {}
    for ratio in findings.design.versions:
        for level in findings.design.levels:
            of = [mean(findings.accuracy(ratio, len(level), figure)) for figure in FIGURES]
            top = mean(findings.accuracy(ratio, len(level), "all", "top"))
            seeds = len(findings.runs(ratio, len(level)))
            cells = ["-" if value is None else f"{value:.1f}" for value in (*of, top)]
            rows[f"{_named(ratio)}, {len(level):,} classes"] = [*cells, str(seeds)]
    return table([*FIGURES, "all, by the top class alone", "seeds"], rows)


def _cost_table(findings: Findings) -> str:
    rows = {}
    for ratio in findings.design.ratios:
        for level in findings.design.levels:
            costs = [difference(findings.costs(ratio, len(level), figure)) for figure in FIGURES]
            rows[f"{_named(ratio)}, {len(level):,} classes"] = [shown(cost) for cost in costs]
        few, many = len(findings.design.levels[0]), len(findings.design.levels[-1])
        saved = [shown(findings.saved(ratio, figure)) for figure in FIGURES]
        rows[f"{_named(ratio)}, {few:,} minus {many:,}"] = saved
    return table(FIGURES, rows)


def _level_table(design: Design) -> str:
    """How many images classes have: what is imbalanced among groups is so among finer classes in another way."""
    rows = {}
    for ratio in design.versions:
        for level in design.levels:
            counts = sorted(design.counts(level, ratio).values())
            numbers = [f"{counts[-1]:,}", f"{counts[len(counts) // 2]:,}", f"{counts[0]:,}"]
            rows[f"{_named(ratio)}, {len(level):,} classes"] = [*numbers, f"{counts[-1] / counts[0]:.3g}"]
    return table(["most images of a class", "median", "fewest", "most / fewest"], rows)


def _histogram(design: Design) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.6))
    groups = list(design.common.groups)
    for ratio in design.versions:
        counts = list(design.counts(design.common, ratio).values())
        axes.plot(range(len(groups)), counts, marker="o", label=_named(ratio))
    axes.set(yscale="log", ylabel="training images")
    log_counts(axes.yaxis)
    if len(groups) <= 40:
        axes.set_xticks(range(len(groups)), [_short(group) for group in groups], rotation=30, ha="right", fontsize=8)
    else:
        axes.set_xlabel("group of the common level")
    axes.legend(fontsize="small")
    return figure


def _spreads(findings: Findings) -> str:
    rows = {}
    for ratio in findings.design.versions:
        for level in findings.design.levels:
            runs = findings.runs(ratio, len(level))
            of = [mean({s: getattr(run, name) for s, run in runs.items()}) for name in ("spread", "spread_of_classes")]
            name = f"{_named(ratio)}, {len(level):,} classes"
            rows[name] = ["-" if value is None else f"{value:.2f}" for value in of]
    few, many = len(findings.design.levels[0]), len(findings.design.levels[-1])
    return table([f"the {few:,} groups", f"the {many:,} classes"], rows)


def _groups(design: Design) -> str:
    rows = {}
    for group, classes in design.common.groups.items():
        more = f" and {len(classes) - _NAMED:,} more" if len(classes) > _NAMED else ""
        rows[group] = [f"{len(classes):,}", ", ".join(_short(name) for name in classes[:_NAMED]) + more]
    return table(["classes", "which"], rows)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


class _Seen:
    """A run's features of all images: held out [N, D] and trained on [M, D], each of length 1."""

    def __init__(self, design: Design, level: Level, folder: Path, ratio: float) -> None:
        run = load(folder)
        held, logits = run.predict(SPLIT)
        self.level, self.held = level, torch.nn.functional.normalize(held)
        self.trained = torch.nn.functional.normalize(run.predict("train")[0])
        summed = torch.zeros(len(logits), len(design.common))
        self.predicted = summed.index_add_(1, group_labels(design, level), logits.softmax(1)).argmax(1)
        self.truth = labels(design, level)
        self.held_paths = [path for of in design.images(level).values() for path in of]
        self.trained_paths = [path for of in design.images(level, ratio).values() for path in of]
        self.trained_labels = labels(design, level, ratio)
        self.place = {path: i for i, path in enumerate(self.held_paths)}

    @property
    def name(self) -> str:
        return f"trained with {len(self.level):,} classes"


def _looks(design: Design, runs: dict[int, Path]) -> str:
    """How the features of the tail lie, under the coarsest and under the finest labels at the highest ratio."""
    ends = (design.levels[0], design.levels[-1])
    if any(len(level) not in runs for level in ends):
        return "<p>Pictures of features need a finished run of the coarsest and of the finest level.</p>\n"
    coarse, fine = (_Seen(design, level, runs[len(level)], design.ratios[-1]) for level in ends)
    about = f"at a ratio of {design.ratios[-1]:g}, first seed"
    tail = design.shot_groups["few"][-1]
    shown_groups = [tail, *_nearest_groups(coarse, tail)]
    names = list(design.common.groups)
    body = f"<h2>{html.escape(names[tail])} and the groups nearest to it, {about}</h2>\n"
    if find_spec("sklearn"):
        body += f"<p>t-SNE of held-out features.</p>\n{picture(_map(coarse, fine, shown_groups, names))}\n"
    else:
        body += "<p>The t-SNE of held-out features needs scikit-learn: <code>pip install 'fastlt[tsne]'</code>.</p>\n"
    mistakes = _mistakes(coarse, set(design.shot_groups["few"]))
    if not mistakes:
        return body + "<p>The tail's held-out images are all right under the coarsest labels.</p>\n"
    told = (
        "Held-out images of the tail that the coarsest labels get wrong, and the training images whose features are "
        "nearest to theirs, of the right group in green."
    )
    body += f"<h2>Mistakes in the tail, {about}</h2>\n<p>{told}</p>\n"
    return f"{body}{picture(_grid(coarse, fine, mistakes, names))}\n"


def _nearest_groups(seen: _Seen, tail: int) -> list[int]:
    """The groups whose mean features are most like those of one."""
    groups = int(seen.truth.max()) + 1
    means = torch.stack([seen.held[seen.truth == group].mean(0) for group in range(groups)])
    alike = torch.nn.functional.normalize(means) @ torch.nn.functional.normalize(means[tail], dim=0)
    return [group for group in alike.argsort(descending=True).tolist() if group != tail][:_NEIGHBORS]


def _map(coarse: _Seen, fine: _Seen, groups: list[int], names: list[str]) -> Figure:
    """t-SNE of the same images under both labels; groups: the tail first."""
    from sklearn.manifold import TSNE  # an extra

    chosen = [i for i in range(len(coarse.truth)) if int(coarse.truth[i]) in groups]
    chosen = chosen[:: -(-len(chosen) // _MOST_POINTS)]
    paths, truth = [coarse.held_paths[i] for i in chosen], coarse.truth[chosen]
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.4))
    for axes, seen in zip(panels, (coarse, fine), strict=True):
        features = seen.held[[seen.place[path] for path in paths]]
        perplexity = max(1.0, min(30.0, (len(paths) - 1) / 3))
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy())
        for group in reversed(groups):
            of = points[truth.numpy() == group]
            style: Any = {"s": 22, "color": "crimson"} if group == groups[0] else {"s": 10, "alpha": 0.6}
            axes.scatter(of[:, 0], of[:, 1], label=_short(names[group]), **style)
        axes.set(title=seen.name, xticks=[], yticks=[])
    panels[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _mistakes(seen: _Seen, tail: set[int]) -> list[Path]:
    """Some held-out images of these groups that are taken for others, of each group in turn."""
    wrong = [i for i in range(len(seen.truth)) if int(seen.truth[i]) in tail and seen.predicted[i] != seen.truth[i]]
    turn = {i: sum(1 for j in wrong if j < i and seen.truth[j] == seen.truth[i]) for i in wrong}
    return [seen.held_paths[i] for i in sorted(wrong, key=lambda i: (turn[i], i))[:_ROWS]]


def _grid(coarse: _Seen, fine: _Seen, paths: list[Path], names: list[str]) -> Figure:
    """A row for each image: itself, the nearest under coarse labels, those under fine ones."""
    truths = [int(coarse.truth[coarse.place[path]]) for path in paths]
    blocks = [("held out", [[(path, truth)] for path, truth in zip(paths, truths, strict=True)])]
    blocks += [(seen.name, [_nearest(seen, path) for path in paths]) for seen in (coarse, fine)]
    widths = [len(rows[0]) for _, rows in blocks]
    figure = plt.figure(figsize=(9, 1.2 * len(paths) + 0.4), layout="constrained")
    parts: Any = figure.subfigures(1, len(blocks), width_ratios=widths, wspace=0.04)
    for part, (title, rows), width in zip(parts, blocks, widths, strict=True):
        part.suptitle(title, fontsize=9)
        for line, row, truth in zip(part.subplots(len(paths), width, squeeze=False), rows, truths, strict=True):
            for axes, (path, label) in zip(line, row, strict=True):
                _show(axes, path, names[label], "green" if label == truth else "firebrick")
    return figure


def _nearest(seen: _Seen, path: Path) -> list[tuple[Path, int]]:
    """The training images whose features are nearest to a held-out one's, with their labels."""
    alike = seen.trained @ seen.held[seen.place[path]]
    found = alike.topk(min(_NEAREST, len(alike))).indices.tolist()
    return [(seen.trained_paths[i], int(seen.trained_labels[i])) for i in found]


def _show(axes: Any, path: Path, title: str, color: str) -> None:
    image = read_image(path)
    image.thumbnail((128, 128), Image.Resampling.LANCZOS)
    axes.imshow(np.asarray(image))
    axes.set_title(_short(title, 16), fontsize=6, color=color)
    axes.axis("off")
