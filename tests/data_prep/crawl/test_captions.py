"""Images by their captions: which names count, which rows are left out and why, and the command from file to shard."""

import gzip
import lzma
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.captions.add import add_captioned
from fastlt.data_prep.crawl.captions.draw import Captioned, Draw
from fastlt.data_prep.crawl.captions.files import AskedOfCaptions, open_captions
from fastlt.data_prep.crawl.captions.matcher import TitleMatcher
from support.command import run_here
from support.crawling import command, jpeg, outcomes
from support.paths import SHARED
from support.web import Answer, Web

pytestmark = pytest.mark.medium
TITLES = {
    1: ["red fox"],
    2: ["fox"],
    3: ["foxglove"],
    4: ["ant"],
    5: ["St. John's wort"],
    6: ["cherry"],
    7: ["sea lion"],
}


def named(*captions: str) -> list[int | None]:
    found = TitleMatcher(TITLES, others=["California sea lion"]).find(pa.array(captions))
    by_row = dict(zip(found.rows.tolist(), found.categories.tolist(), strict=True))
    return [by_row.get(row) for row in range(len(captions))]


@pytest.mark.parametrize(
    ("caption", "category"),
    [
        ("A Red-Fox, running", 1),
        ("red  fox", 1),
        ("a red     fox", 1),
        ("RED . FOX", 1),
        ("red, fox", 2),  # two phrases
        ("red foxglove", 3),
        ("FOXES!", 2),
        ("the fox\u2019s den", 2),
        ("restaurant", None),
        ("bee,ant", 4),
        ("I saw St John's Wort in bloom.", 5),
        ("cherries on a plate", 6),
        ("California sea lions at rest", None),  # a target
        ("a California sea lion and a sea lion", 7),
        ("", None),
    ],
)
def test_names_are_whole_words_and_the_longest_ones(caption, category):
    assert named(caption) == [category]


def test_a_caption_belongs_to_the_category_that_it_names_first():
    found = TitleMatcher(TITLES).find(pa.array(["nothing", "an ant and a fox", "fox and fox"]))
    assert (found.rows.tolist(), found.categories.tolist(), found.several) == ([1, 2], [4, 2], 1)


def test_nothing_is_found_over_the_end_of_a_caption():
    assert named("a red", "fox") == [None, 2]


WORDS = st.sampled_from(["red", "fox", "foxes", "ant", "sea", "lion", "a", "glove", "\u00e9t\u00e9", "st"])


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(WORDS, st.sampled_from([" ", ", ", "-", ". "]))), max_size=8))
def test_a_batch_finds_what_each_caption_alone_has(captions):
    texts = ["".join(word + end for word, end in caption) for caption in captions]
    assert named(*texts) == [category for text in texts for category in named(text)]


OFFERED = [(0.1, "a"), (0.5, "b"), (0.5, "c"), (0.5, "d"), (0.2, "e"), (0.9, "f")]


@given(st.permutations(OFFERED))
def test_what_is_drawn_does_not_depend_on_the_order(offered):
    first, second = Draw(3), Draw(3)
    for draw, order in ((first, OFFERED), (second, offered)):
        for similarity, url in order:
            draw.offer(0, similarity, Captioned(url, None))
    assert list(first.drawn()) == list(second.drawn())
    ((_, drawn),) = second.drawn()
    assert drawn[0].url == "f"
    assert {captioned.url for captioned in drawn} < {*"bcdf"}
    assert second.over == 3


@pytest.fixture
def catalog(tmp_path) -> Path:
    """Two categories, one target."""
    with Catalog(tmp_path / "c.sqlite", create=True) as opened, opened.transaction():
        opened.enter_targets([("golden_fox", "golden fox", '["sun fox"]', 5)])
        for name in ("red fox", "ant"):
            opened.add_category(name.replace(" ", "_"), name)
    return tmp_path / "c.sqlite"


def crawl(catalog: Path, *words: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(catalog, *words), capture_output=True, text=True, timeout=120)


