"""One HTML file with pictures, so that a person sees what the filter's thresholds do, class by class."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fastlt.atomic import write_text
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.judgment import Judgment
from fastlt.data_prep.verdicts import KEPT, LIKE_ANOTHER, TOO_FAR, TOO_NEAR
from fastlt.dataset.images import BrokenImageError, read_image

SHEET_BYTES = 20_000_000
_THUMBNAIL = 96
_TRAINING_PICTURES = 6
_BUCKETS = (KEPT, TOO_FAR, TOO_NEAR, "near-duplicate", LIKE_ANOTHER)
_COLORS = dict(zip(_BUCKETS, ("#2a9d5c", "#7a8794", "#d98324", "#cc3340", "#7b52ab"), strict=True))
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#20262c;background:#f6f7f8;margin:0 auto;max-width:76em;padding:1.5em}
h1{font-size:1.5em;margin:0 0 .2em}h2{font-size:1.1em;margin:0}p{margin:.3em 0 1em;color:#5a646e}
section,.box{background:#fff;border:1px solid #e1e5e8;border-radius:8px;padding:1em 1.2em;margin:1em 0}
.bucket{border-left:4px solid;padding:.1em 0 .1em .8em;margin:.9em 0 0}.bucket b{font-size:.9em}
.pictures{display:flex;flex-wrap:wrap;gap:10px;margin-top:.4em}figure{margin:0;font-size:.75em;color:#5a646e}
figure img{display:block;width:96px;height:96px;object-fit:cover;border-radius:4px;background:#e1e5e8}
.pair{display:flex;gap:2px}figcaption{width:0;min-width:100%;line-height:1.3;padding-top:2px}
figcaption span{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
a{color:inherit;text-decoration:none}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15em .9em;text-align:right}
td:first-child,th:first-child{text-align:left}tr+tr{border-top:1px solid #eef0f2}th{font-weight:600}
summary{cursor:pointer;font-weight:600}.plot{width:100%;max-width:60em;display:block}
"""


def write_sheet(catalog: Catalog, judgment: Judgment, out: Path, pictures: int) -> None:
    """Writes the page: counts, the histogram of similarities, and pictures of each target class.

    Args:
        catalog: where titles, licenses and attributions are.
        judgment: what the filter decided.
        out: the HTML file, replaced when there is one.
        pictures: how many at most of each class and reason. The file stays below about `SHEET_BYTES`: the classes
            with most drops come first, and the page says how many are left out.
    """
    buckets = np.array([_bucket(reason) for reason in judgment.reasons], object)
    counts = np.stack(
        [np.bincount(judgment.nearest[buckets == name], minlength=len(judgment.targets)) for name in _BUCKETS], 1
    )  # [T, buckets]
    sections: list[str] = []
    size = 0
    with ThreadPoolExecutor() as threads:
        for target in np.argsort(-counts[:, 1:].sum(1), kind="stable").tolist():
            section = _section(catalog, judgment, buckets, target, pictures, threads)
            size += len(section)
            if sections and size > SHEET_BYTES:
                break
            sections.append(section)
    shown = f"All {len(counts):,} target classes"
    if len(sections) < len(counts):
        shown = f"{len(sections):,} of {len(counts):,} target classes"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>What the filter keeps</title>",
        f"<style>{_STYLE}</style><h1>What the filter keeps</h1>",
        f"<p>{len(judgment.ids):,} images; {html.escape(judgment.encoder)}; {html.escape(judgment.thresholds())}</p>",
        f"<div class='box'>{_reasons_table(judgment)}</div>",
        f"<div class='box'><img class='plot' alt='histogram' src='{_histogram(judgment, buckets)}'></div>",
        "<div class='box'><details><summary>Images of each class</summary>",
        f"{_class_table(judgment, counts)}</details></div>",
        f"<p>{shown}, those with most drops first; of each reason at most {pictures} pictures, evenly spaced from the "
        "most to the least similar. Below a picture stand similarity and category, in its tooltip license and author.",
        *sections,
    ]
    write_text(out, "\n".join(parts))


def _bucket(reason: str) -> str:
    return "near-duplicate" if reason.startswith("near-duplicate") else reason or KEPT


def _section(
    catalog: Catalog, judgment: Judgment, buckets: np.ndarray, target: int, pictures: int, threads: ThreadPoolExecutor
) -> str:
    """What is shown of one target class."""
    name, paths = list(judgment.targets.items())[target]
    mine = np.flatnonzero(judgment.nearest == target)
    mine = mine[np.argsort(-judgment.similarity[mine], kind="stable")]
    parts = [f"<section id='c{target}'><h2>{html.escape(_title(catalog, name))}</h2>"]
    training = [f"<figure>{picture}</figure>" for picture in threads.map(_thumbnail, paths[:_TRAINING_PICTURES])]
    parts.append(_row("training images", len(paths), "#20262c", training))
    for bucket in _BUCKETS:
        inside = mine[buckets[mine] == bucket]
        if len(inside):
            chosen = inside[np.linspace(0, len(inside) - 1, min(pictures, len(inside))).round().astype(int)].tolist()
            figures = threads.map(lambda about: _figure(*about), [_about(catalog, judgment, at) for at in chosen])
            parts.append(_row(bucket, len(inside), _COLORS[bucket], figures))
    return "\n".join(parts) + "</section>"


