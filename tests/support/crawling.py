"""What tests of the crawl are made of: pictures, lists, the command, and what a catalog says became of each URL."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fastlt.data_prep.catalog import Catalog
from support.paths import BIN


def photograph(seed: int, mode: str = "RGB", size: tuple[int, int] = (90, 70)) -> Image.Image:
    """Something that no other seed looks like."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(seed: int, **options) -> bytes:
    return encoded(photograph(seed), **options)


def command(catalog: Path, *words: object) -> list[str]:
    polite = ["--contact", "test@example.org", "--rate", "0", "--api-rate", "0", "--allow-private"]
    return [str(BIN / "fastlt"), "crawl", str(catalog), *polite, *map(str, words)]


def write_list(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("\n".join(["url,label,license,attribution", *(",".join(row) for row in rows)]) + "\n")
    return path


def outcomes(catalog: Path) -> dict[str, str]:
    """{last part of the URL: "state: reason"}."""
    with Catalog(catalog) as opened:
        rows = opened.connection.execute("SELECT url, state, reason FROM candidate").fetchall()
    return {row["url"].rsplit("/", 1)[1]: f"{row['state']}: {row['reason']}".removesuffix(": ") for row in rows}