def write(path: Path, **columns: list) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_the_most_alike_are_fetched_and_the_rest_is_counted(tmp_path, catalog):
    with Web(lambda _, path: None if "robots" in path else Answer(jpeg(int(path[1:-4])))) as web:
        urls = [f"http://{web.hosts[0]}/{i}.jpg" for i in range(7)]
        write(
            tmp_path / "laion" / "0.parquet",
            URL=[*urls, urls[0], None],
            TEXT=["red fox", "Red Fox", "red foxes", "an ant", None, "x" * 3000, "a sun fox, red", "red fox", "ant"],
            similarity=[0.2, 0.3, 0.4, None, 0.9, 0.9, 0.9, 0.2, 0.9],
        )
        words = ["--captions", tmp_path / "laion" / "*.parquet", "--per-category", "2"]
        first = crawl(catalog, *words)
        again = crawl(catalog, *words)
    assert first.returncode == 0, first.stderr
    assert outcomes(catalog) == {"1.jpg": "fetched", "2.jpg": "fetched", "3.jpg": "fetched"}
    for said in (
        "9 rows of 1 files; caption=TEXT, url=URL, similarity=similarity",
        "3 new URLs of 2 categories",
        "left out: 1 rows without a URL",
        "left out: 1 rows without a caption",
        "left out: 1 rows with a caption of more than 2,000 bytes",
        "left out: 1 rows whose caption names no category",
    ):
        assert said in first.stdout
    assert "not changed since its captions were read" in again.stdout


def test_what_the_catalog_has_already_makes_room_for_the_next_best(tmp_path, catalog):
    urls = [f"http://a.example/{i}.jpg" for i in range(4)]
    with Catalog(catalog) as opened, opened.transaction():
        known = [(2, urls[3]), (1, "http://a.example/x.jpg"), (1, "http://a.example/y.jpg")]
        opened.add_candidates(Candidate(category, url, "a.example:80", "list") for category, url in known)
    write(tmp_path / "d" / "0.parquet", url=[*urls, "no URL"], text=["red fox"] * 5, similarity=[0.1, 0.2, 0.3, 0.4, 1])
    with Catalog(catalog) as opened:
        lines = add_captioned(opened, str(tmp_path / "d"), AskedOfCaptions(), 4)
        assert opened.candidates_by_category() == {1: 4, 2: 1}
        assert opened.candidate_of_url(urls[0]) is None
    assert "2 new URLs of 1 categories" in lines
    for why in ("above the number sought for a category", "that the catalog has already", "that are none"):
        assert f"left out: 1 URLs {why}" in lines


@pytest.mark.skipif(not SHARED.exists(), reason="the shared examples are not here")
@pytest.mark.parametrize("name", ["datacomp.parquet", "laion400m.parquet", "cc12m.tsv", "Train_GCC-training.tsv"])
def test_published_files_are_read_by_their_own_columns(tmp_path, name):
    _, batches = open_captions(SHARED / "cases" / "lists" / name, AskedOfCaptions())
    (batch,) = batches
    assert len(batch.captions) == len(batch.urls) > 0
    assert all(url.startswith("http") for url in batch.urls.to_pylist())
    assert not any(caption.startswith("http") for caption in batch.captions.to_pylist())
    assert (batch.similarities is not None) == name.endswith("parquet")


