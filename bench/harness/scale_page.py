"""Shows what `bench/run.py scale` found: the tables of docs/scale.md, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from rich.table import Table

from bench.harness.records import Record

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

SHARES = {"half": 0.5, "90%": 0.9, "all": 1.0}  # of the images, until which times and rates are told
_COLORS = {"half": "#0072b2", "90%": "#e69f00", "all": "#d55e00"}  # Okabe and Ito's, which the color-blind tell apart
_BUSY = 0.8  # of their speed, from which machines are what one waits for
_RATES = [f"{what}, {name}" for what in ("time", "images/s") for name in SHARES]
_SPANS = (
    (2 / 60, 3600, "s"),
    (2, 60, "min"),
    (72, 1, "h"),
)  # hours up to which a time is told in this, so many an hour
_RECORDED_BY = {"crawl": "crawl", "filter": "embed", "encode": "loaders"}  # {stage: suite of its record}
_HELD = {"fetched": "fetched_bytes", "catalog": "catalog_total", "index of duplicates": "index_total"}
Rows = list[list[str]]


def tables(found: Sequence[Record]) -> list[Table]:
    """What `page` has, for a terminal."""
    return [_table(title, *rows) for title, rows in page(found).items() if len(rows) > 1]


def page(found: Sequence[Record]) -> dict[str, Rows]:
    """{title: rows of cells, the first of which has the columns}, as docs/scale.md has them."""
    shown = {"machine": [["what", "figure"], *_machine(*(r for r in found if r["case"] == "the machine"))]}
    shown["checks"] = _checks([r for r in found if "error" in r])
    simulated = [r for r in found if "machines" in r]
    usual = [r for r in simulated if not r["changed"]]
    for urls in dict.fromkeys(r["urls"] for r in usual):
        rows = [
            [str(r["machines"]), *_rates(r), _waits(r), _bytes(r["peak_bytes"])] for r in usual if r["urls"] == urls
        ]
        shown[f"{urls:,} URLs"] = [["machines", *_RATES, "half waits for", "index a machine"], *rows]
    changed = [[r["changed"], *_rates(r), _waits(r)] for r in simulated if r["changed"]]
    shown["otherwise"] = [["what", *_RATES, "half waits for"], *changed]
    alone = [(r, r["one_host_hours"]) for r in found if "one_host_hours" in r]
    shown["one host"] = [["photos", "from", "time"]]
    shown["one host"] += [[f"{r['urls']:,}", r["limit"], _span(took)] for r, took in alone]
    shown["needs"] = _needs([r for r in found if "machine_hours" in r])
    return shown


def _machine(r: Record) -> Rows:
    told = {"an image, from URL to shard": f"{1000 * r['per_image_s']:.2f} ms, {1 / r['per_image_s']:.0f} images/s"}
    told["a new host besides"] = f"{1000 * r['per_host_s']:.1f} ms" if r["per_host_s"] else _told(None, "hostile")
    told["start of a crawl"] = f"{r['start_s']:.1f} s"
    told["an image on its way"] = f"{r['image_bytes']:,} bytes, {r['gbits']:.2f} Gbit/s at full speed"
    return [[name, figure] for name, figure in told.items()]


def _checks(found: Sequence[Record]) -> Rows:
    rows = [["what", "figures", "measured, s", "simulated, s", "error"]]
    for r in found:
        name, times = r["case"].removeprefix("check, "), [_number(r[f"{how}_s"]) for how in ("measured", "simulated")]
        rows.append([name, r["how"], *times, f"{r['error']:+.1%}"])
    return rows


def _needs(found: Sequence[Record]) -> Rows:
    rows = [["images", *(f"{r['urls']:,}" for r in found)]]
    for stage, suite in _RECORDED_BY.items():
        cells = [_told(r["machine_hours"][stage], suite) for r in found]
        rows.append([f"machine-hours of {stage}", *cells])
    joins = (r["dump_hours"] for r in found)
    rows.append(["to join all of iNaturalist's dump", *(_told(None, "dump") if h is None else _span(h) for h in joins)])
    return rows + [[name, *(_bytes(r[key]) for r in found)] for name, key in _HELD.items()]


def _told(value: float | None, suite: str) -> str:
    return f"no record: `bench/run.py {suite}`" if value is None else _number(value)


def _rates(r: Record) -> list[str]:
    return [*(_span(r["hours"][name]) for name in SHARES), *(_number(r["until"][name]) for name in SHARES)]


def _waits(r: Record) -> str:
    """What the first half of the images waits for, and how much of the machines' speed is used."""
    used = r["until"]["half"] / (r["machines"] * r["machine_images_per_s"])
    return f"{r['binds'] if used >= _BUSY else 'hosts'} ({used:.0%})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _span(hours: float) -> str:
    per_hour, unit = next((span[1:] for span in _SPANS if hours < span[0]), (1 / 24, "days"))
    return f"{_number(hours * per_hour)} {unit}"


def _bytes(value: float) -> str:
    size, unit = next((pair for pair in ((1e12, "TB"), (1e9, "GB")) if value >= pair[0]), (1e6, "MB"))
    return f"{_number(value / size)} {unit}"


def _table(title: str, columns: list[str], *rows: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def draw(found: Sequence[Record], file: Path, device: str) -> Path:
    """A panel for each number of URLs: images/s over machines. Returns the file."""
    shown = [r for r in found if "machines" in r and not r["changed"]]
    sizes = list(dict.fromkeys(r["urls"] for r in shown))
    shape = {"figsize": (4.2 * len(sizes), 4.4), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(1, len(sizes), sharey=True, **shape)
    for panel, urls in zip(axes[0], sizes, strict=True):
        _draw_panel(panel, [r for r in shown if r["urls"] == urls])
        panel.set_title(f"{urls:,} URLs", loc="left")
    axes[0, 0].set_ylabel("images/s, simulated")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"a polite crawl on machines like the measured one: {device}", fontsize=11)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, facecolor="white")  # opaque: a dark page shows it as a light one does
    plt.close(figure)
    return file


def _draw_panel(panel: Axes, rows: Sequence[Record]) -> None:
    numbers = [r["machines"] for r in rows]
    could = [r["machines"] * r["machine_images_per_s"] for r in rows]
    panel.plot(numbers, could, color="black", linestyle=":", label="what the machines could")
    for (name, color), marker in zip(_COLORS.items(), "os^", strict=True):
        rates = [r["until"][name] for r in rows]
        label = "until the last image" if name == "all" else f"until {name} of the images"
        panel.plot(numbers, rates, color=color, marker=marker, label=label)
        where = {"xytext": (0, 7), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        panel.annotate(_span(rows[-1]["hours"][name]), (numbers[-1], rates[-1]), **where)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(numbers)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xlabel("machines")
    panel.grid(True, linewidth=0.3)
