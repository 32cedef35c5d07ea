"""Readers of what people and servers send, fed with damaged and odd inputs: `make fuzz` (MINUTES=10).

Every input follows from a number, so `python tests/fuzz/fuzz.py TARGET NUMBER` makes it again, and is read in a process
of its own. A reader may read it or refuse it in one sentence; a traceback, a crash, a minute without an answer, more
memory than an image may take, or a row that is neither taken nor counted is a failure, which is printed with its
number. Needs nothing but the package; real files of the kinds that are damaged here are used too where they are given.

Compiled code checks its indexes here (NUMBA_BOUNDSCHECK). Our C is built with the address and undefined behavior
sanitizers; libjpeg, which it calls, is not, so its pixels end where memory that may be written to does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["NUMBA_BOUNDSCHECK"] = "1"
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).resolve().parents[2] / "build" / "fuzz")  # of code that checks
os.environ["OMP_NUM_THREADS"] = "1"  # what forks has no threads

import numpy as np
from PIL import Image
from protego import Protego

from fastlt.cli import sentence
from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.decode_pool import DecodePool
from fastlt.data_prep.crawl.lists.columns import Asked
from fastlt.data_prep.crawl.lists.urls import UrlList
from fastlt.data_prep.crawl.options import ImageOptions
from fastlt.data_prep.crawl.politeness import AGENT, our_rules
from fastlt.data_prep.crawl.prepare import UnusableImageError
from fastlt.data_prep.crawl.search import NOT_AS_DOCUMENTED, candidates
from fastlt.data_prep.crawl.sources import SOURCES, SourceError
from fastlt.data_prep.discover.answers import Categories
from fastlt.data_prep.discover.completion import Completion
from fastlt.data_prep.encode.check import _broken
from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.neighbors import read_neighbors
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.inputs.class_lists import read_targets
from fastlt.data_prep.inputs.split_files import read_split_file
from fastlt.data_prep.status import status_text, without_empty_reasons
from fastlt.dataset.encoded import FORMATS, EncodedDataset
from fastlt.dataset.stored import Place
from fastlt.foreign import parse_answer
from fastlt.label_space import LabelSpace
from fastlt.loaders.ffcv.images import FFCVImages
from fastlt.loaders.ffcv.jpeg import __file__ as jpeg_module
from fastlt.loaders.plain import PlainImages
from fastlt.loaders.transform import Transform
from fastlt.recipe import load_recipe, packaged_recipes

HANG = 60  # seconds
MEMORY = 2**30  # bytes beside what the modules take
SANITIZER = {"ASAN_OPTIONS": f"hard_rss_limit_mb={MEMORY >> 20}"}
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


def odd_image(draw: random.Random, *kinds: str) -> bytes:
    size = (draw.randint(1, 90), draw.randint(1, 90))
    image = Image.effect_noise(size, 60).convert(draw.choice(["L", "RGB", "CMYK", "P", "RGBA", "1", "I"]))
    stream = io.BytesIO()
    try:
        image.save(stream, draw.choice(kinds), progressive=draw.random() < 0.5)
    except (OSError, ValueError):  # a mode that the format does not have
        image.convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def with_numbers(draw: random.Random, content: bytes) -> bytes:
    """Some places hold another number than they did, of those where programs err."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        size = draw.choice([1, 2, 4, 8])
        number = draw.choice([0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, draw.randrange(2**20)])
        at = draw.randrange(max(1, len(changed) - size))
        changed[at : at + size] = (number % 256**size).to_bytes(size, draw.choice(["little", "big"]))
    return bytes(changed)


def fuzz_images(draw: random.Random, folder: Path) -> None:
    """Bytes of images, to the processes that a crawl has for them."""
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
    files = [draw.choice([damaged, with_numbers])(draw, odd_image(draw, *kinds)) for _ in range(20)]

    async def send() -> None:
        async with DecodePool(1, ImageOptions(min_side=1), 10_000_000, 10_000_000) as pool:
            for content in files:
                with contextlib.suppress(UnusableImageError):
                    await pool.prepare(content)

    asyncio.run(send())


