"""Whom to credit for the images of an encoded data set, and the narrowing to licenses, as a user types it."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from fastlt.data_prep.catalog import Catalog
from fastlt.dataset.attribution import COLUMNS, Credit, read_credits, write_credits
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_bytes
from support.catalogs import make_catalog
from support.command import run_here
from support.crawling import jpeg

pytestmark = pytest.mark.medium

# (category, license, attribution) of each image of the catalog, in the order of their ids.
IMAGES = [
    ("lynx", "cc-by-4.0", "Ann"),
    ("lynx", "cc-by-nc-4.0", '=HYPERLINK("http://evil.test")'),
    ("lynx", "All rights\nreserved", "Bob"),
    ("wolf", "cc-by-nd-2.0", "+Carl | <b>x</b>"),
    ("wolf", "", ""),
    ("fox", "cc0-1.0", "-Dora\r\n=1"),
    ("fox", "CC BY 4.0", "@Eve"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Targets `cat` and `dog`, and a catalog `c.sqlite` of what looks like them."""
    for split, number in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for n in range(number):
                (tmp_path / split / name / f"{n}.jpg").write_bytes(jpeg(100 + 10 * n + len(split + name)))
    neighbors = {"cat": ["lynx"], "dog": ["wolf", "fox"]}
    make_catalog(tmp_path / "c.sqlite", [(name, jpeg(n)) for n, (name, _, _) in enumerate(IMAGES)], neighbors)
    with Catalog(tmp_path / "c.sqlite") as catalog, catalog.transaction():
        for n, (_, license, attribution) in enumerate(IMAGES, 1):
            query = "UPDATE candidate SET license = ?, attribution = ?, page = ? WHERE id = ?"
            catalog.connection.execute(query, [license, attribution, f"http://pages.test/{n}", n])
        catalog.judge_images([("dropped" if n == 1 else "kept", "", None, None, n) for n in range(1, 8)])
        catalog.remember("filter", '{"encoder": "vit at 224 px", "gamma2": 0.9}')
    return tmp_path


