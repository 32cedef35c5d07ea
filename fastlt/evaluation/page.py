"""A page that is one file: HTML with its tables and its pictures in it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from fastlt.atomic import write_text

__all__ = ["log_counts", "picture", "plt", "table", "write_page"]
_STYLE = (
    ":root{color-scheme:light dark}body{font:16px sans-serif;margin:2em auto;max-width:60em;padding:0 1em}"
    "img{max-width:100%;background:white}.table{overflow-x:auto}"
    "td,th{padding:.2em .7em;text-align:right}iframe{width:100%;height:50em;border:1px solid silver}"
    ".pictures,.pictures div{display:flex;flex-wrap:wrap;gap:6px}.pictures{gap:1em 2em}"
    "figure{margin:0;font-size:.75em;line-height:1.2}"
    "figure img{display:block;width:80px;height:80px;object-fit:cover;background:silver}"
    "figcaption{width:80px;overflow-wrap:anywhere}h3{margin:1em 0 0}h3+p{margin:.2em 0}"
)


def write_page(out: Path, title: str, body: str) -> None:
    """Writes the page; the title is text, the body HTML."""
    title = html.escape(title)
    meta = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    head = f"<!doctype html><html lang='en'>{meta}<title>{title}</title><style>{_STYLE}</style>"
    write_text(out, f"{head}\n<h1>{title}</h1>\n{body}")


def table(headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table of text, with a row for each name."""
    head = "".join(f"<th>{html.escape(heading)}" for heading in ("", *headings))
    lines = (
        f"<tr><th>{html.escape(label)}" + "".join(f"<td>{html.escape(cell)}" for cell in cells)
        for label, cells in rows.items()
    )
    return f"<div class='table'><table><tr>{head}{''.join(lines)}</table></div>"


def log_counts(axis: Axis) -> None:
    """Makes a logarithmic axis one of counts: 10, 20, 50, 100, without mathematics, which names cannot bear."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_locator(NullLocator())


def picture(figure: Figure) -> str:
    """The figure as an image inside of the page; it is closed."""
    stream = io.BytesIO()
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    return f"<img src='data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}'>"