def test_a_few_bytes_that_stand_for_gigabytes_are_refused(tmp_path, catalog):
    """A dictionary's one text of 1 MB in 100,000 rows."""
    column = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["red fox " * 130_000])
    pq.write_table(pa.table({"url": ["http://a.example/1.jpg"] * 100_000, "text": column}), tmp_path / "bomb.parquet")
    said = crawl(catalog, "--captions", tmp_path / "bomb.parquet")
    assert "100,000 rows with a caption of more than" in said.stdout
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--captions", "nowhere/*.parquet"], "there is no file at nowhere/*.parquet"),
        (["--caption-column", "text"], "--caption-column is about a list: name the list with --captions"),
        (["--captions", "a", "--urls", "b"], "--urls and --captions are two ways to read a list"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(catalog, words, said):
    process = crawl(catalog, *words)
    assert process.returncode
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_a_damaged_file_leaves_nothing(tmp_path, catalog):
    good = write(tmp_path / "d" / "0.parquet", url=["http://a.example/1.jpg"] * 50, text=["red fox"] * 50)
    damaged = bytearray(good.read_bytes())
    damaged[4:40] = bytes(36)
    (tmp_path / "d" / "1.parquet").write_bytes(damaged)
    process = crawl(catalog, "--captions", tmp_path / "d")
    assert "1.parquet cannot be read" in process.stderr
    assert not outcomes(catalog)


LINES = "".join(f"http://a.example/{n * 7919 % 10_007}.jpg\tred fox\n" for n in range(5_000)).encode()


def damaged(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + b"\xff" * 2_000 + packed[middle + 2_000 :]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", {"url": [["http://a.org/1.jpg"]], "text": ["red fox"]}, "column 'url' of .* holds list<"),
        ("a.parquet", {"url": ["http://a.org/1.jpg"], "text": [{"en": "red fox"}]}, "column 'text' .* holds struct<"),
        ("a.parquet", {"url": ["http://a.org/1.jpg"], "text": [b"red fox"]}, "column 'text' of .* holds binary"),
        ("a.parquet", pa.table([["http://a.org/1.jpg"], ["a"], ["b"]], ["url", "text", "text"]),
         "a.parquet has several columns 'text'"),
        ("a.tsv.gz", gzip.compress(LINES)[:20] + b"\xff" * 9_000, "a.tsv.gz cannot be read: Error -3 while"),
        ("a.tsv.xz", damaged(lzma.compress(LINES)), "a.tsv.xz cannot be read"),
        ("a.csv", b"", "a.csv is empty."),
    ],
)  # fmt: skip
def test_files_that_are_none_of_captions_are_one_sentence(tmp_path, catalog, name, content, said):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        pq.write_table(pa.table(content), tmp_path / name)
    done = run_here(["crawl", str(catalog), "--contact", "a@b.org", "--list-only", "--captions", str(tmp_path / name)])
    assert done.returncode == 1
    assert re.search(said, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_lines_that_are_no_records_are_counted(tmp_path, catalog):
    record = '{"url": "http://a.example/1.jpg", "caption": "red fox"}\n'
    (tmp_path / "a.jsonl").write_text(f"{record}[]\n{record.replace('1.', '2.')}{record[:20]}")
    done = run_here(
        ["crawl", str(catalog), "--contact", "a@b.org", "--list-only", "--captions", str(tmp_path / "a.jsonl")]
    )
    assert "a.jsonl: 4 rows of 1 files" in done.stdout
    assert "left out: 2 lines that hold no JSON object" in done.stdout


def test_a_caption_that_is_no_text_is_said_with_its_file(tmp_path, catalog):
    """Beyond the rows by which columns are chosen."""
    raw = [b"a red fox"] * 2000 + [b"renard \xe9t\xe9"]
    offsets = np.cumsum([0, *map(len, raw)]).astype(np.int32)
    texts = pa.StringArray.from_buffers(len(raw), pa.py_buffer(offsets), pa.py_buffer(b"".join(raw)))
    pq.write_table(pa.table({"url": ["http://a.example/1.jpg"] * len(raw), "text": texts}), tmp_path / "latin.parquet")
    process = crawl(catalog, "--captions", tmp_path / "latin.parquet")
    assert "latin.parquet cannot be read: Invalid UTF8 sequence" in process.stderr
    assert not outcomes(catalog)


def test_a_catalog_without_categories_has_nothing_to_look_for(tmp_path):
    write(tmp_path / "d" / "0.parquet", url=["http://a.example/1.jpg"], text=["red fox"])
    with Catalog(tmp_path / "e.sqlite", create=True):
        pass
    process = crawl(tmp_path / "e.sqlite", "--captions", tmp_path / "d")
    assert "has no category that captions could name" in process.stderr