@functools.cache
def encoded_sets() -> Path:
    """A small data set in each format, made once."""
    folder, draw = Path(os.environ["NUMBA_CACHE_DIR"]) / "sets", random.Random(0)
    if folder.exists():
        return folder
    for i in range(6):
        (folder / "classes" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        (folder / "classes" / f"{i % 2}" / f"{i}.jpg").write_bytes(odd_image(draw, "JPEG"))
    inputs = EncodeInputs(folder / "classes", folder / "classes")
    for name, form, mode in (("raw", "ffcv", "raw"), ("jpg", "ffcv", "jpg"), ("tar", "webdataset", "jpg")):
        encode(folder / name, inputs, EncodeOptions(format=form, mode=mode, workers=1))
    encode(folder / "plain", inputs, EncodeOptions(format="plain", workers=1))
    return folder


def read_data(folder: Path) -> None:
    """All that reads a data set: `encode --check`, and the loaders, from a manifest that fits the files."""
    data = EncodedDataset.open(folder)
    for name, split in data.splits.items():
        with contextlib.suppress(Exception):  # as `check_encoded` has it
            found = list(FORMATS[data.format].places(data.file(name), split.labels()))
            _broken(data.file(name), [place for place in found if isinstance(place, Place)])
        how = Transform(16, train=name == "train", seed=1)
        reader = FFCVImages if data.format == "ffcv" else PlainImages
        for _ in reader(data, name, how, 6, 0).batches([np.arange(6, dtype=np.uint64)]):
            pass


def fuzz_data(draw: random.Random, folder: Path) -> None:
    """Encoded data sets: a file of one is damaged, and its manifest says the bytes that are there."""
    data = shutil.copytree(encoded_sets() / draw.choice(["raw", "jpg", "tar", "plain"]), folder / "data")
    file = draw.choice(sorted(data.iterdir()))
    content = draw.choice([damaged, with_numbers])(draw, file.read_bytes())
    if file.suffix == ".json" and draw.random() < 0.7:
        content = json.dumps(odd_json(draw, json.loads(file.read_bytes()))).encode()
    file.write_bytes(content)
    manifest = data / "manifest.json"
    if file != manifest:
        told = json.loads(manifest.read_bytes())
        for split in told["splits"].values():
            split["num_bytes"] = (data / split["file"]).stat().st_size
        manifest.write_text(json.dumps(told))
    refused(lambda: read_data(data))


ODD = [
    None,
    True,
    -1,
    10**25,
    2**63,
    0.5,
    float("inf"),
    "",
    "x" * 5000,
    "\x1b[2J",
    "\0",
    [],
    {},
    [[[[]]]],
    "1",
    "../x",
    "/",
]


def odd_json(draw: random.Random, value: Any, depth: int = 0) -> Any:
    """A document some of whose values are others."""
    if draw.random() < (0.02 if depth == 0 else 0.1):
        return draw.choice(ODD)
    if isinstance(value, dict):
        return {key: odd_json(draw, inner, depth + 1) for key, inner in value.items() if draw.random() > 0.03}
    if isinstance(value, list):
        return [odd_json(draw, inner, depth + 1) for inner in value for _ in range(draw.choice([1, 1, 1, 1, 1, 0, 2]))]
    return value


RECORDS: list[Any] = [
    {"results": [{"id": 1, "name": "kite", "matched_term": "kite", "rank": "species", "photos": [
        {"id": 5, "url": "https://a.example/square.jpg", "license_code": "cc-by", "attribution": "(c) a"}]}],
     "total_results": 3, "endOfRecords": False, "matchType": "EXACT", "status": "ACCEPTED", "usageKey": 7},
    {"results": [{"key": 3, "media": [{"type": "StillImage", "identifier": "https://a.example/1.jpg", "format":
        "image/jpeg", "license": "http://creativecommons.org/licenses/by/4.0/", "references": "https://a.example"}]}],
     "endOfRecords": True, "matchType": "NONE"},
    {"query": {"pages": {"1": {"title": "File:a.jpg", "imageinfo": [{"url": "https://a.example/a.jpg", "mime":
        "image/jpeg", "extmetadata": {"LicenseShortName": {"value": "CC BY 4.0"}, "Artist": {"value": "<b>a</b>"}}}]}}},
     "continue": {"gsroffset": 20, "continue": "-||"}},
]  # fmt: skip


def fuzz_sources(draw: random.Random, folder: Path) -> None:
    """What an image source answers: pages of candidates, or that it did not answer."""

    async def get_json(url: str, query: object) -> Any:
        return odd_json(draw, draw.choice(RECORDS))

    async def search() -> None:
        source, cursor = draw.choice(list(SOURCES.values()))(), None
        with contextlib.suppress(SourceError):
            for _ in range(3):
                page = await source.search(get_json, "kite", cursor, 50)
                if any(not image.url.startswith("http") for image in page.found):
                    raise Failure(f"no url: {page.found}")
                if (cursor := page.cursor) is None:
                    return

    asyncio.run(search())


def fuzz_catalogs(draw: random.Random, folder: Path) -> None:
    """`fastlt status` of a catalog whose bytes are others."""
    path = folder / "c.sqlite"
    with Catalog(path, create=True) as catalog, catalog.transaction():
        catalog.enter_targets([("hawk", "hawk", "[]", 1)])
        kite = catalog.add_category("kite", "kite")
        catalog.add_neighbor(1, kite)
        catalog.add_candidates(Candidate(kite, f"http://a/{i}.jpg", "a:80", "list") for i in range(30))
        catalog.keep_answer("key", "model", "content", 1, 1)
    path.write_bytes(draw.choice([damaged, with_numbers, with_numbers])(draw, path.read_bytes()))

    def status() -> None:
        with Catalog(path) as catalog:
            found = catalog.status()
            catalog.waiting_of_host("a:80", 0, 100)
        status_text(found)
        json.dumps(without_empty_reasons(found))

    with contextlib.suppress(sqlite3.DatabaseError):  # as `cli.main` has it
        refused(status)


DECODER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int fastlt_decode_jpeg(const unsigned char *, unsigned long, int, int, int, int, int, int, int, unsigned char *, int *);
int main(int argc, char **words) {
    int n[7], span[2] = {0, 0};
    for (int i = 0; i < 7; i++) n[i] = atoi(words[i + 2]);
    FILE *file = fopen(words[1], "rb");
    unsigned char *content = malloc(1 << 20);
    size_t size = fread(content, 1, 1 << 20, file), room = (size_t)n[0] * n[1] * 3, page = getpagesize();
    content = realloc(content, size ? size : 1);
    size_t whole = (room + page - 1) / page * page;
    unsigned char *memory = mmap(0, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + whole, page, PROT_NONE); /* libjpeg writes, which no sanitizer sees */
    unsigned char *pixels = memory + whole - room;
    int failed = fastlt_decode_jpeg(content, size, n[0], n[1], n[2], n[3], n[4], n[5], n[6], pixels, span);
    int wide = (n[1] + n[2] - 1) / n[2];
    if (!failed && (span[0] < 0 || span[1] < n[6] || span[0] + span[1] > wide || span[0] > n[4])) return 3;
    free(content);
    return 0;
}
"""


@functools.cache
def decoder() -> str:
    """Our C with sanitizers, as a program; "" where it cannot be compiled."""
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    program, source = folder / "decoder", folder / "decoder.c"
    source.write_text(DECODER)
    words = ["cc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", str(program)]
    done = subprocess.run(
        [*words, str(source), str(Path(jpeg_module).with_suffix(".c")), "-ljpeg"], capture_output=True
    )
    if done.returncode:
        print(f"our C is not fuzzed: {done.stderr.decode()[-300:]}", flush=True)
    return "" if done.returncode else str(program)


def _without_limit() -> None:
    """A sanitizer reserves terabytes of addresses; it has a limit of its own for what it uses."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def fuzz_decoder(draw: random.Random, folder: Path) -> None:
    """Windows of JPEGs, whole and damaged, decoded by our C under sanitizers."""
    for _ in range(10 if decoder() else 0):
        content = odd_image(draw, "JPEG")
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
        if draw.random() < 0.8:
            content = draw.choice([damaged, with_numbers])(draw, content)
        (folder / "i.jpg").write_bytes(content)
        shrink = draw.choice([1, 1, 2, 4, 8])
        high, wide = -(-height // shrink), -(-width // shrink)  # of the image shrunk so
        rows, columns = draw.randint(1, high), draw.randint(1, wide)
        numbers = height, width, shrink, draw.randint(0, high - rows), draw.randint(0, wide - columns), rows, columns
        words = [decoder(), str(folder / "i.jpg"), *map(str, numbers)]
        how = {"env": os.environ | SANITIZER, "preexec_fn": _without_limit}
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", **how)
        if done.returncode:
            raise Failure(f"{done.returncode} of a window {numbers}: {done.stderr[-3000:]}")


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


def fuzz_pages(draw: random.Random, folder: Path) -> None:
    """Damaged bytes of a source's answer: a page for the catalog, or one of the errors that cost a search."""
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
    "pages": fuzz_pages,
    "sources": fuzz_sources,
    "data": fuzz_data,
    "decoder": fuzz_decoder,
    "catalogs": fuzz_catalogs,
}  # fmt: skip


def run(name: str, number: int) -> str:
    """Runs one input in a process of its own; what was wrong, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "wrong"
        process = multiprocessing.get_context("fork").Process(target=_run, args=(name, number, said))
        process.start()
        process.join(HANG)
        if process.is_alive():
            process.kill()
            process.join()
            return f"no answer in {HANG} s"
        wrong = said.read_text() if said.exists() else ""
        return wrong or (f"ended with {process.exitcode}" if process.exitcode else "")


def _run(name: str, number: int, said: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + 4 * MEMORY, resource.RLIM_INFINITY))
    (folder := said.with_name("input")).mkdir()
    try:
        TARGETS[name](random.Random(f"{name} {number}"), folder)
        ours, theirs = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        if max(ours - before, theirs) * 1024 > MEMORY:
            raise Failure(f"{max(ours - before, theirs) / 1024:,.0f} MB")
    except (Exception, Failure):
        said.write_text(traceback.format_exc(), errors="backslashreplace")


def main(minutes: float, first: int, targets: Sequence[str]) -> int:
    """Runs targets in turn; how many inputs failed."""
    encoded_sets()
    decoder()
    refused(lambda: [read_data(encoded_sets() / name) for name in ("raw", "jpg")])  # compiles, once for all processes
    end, number, runs, failures = time.monotonic() + 60 * minutes, first, Counter[str](), 0
    while time.monotonic() < end:
        for name in targets:
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
    told = [*sys.argv[1:], *("1", "0")[len(sys.argv) - 1 :]]  # MINUTES FIRST TARGET...
    sys.exit(bool(main(float(told[0]), int(told[1]), told[2:] or list(TARGETS))))