def encode(folder: Path, out: str, *words: str) -> tuple[int, str]:
    done = run_here(
        ["encode", out, "--train", "train", "--val", "val", "--catalog", "c.sqlite", "--workers", "1", *words], folder
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("form", ["ffcv", "webdataset", "plain"])
def test_each_crawled_image_has_its_row_in_the_encoded_order(folder, form):
    status, said = encode(folder, "out", "--format", form)
    assert status == 0, said
    rows = list(read_credits(folder / "out"))
    assert [row.class_name for row in rows] == ["fox", "fox", "lynx", "lynx", "wolf", "wolf"]
    assert [row.sample for row in rows] == [6, 7, 8, 9, 10, 11]
    number = {row.sample: int(row.url.rpartition("/")[2]) for row in rows}
    assert [number[index] for index in range(6, 12)] == [5, 6, 1, 2, 3, 4]
    assert rows[1] == Credit("fox", 7, "http://images.test/6", "http://pages.test/7", "'@Eve", "cc-by-4.0", "test")
    data = EncodedDataset.open(folder / "out")
    assert data.label_space.counts == (3, 3, 2, 2, 2)
    if form != "ffcv":
        for at, name in enumerate(data.image_names("train")[6:], 6):
            assert read_bytes(name) == jpeg(number[at])


def test_what_a_broken_image_moves(folder):
    with Catalog(folder / "c.sqlite") as catalog:
        row = catalog.connection.execute("SELECT offset, num_bytes FROM image WHERE id = 6").fetchone()
        with catalog.shard_path(0).open("r+b") as shard:
            shard.seek(row["offset"])
            shard.write(bytes(row["num_bytes"]))
    status, said = encode(folder, "out", "--format", "webdataset", "--skip-broken")
    assert status == 0, said
    rows = list(read_credits(folder / "out"))
    assert [(row.sample, row.url[-1]) for row in rows] == [(6, "6"), (7, "1"), (8, "2"), (9, "3"), (10, "4")]
    names = EncodedDataset.open(folder / "out").image_names("train")
    assert [read_bytes(names[row.sample]) for row in rows] == [jpeg(int(row.url[-1])) for row in rows]


def test_no_cell_is_a_formula_and_no_row_more_than_a_line(folder):
    assert encode(folder, "out", "--format", "plain")[0] == 0
    lines = (folder / "out" / "ATTRIBUTION.csv").read_text().splitlines()
    assert len(lines) == 7
    cells = [cell for row in csv.reader(lines) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert {'\'=HYPERLINK("http://evil.test")', "'-Dora =1", "All rights reserved"} <= set(cells)


def test_the_card_counts_licenses_and_holds_no_markup_of_others(folder):
    status, said = encode(folder, "out", "--format", "webdataset", "--own-license", "cc-by-4.0")
    assert status == 0, said
    card = (folder / "out" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "unknown",
        "task_categories": ["image-classification"],
        "size_categories": ["n<1K"],
        "tags": ["long-tailed", "fastlt"],
    }
    for row in (
        "| cc-by-4.0 | 1 | yes | yes | yes |",
        "| cc-by-nd-2.0 | 1 | yes | no | yes |",
        "| All rights reserved, which nobody knows | 1 | no | no | |",
        "| none told, which nobody knows | 1 | no | no | |",
        "| of the maker's own images: cc-by-4.0 | 8 | | | |",
        "| train | 12 | 5 | `train.tar` |",
    ):
        assert row in body, body
    assert "3 pairs\nof a target" in body
    assert "Fetched: 6 from test." in body
    assert "gamma2 0.9" in body
    assert "Dates: 20" in body


def test_licenses_narrow(folder):
    status, said = encode(folder, "commercial", "--format", "plain", "--licenses", "commercial")
    assert status == 0, said
    assert [row.license for row in read_credits(folder / "commercial")] == ["cc0-1.0", "cc-by-4.0", "cc-by-nd-2.0"]
    assert "3 images are left out by --licenses: 1 cc-by-nc-4.0; of licenses that nobody knows: " in said
    assert "1 none told" in said
    assert "1 'All rights" in said
    status, said = encode(folder, "both", "--format", "plain", "--licenses", "commercial", "redistributable")
    assert status == 0, said
    assert [row.license for row in read_credits(folder / "both")] == ["cc0-1.0", "cc-by-4.0"]
    head = (folder / "both" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["license"] == "unknown", "of the targets nobody has told it"
    status, said = encode(folder, "by", "--format", "plain", "--licenses", "cc-by", "--own-license", "CC BY 4.0")
    assert status == 0, said
    head = (folder / "by" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cc-by-nc-nd"], "no image of c.sqlite has a license that is allowed"),
        (["gpl"], "license 'gpl' is unknown: choose from cc0, pdm"),
        (["cc-by-nc", "commercial"], "no license is left by cc-by-nc commercial"),
    ],
)
def test_licenses_that_leave_nothing(folder, words, sentence):
    status, said = encode(folder, "out", "--licenses", *words)
    assert status == 1
    assert sentence in said
    assert not (folder / "out").exists()
    assert not (folder / ".out.partial").exists()


def test_a_catalog_that_changes_meanwhile_is_told(folder):
    """Encode was killed after its images; filter ran; the same command would credit the wrong people."""
    from fastlt.data_prep.encode.credits import credit
    from fastlt.data_prep.encode.inputs import EncodeInputs, read_inputs

    sources = EncodeInputs(folder / "train", folder / "val", catalog=folder / "c.sqlite")
    inputs = read_inputs(sources)
    with Catalog(folder / "c.sqlite") as catalog, catalog.transaction():
        catalog.judge_images([("dropped", "", None, None, 6)])
    with pytest.raises(ValueError, match=r"c\.sqlite has changed since the encoding began"):
        credit(folder, inputs, sources)
    assert not (folder / "ATTRIBUTION.csv").exists()


def test_a_million_rows_are_written_and_read_without_being_held(tmp_path):
    import tracemalloc

    credits = (Credit("lynx", n, f"http://images.test/{n}", "", "Ann", "cc0-1.0", "test") for n in range(100_000))
    tracemalloc.start()
    write_credits(tmp_path, credits)
    assert sum(1 for _ in read_credits(tmp_path)) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "ATTRIBUTION.csv").write_text(",".join(COLUMNS) + "\nlynx,5,a,b,c,d,e\nlynx,5,a,b,c,d,e\n")
    with pytest.raises(ValueError, match=r"damaged, encode again: line 3 has no image of its own: lynx,5"):
        list(read_credits(tmp_path))
    shutil.copy(__file__, tmp_path / "ATTRIBUTION.csv")
    with pytest.raises(ValueError, match="its first line is not class,index"):
        list(read_credits(tmp_path))