def _row(title: str, number: int, color: str, figures: Iterable[str]) -> str:
    pictures = "".join(figures)
    head = f"<b style='color:{color}'>{title}</b> {number:,}"
    return f"<div class='bucket' style='border-color:{color}'>{head}<div class='pictures'>{pictures}</div></div>"


def _title(catalog: Catalog, target: str) -> str:
    title = catalog.target_title(target)
    return target if title == target else f"{title} ({target})"


def _about(catalog: Catalog, judgment: Judgment, at: int) -> tuple[list[str], str, str, list[str]]:
    """Of one image: its name and that of what it repeats, where it comes from, tooltip, lines of the caption."""
    row = catalog.candidate(int(judgment.ids[at]))
    names, caption = [judgment.names[at]], [f"{judgment.similarity[at]:.3f}", row["title"]]
    tooltip = [row["title"], row["license"], row["attribution"], row["url"]]
    if at in judgment.likes:
        like, cosine = judgment.likes[at]
        if judgment.reasons[at] == LIKE_ANOTHER:
            caption.append(f"like {like}")
        else:
            names.append(like)
            caption[0] = f"{cosine:.3f} to {Path(like).name}"
            tooltip.append(f"{judgment.reasons[at]}: {like}")
    return names, row["page"] or row["url"], "\n".join(filter(None, tooltip)), caption


def _figure(names: Sequence[str], link: str, tooltip: str, caption: Sequence[str]) -> str:
    pictures = "".join(_thumbnail(name) for name in names)
    if len(names) > 1:
        pictures = f"<div class='pair'>{pictures}</div>"
    if link.startswith(("http://", "https://")):  # nothing that a page could run
        pictures = f"<a href='{html.escape(link)}' rel='noreferrer'>{pictures}</a>"
    lines = "".join(f"<span>{html.escape(line)}</span>" for line in caption)
    return f"<figure title='{html.escape(tooltip)}'>{pictures}<figcaption>{lines}</figcaption></figure>"


def _thumbnail(name: Path | str) -> str:
    try:
        image = read_image(name)
    except BrokenImageError:  # gone since it was embedded
        return "<img alt='broken'>"
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    small = image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return f"<img alt='' src='{_data_url('jpeg', stream)}'>"


def _data_url(kind: str, stream: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _reasons_table(judgment: Judgment) -> str:
    total = len(judgment.ids)
    rows = [
        f"<tr><td>{html.escape(reason)}<td>{number:,}<td>{100 * number / total:.1f} %"
        for reason, number in judgment.counts().items()
    ]
    return f"<table><tr><th><th>images<th>share{''.join(rows)}<tr><th>all<th>{total:,}<th></table>"


def _class_table(judgment: Judgment, counts: np.ndarray) -> str:
    head = "".join(f"<th>{bucket}" for bucket in _BUCKETS)
    rows = [
        f"<tr><td><a href='#c{i}'>{html.escape(name)}</a>" + "".join(f"<td>{number:,}" for number in counts[i])
        for i, name in enumerate(judgment.targets)
    ]
    return f"<table><tr><th>nearest target{head}{''.join(rows)}</table>"


def _histogram(judgment: Judgment, buckets: np.ndarray) -> str:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    parts = [judgment.similarity[buckets == bucket] for bucket in _BUCKETS]
    low, high = np.nanmin(judgment.similarity), np.nanmax(judgment.similarity)
    bins = np.linspace(low, max(high, low + 1e-3), 80)
    shown = [(part, bucket) for part, bucket in zip(parts, _BUCKETS, strict=True) if len(part)]
    axes.hist(
        [part for part, _ in shown],
        bins.tolist(),
        stacked=True,
        color=[_COLORS[bucket] for _, bucket in shown],
        label=[f"{bucket} ({len(part):,})" for part, bucket in shown],
    )
    for threshold, name in ((judgment.options.gamma1, "$\\gamma_1$"), (judgment.gamma2, "$\\gamma_2$")):
        if threshold != "auto" and bins[0] <= threshold <= bins[-1]:
            axes.axvline(threshold, color="#20262c", linewidth=1, linestyle="--")
            axes.text(threshold, 1.01, name, ha="center", transform=axes.get_xaxis_transform())
    axes.set(xlabel="similarity to the nearest prototype of a neighboring target", ylabel="images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return _data_url("png", stream)
