"""Readers of what people and servers send, fed with damaged and odd inputs: `make fuzz` (MINUTES=10).

Every input follows from a number, so `python tests/fuzz/fuzz.py TARGET NUMBER` makes it again. A reader may read it or
refuse it in one sentence; a traceback, a minute without an answer, or a row that is neither taken nor counted is a
failure, which is printed with its number. Needs nothing but the package; real files of the kinds that are
damaged here are used too where they are given.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import random
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from protego import Protego

from fastlt.cli import sentence
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.lists.columns import Asked
from fastlt.data_prep.crawl.lists.urls import UrlList
from fastlt.data_prep.crawl.options import ImageOptions
from fastlt.data_prep.crawl.politeness import AGENT, our_rules
from fastlt.data_prep.crawl.prepare import UnusableImageError, prepare
from fastlt.data_prep.crawl.search import NOT_AS_DOCUMENTED, candidates
from fastlt.data_prep.crawl.sources import SOURCES
from fastlt.data_prep.discover.answers import Categories
from fastlt.data_prep.discover.completion import Completion
from fastlt.data_prep.encode.neighbors import read_neighbors
from fastlt.data_prep.inputs.class_lists import read_targets
from fastlt.data_prep.inputs.split_files import read_split_file
from fastlt.foreign import parse_answer
from fastlt.label_space import LabelSpace
from fastlt.recipe import load_recipe, packaged_recipes

HANG = 60  # seconds
SEEDS = Path(__file__).resolve().parents[3] / "shared" / "cases"
TOKENS = [
    b'"', b"'", b",", b"\t", b";", b"|", b"\n", b"\r\n", b"\r", b"\0", b"\\", b"{", b"}", b"[", b"]", b":", b"null",
    b"NaN", b"1e999", b"\xff\xfe", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"http://", b"https://a.example/1.jpg", b"url",
    b"label", b"<think>", b"</think>", b"```json", b"User-agent: *", b"Disallow: /", b"Crawl-delay: 1e400", b"*", b"$",
    b"[" * 3000, b'{"a":' * 3000, b" " * 5000, b"0", b"-1", b"99999999999999999999", b"../", b"%00", b"\xe2\x80\xa8",
]  # fmt: skip


class Failure(BaseException):
    """What a reader must not do."""


def damaged(draw: random.Random, data: bytes) -> bytes:
    """Some of the bytes changed, cut, doubled, or with something put between them."""
    content = bytearray(data)
    for _ in range(draw.choice([0, 1, 1, 2, 3, 8, 30])):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(5)
        if kind == 0:
            content[at:at] = draw.choice(TOKENS)
        elif kind == 1 and content:
            content[at % len(content)] = draw.randrange(256)
        elif kind == 2:
            del content[at : at + draw.choice([1, 2, 10, 1000])]
        elif kind == 3:
            content[at:at] = content[draw.randrange(len(content) + 1) :][: draw.choice([1, 20, 500])]
        else:
            content[at : at + 1] = draw.choice(TOKENS)
    return bytes(content)


def seed_files(folder: str) -> list[Path]:
    return sorted(path for path in (SEEDS / folder).rglob("*") if path.is_file()) if SEEDS.is_dir() else []


def refused(call: Callable[[], object]) -> object:
    """What a reader gives; None where it refuses in one sentence."""
    try:
        return call()
    except ValueError as error:
        said = sentence(error)
        if "\n" in said or not said.isprintable() or not said.endswith((".", "?", "'")) or len(said) > 5000:
            raise Failure(f"not one sentence: {said[:500]!r}") from error
        return None


# A list with a URL a row, in any dialect, and rows as people break them.


def table(draw: random.Random) -> tuple[str, bytes, int]:
    """(name, content, rows) of a list whose rows hold one URL each, of their own."""
    separator = draw.choice([",", "\t", ";", "|"])
    name = {",": "l.csv", "\t": "l.tsv"}.get(separator, "l.csv")
    width, number = draw.randint(1, 5), draw.randint(1, 60)
    at = draw.randrange(width)
    header = [f"column {i}" for i in range(width)]
    header[at] = draw.choice(["url", "URL", "image_url", " url "])
    lines = [separator.join(header)] if draw.random() < 0.7 else []
    for row in range(number):
        cells = [odd_cell(draw, separator) for _ in range(width)]
        cells[at] = f"https://a.example/{row}.jpg"
        if draw.random() < 0.2:
            cells[at] = f'"{cells[at]}"'
        lines.append(separator.join(cells))
    end = draw.choice(["\n", "\r\n"])
    text = end.join(lines) + draw.choice(["", end, end * 3])
    content = text.encode(draw.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]))
    return name, gzip.compress(content) if draw.random() < 0.1 else content, number


def odd_cell(draw: random.Random, separator: str) -> str:
    text = draw.choice(["", "a", "black kite", "\u5317\u4eac", '"open', 'in "the" middle', '6"', "it's", "x" * 20_000])
    if draw.random() < 0.1:
        quoted = text.replace('"', '""') + draw.choice(["", separator, '""'])
        return f'"{quoted}"'
    return text


def fuzz_rows(draw: random.Random, folder: Path) -> None:
    """Every row of a list comes back, or is counted as left out."""
    name, content, number = table(draw)
    path = folder / name
    path.write_bytes(content)
    urls = UrlList(path, Asked(label="none"))
    found: set[str] = set()
    try:
        for batch in urls:
            found.update(row.url for row in batch)
    except ValueError as error:
        if "which column" in str(error) or "no column" in str(error):
            return  # asked, as it is not clear
        raise Failure(f"refused: {error}") from error
    missing = number - len(found)
    if missing > urls.left_out.total() or urls.rows < number:
        raise Failure(f"{missing} of {number} rows are gone, {urls.left_out.total()} counted, {urls.rows} read")


def fuzz_lists(draw: random.Random, folder: Path) -> None:
    files = seed_files("lists")
    name, content, _ = table(draw)
    if files and draw.random() < 0.7:
        seed = draw.choice(files)
        name, content = seed.name, seed.read_bytes()
        if name.endswith(".gz") and draw.random() < 0.8:
            content = gzip.compress(damaged(draw, gzip.decompress(content)))
            (folder / name).write_bytes(content)
            refused(lambda: list(UrlList(folder / name)))
            return
    (folder / name).write_bytes(damaged(draw, content))
    refused(lambda: list(UrlList(folder / name)))


ROBOTS = b"User-agent: *\nDisallow: /private/\nAllow: /*.jpg$\nCrawl-delay: 2\n\nUser-agent: fastlt\nDisallow: /x\n"


def fuzz_robots(draw: random.Random, folder: Path) -> None:
    text = damaged(draw, draw.choice([ROBOTS, *(path.read_bytes() for path in seed_files("robots"))]))
    rules = Protego.parse(our_rules(text.decode("utf-8-sig", "replace")))
    rules.can_fetch(f"https://a.example/{draw.choice(['x.jpg', 'private/', 'a' * 500, '%zz', ''])}", AGENT)
    delay = float(rules.crawl_delay(AGENT) or 0)
    if not 0 <= delay <= float("inf"):
        raise Failure(f"waits {delay} s")


ANSWERS = [
    '{"categories": ["red kite", "black kite"]}', "<think>hm</think>\n1. red kite\n2. black kite",
    '```json\n["red kite", \'black kite\',]\n```', '{"categories":["a"]} (left out ["c"])', "- **red kite**: red",
]  # fmt: skip


def fuzz_answers(draw: random.Random, folder: Path) -> None:
    """What a language model says: nothing that it does not name."""
    texts = [text for path in seed_files("llm") for text in [path.read_text()] if path.name == "answers.json"]
    known = [*ANSWERS, *(text for file in texts for text in _strings(json.loads(file)))]
    text = damaged(draw, draw.choice(known).encode()).decode(errors="replace")
    body = {"choices": [{"message": {"content": text}, "finish_reason": draw.choice(["stop", "length", None, 3])}]}
    raw = damaged(draw, json.dumps(body).encode()) if draw.random() < 0.3 else json.dumps(body).encode()
    try:
        _, found = Completion.read(raw).answer(Categories)
    except ValueError:
        return  # no completion, as the client is told
    if any(not name.strip() or "\n" in name for name in (found.categories if found else [])):
        raise Failure(f"no names: {found}")


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]


def fuzz_images(draw: random.Random, folder: Path) -> None:
    """Bytes of images; only what decoders of this process refuse: the crawl has them in processes of their own."""
    size = (draw.randint(1, 90), draw.randint(1, 90))
    image = Image.effect_noise(size, 60).convert(draw.choice(["L", "RGB", "CMYK", "P", "RGBA", "1", "I"]))
    stream = io.BytesIO()
    try:
        image.save(stream, draw.choice(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
    except (OSError, ValueError):
        return  # a mode that the format does not have
    with contextlib.suppress(UnusableImageError):
        prepare(damaged(draw, stream.getvalue()), ImageOptions(min_side=1), 10_000_000)


NAMES = [
    "black kite",
    "n02085620-Chihuahua",
    "001.Black_footed_Albatross",
    "Gr\u00fcnspecht",
    "\u5317\u4eac",
    "a, b",
    "x",
]


def fuzz_classes(draw: random.Random, folder: Path) -> None:
    """Class lists: every class of a sound one is there, and of a damaged one that or a sentence."""
    names = [f"{draw.choice(NAMES)} {i}" for i in range(draw.randint(1, 40))]
    counts = {name: draw.randint(1, 999) for name in names}
    separator = draw.choice(["\t", "\t", " \t"])
    lines = "".join(f"{name}{separator}{count}\n" for name, count in counts.items())
    content = draw.choice([lines, json.dumps(counts)]).encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"]))
    path = folder / ("classes.json" if content.lstrip(b"\xef\xbb\xbf\xff\xfe").startswith(b"{") else "classes.txt")
    path.write_bytes(content)
    found = {target.name: target.count for target in read_targets(path)}
    if found != {unicodedata.normalize("NFC", name): count for name, count in counts.items()}:
        raise Failure(f"{len(found)} of {len(counts)} classes")
    files = [path, *seed_files("classes")]
    seed = draw.choice(files)
    path, other = folder / f"damaged {seed.name}", draw.choice(files)
    path.write_bytes(damaged(draw, seed.read_bytes()))
    refused(lambda: read_targets(path, other if draw.random() < 0.5 else None))


def fuzz_splits(draw: random.Random, folder: Path) -> None:
    """Split files and pairs: every image of a sound one is there."""
    paths = [f"{name}/{i}.jpg" for i, name in enumerate(draw.choices(["a", "b c", "\u00fc"], k=draw.randint(3, 30)))]
    for name in paths:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    first, slash, separator = draw.choice([0, 1]), draw.choice(["", "/"]), draw.choice(["\t", ","])
    order = list(dict.fromkeys(name.partition("/")[0] for name in paths))
    rows = [f"{slash}{name}{separator}{order.index(name.partition('/')[0]) + first}" for name in paths]
    content = "\n".join(rows).encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"]))
    split = folder / "split.txt"
    split.write_bytes(content)
    found = sum(len(images) for images in read_split_file(split, folder, order).values())
    if found != len(paths):
        raise Failure(f"{found} of {len(paths)} images")
    images = [{"id": i, "file_name": name} for i, name in enumerate(paths)]
    labels = [{"id": i, "image_id": i, "category_id": order.index(n.partition("/")[0])} for i, n in enumerate(paths)]
    coco = {"images": images, "annotations": labels, "categories": [{"id": i, "name": n} for i, n in enumerate(order)]}
    split = folder / draw.choice(["split.txt", "split.json"])
    split.write_bytes(damaged(draw, json.dumps(coco).encode() if split.suffix == ".json" else content))
    refused(lambda: read_split_file(split, folder, order))
    pairs = folder / "pairs.json"
    pairs.write_bytes(damaged(draw, json.dumps({"a": ["x", "y"], "b c": ["x"]}).encode()))
    refused(lambda: read_neighbors(pairs, {name: [] for name in order}, {"x": ["X"], "y": []}))


SPACE = {"target_names": ["a", "b"], "auxiliary_names": ["c"], "counts": [3, 2, 1], "neighbors": [[0, 2]]}


def fuzz_label_spaces(draw: random.Random, folder: Path) -> None:
    file = folder / "label_space.json"
    file.write_bytes(damaged(draw, json.dumps(SPACE).encode()))
    with contextlib.suppress(ValueError):
        space = LabelSpace.load(file)
        space.epoch_counts(5), space.shot_groups(), space.digest()


def fuzz_recipes(draw: random.Random, folder: Path) -> None:
    file = folder / "recipe.yaml"
    file.write_bytes(damaged(draw, draw.choice(list(packaged_recipes().values())).read_bytes()))
    with contextlib.suppress(ValueError):
        load_recipe(file).text()


RECORD = {
    "url": "https://a.example/a.jpg", "license": "by", "license_version": "4.0", "filetype": "jpg", "id": 7,
    "photos": [{"url": "https://a.example/photos/7/square.jpg", "license_code": "cc-by", "attribution": "x"}],
    "media": [{"type": "StillImage", "identifier": "https://a.example/b.jpg", "license": "cc-by-4.0"}],
    "name": "kite", "key": 7, "vernacularNames": [{"vernacularName": "kite"}],
    "imageinfo": [{"url": "https://a.example/c.jpg", "mime": "image/jpeg", "extmetadata": {
        "LicenseShortName": {"value": "CC BY 4.0"}, "Artist": {"value": "<a href='x'>x</a> &amp; y"}}}],
}  # fmt: skip
PAGE = {
    "results": [RECORD] * 2, "page_count": 2, "total_results": 9, "endOfRecords": False, "matchType": "EXACT",
    "usageKey": 7, "query": {"pages": [RECORD]}, "continue": {"gsroffset": 5, "continue": "-||"},
}  # fmt: skip


def fuzz_sources(draw: random.Random, folder: Path) -> None:
    """What a source answers: a page, or one of the errors that cost a search."""
    source = SOURCES[draw.choice(list(SOURCES))]("https://api.example", None)

    async def get_json(url: str, parameters: object) -> object:
        return parse_answer(damaged(draw, json.dumps(PAGE).encode()))

    try:
        page = asyncio.run(source.search(get_json, "kite", None, 5))
    except NOT_AS_DOCUMENTED:
        return
    with Catalog(folder / "c.db", create=True) as catalog:
        category = catalog.add_category("kite", "kite")
        catalog.add_candidates(candidates(page, category, source.name))
        catalog.search(category, source.name)
        catalog.add_page(category, source.name, page.cursor, 1, "open")
    for image in page.found:
        if not (image.attribution + image.url + image.page).isprintable():
            raise Failure(f"controls in {image}")


TARGETS = {
    "classes": fuzz_classes,
    "splits": fuzz_splits,
    "rows": fuzz_rows,
    "lists": fuzz_lists,
    "robots": fuzz_robots,
    "images": fuzz_images,
    "answers": fuzz_answers,
    "label spaces": fuzz_label_spaces,
    "recipes": fuzz_recipes,
    "sources": fuzz_sources,
}  # fmt: skip


def run(name: str, number: int) -> str:
    """Runs one input; what was wrong, or ""."""

    def too_slow(*_: object) -> None:
        raise Failure(f"no answer in {HANG} s")

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(HANG)
    try:
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name](random.Random(f"{name} {number}"), Path(folder))
    except (Exception, Failure):
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return ""


def main(minutes: float, first: int) -> int:
    """Runs all targets in turn; how many inputs failed."""
    end, number, runs, failures = time.monotonic() + 60 * minutes, first, Counter[str](), 0
    while time.monotonic() < end:
        for name in TARGETS:
            wrong = run(name, number)
            runs[name] += 1
            if wrong:
                failures += 1
                print(f"{name} {number}:\n{wrong}", flush=True)
        number += 1
    print(f"{failures} failures; inputs from number {first}: {json.dumps(runs)}")
    return failures


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in TARGETS:
        sys.exit(run(sys.argv[1], int(sys.argv[2])) or None)
    sys.exit(bool(main(float(sys.argv[1] if len(sys.argv) > 1 else 1), int(sys.argv[2] if len(sys.argv) > 2 else 0))))
