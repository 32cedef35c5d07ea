"""Dumps of metadata: what of them becomes candidates, what is left out and why, through the command."""

import gzip
import json
import os
import re
import shutil
import subprocess
import uuid
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastlt.data_prep.catalog import Catalog
from support.command import run_here
from support.crawling import command, jpeg
from support.web import Answer, Web

pytestmark = pytest.mark.medium
CATEGORIES = (
    "Puma concolor",
    "Lynx",
    "Morus",
    "Rosa canina",
    "Gone species",
    "No such thing",
    "Bob's \"odd\" name'; --",
)
TAXA = [  # id, ancestry, rank level, rank, name, active
    (1, "", 70, "kingdom", "Animalia", "true"),
    (2, "", 70, "kingdom", "Plantae", "true"),
    (10, "1", 30, "family", "Felidae", "true"),
    (11, "1/10", 20, "genus", "Lynx", "true"),
    (12, "1/10/11", 15, "subgenus", "Lynx", "true"),
    (13, "1/10/11/12", 10, "species", "Lynx rufus", "true"),
    (14, "1/10/11/12", 10, "species", "Lynx lynx", "true"),
    (15, "1/10", 10, "species", "Puma concolor", "true"),
    (16, "1/10", 10, "species", "Puma concolor", "false"),
    (20, "1", 20, "genus", "Morus", "true"),
    (21, "2", 20, "genus", "Morus", "true"),
    (22, "2", 10, "species", "Rosa canina", "true"),
    (30, "1", 10, "species", "Gone species", "false"),
    (31, "1", 10, "species", "Bob's \"odd\" name'; --", "true"),
]


def row(*cells: object) -> str:
    return "\t".join("" if cell is None else str(cell) for cell in cells)


def uuid_of(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


class Dump:
    """iNaturalist's four files; every observation has one photo of the same number."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.taxa, self.observations, self.photos = [row(*taxon) for taxon in TAXA], [], []

    def add(self, taxon: int, grade: str = "research", license: str = "CC-BY", ending: str = "jpg", copies: int = 1):
        for _ in range(copies):
            self.number += 1
            n = self.number
            cells = (uuid_of(n), 7, 1.5, None, None, taxon, grade, f"2024-05-{n % 28 + 1:02}", None)
            self.observations.append(row(*cells))
            self.photos.append(row(uuid_of(10_000 + n), n, uuid_of(n), 7, ending, license, 500, 400, 0))
        return self

    def write(self, packed: bool = True, backwards: bool = False) -> Path:
        self.folder.mkdir(exist_ok=True)
        heads = {
            "taxa": "taxon_id ancestry rank_level rank name active",
            "observations": "observation_uuid observer_id latitude longitude positional_accuracy taxon_id"
            " quality_grade observed_on anomaly_score",
            "photos": "photo_uuid photo_id observation_uuid observer_id extension license width height position",
            "observers": "observer_id login name",
        }
        rows = {"taxa": self.taxa, "observations": self.observations, "photos": self.photos}
        rows["observers"] = [row(7, "ann", 'Ann "A" O\'Hara')]
        for table, head in heads.items():
            lines = [head.replace(" ", "\t"), *(reversed(rows[table]) if backwards else rows[table])]
            text = "".join(f"{line}\n" for line in lines).encode()
            file = self.folder / f"{table}.csv{'.gz' * packed}"
            file.write_bytes(gzip.compress(text) if packed else text)
        return self.folder


@pytest.fixture
def dump(tmp_path) -> Dump:
    made = Dump(tmp_path / "inaturalist-open-data-20240627")
    made.add(15, copies=5).add(16).add(15, "needs_id").add(15, license="CC-BY-ND").add(15, ending="gif")
    made.add(13, copies=2).add(14, copies=3).add(11)
    made.add(20, copies=2).add(21).add(22, copies=2).add(30).add(31)
    return made


def make_catalog(path: Path, targets: tuple = (), categories: tuple[str, ...] = CATEGORIES) -> Path:
    with Catalog(path, create=True) as opened, opened.transaction():
        opened.enter_targets([(name, name, "[]", 5) for name in targets])
        for number, title in enumerate(categories):
            opened.add_category(f"c{number}", title)
    return path


@pytest.fixture
def catalog(tmp_path) -> Path:
    return make_catalog(tmp_path / "c.sqlite", ("Lynx_lynx",))


def crawl(catalog: Path, *words: object) -> subprocess.CompletedProcess:
    # Nothing is fetched: that is no part of a join.
    return subprocess.run(
        [*command(catalog, "--source-url", "inaturalist=http://127.0.0.1:9", *words)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def found(catalog: Path) -> dict[str, set[str]]:
    """{title: last but one part of the URL of each candidate}."""
    with Catalog(catalog) as opened:
        rows = opened.connection.execute("SELECT url, title FROM candidate JOIN category ON category.id = category")
        by_title: dict[str, set[str]] = {}
        for url, title in rows.fetchall():
            by_title.setdefault(title, set()).add(url.split("/")[-2])
    return by_title


@pytest.mark.slow
def test_photos_are_joined_and_everything_left_out_is_counted(tmp_path, dump, catalog):
    excluded = tmp_path / "excluded.txt"
    excluded.write_text(f"1\n{uuid_of(2)}\nhttps://www.inaturalist.org/photos/3\n{uuid_of(10_004)}\n")
    with Web(lambda _, path: None if "robots" in path else Answer(jpeg(int(path.split("/")[2])))) as web:
        words = ["--dump", "inaturalist", dump.write(), "--exclude", excluded, "--licenses", "cc-by"]
        words += ["--source-url", f"inaturalist=http://{web.hosts[0]}"]
        process = subprocess.run(command(catalog, *words), capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert found(catalog) == {
        "Puma concolor": {"5"},
        "Lynx": {"10", "11", "15"},
        "Morus": {"16", "17"},
        "Rosa canina": {"19", "20"},
        "Gone species": {"21"},
        CATEGORIES[-1]: {"22"},
    }
    with Catalog(catalog) as opened:
        row = opened.connection.execute("SELECT * FROM candidate WHERE url LIKE '%/5/%'").fetchone()
        remembered = opened.json_setting(f"dump inaturalist {dump.folder}")
        assert opened.status()["candidate"] == {"fetched": {"": 10}}
    assert row["url"].endswith("/photos/5/medium.jpg")
    assert tuple(row)[4:8] == (
        "inaturalist", "https://www.inaturalist.org/photos/5", "cc-by", 'Ann "A" O\'Hara',
    )  # fmt: skip
    assert (remembered["snapshot"], remembered["photos"]) == ("2024-06-27", 10)
    for said in (
        "inaturalist's dump of 2024-06-27",
        "read: 22 observations and 22 photos, of which 17 are of a category",
        "left out: 4 photos that --exclude names",
        "left out: 1 photos of observations that are not of research grade",
        "left out: 1 photos whose license is not allowed",
        "left out: 1 files that are no still images",
        "1 taxa below categories are targets, and left out",
        "1 names mean several taxa, of which the one nearest to the other names counts: Morus (taxon 20)",
        "1 taxa are inactive, and the dump does not say what took their place: Gone species",
        "the dump does not know 1 category: No such thing",
    ):
        assert said in process.stdout, said
    assert (tmp_path / "c_not_in_dump.txt").read_text() == "No such thing\n"
    assert not list(tmp_path.glob("*.tmp"))


def test_the_draw_is_the_same_in_any_order_and_goes_on_with_a_newer_dump(tmp_path, dump):
    dump.add(15, copies=40)
    one, other, newer = (make_catalog(tmp_path / name) for name in ("one.sqlite", "other.sqlite", "newer.sqlite"))
    words = ["--dump", "inaturalist", dump.folder, "--per-category", "6"]
    dump.write()
    assert "new URLs" in crawl(one, *words).stdout
    assert "not changed since it was joined" in crawl(one, *words).stdout
    before = found(one)
    dump.write(packed=False, backwards=True)
    for file in dump.folder.glob("*.gz"):
        file.unlink()
    crawl(other, *words)
    assert found(other) == before
    assert len(before["Puma concolor"]) == 6
    assert "\n0 new URLs" in crawl(one, *words).stdout  # other files, the same photos
    crawl(one, *words[:-1], "9")
    crawl(newer, *words[:-1], "9")
    assert found(one) == found(newer)
    assert len(found(one)["Puma concolor"]) == 9


def test_a_photo_of_two_observations_is_one(tmp_path, dump):
    photos = [line.split("\t") for line in dump.photos[:3]]
    for n, cells in enumerate(photos):  # as those of another observation: a puma's, a lynx's, and one of no grade
        observation = uuid_of(500 + n)
        taxon, grade = ((15, "research"), (11, "research"), (15, None))[n]
        dump.observations.append(row(observation, 7, 1.5, None, None, taxon, grade, "2024-05-01", None))
        dump.photos.append(row(uuid_of(20_000 + n), cells[1], observation, *cells[3:]))
    one, other, some = (make_catalog(tmp_path / f"{name}.sqlite") for name in ("one", "other", "some"))
    words = ["--dump", "inaturalist", dump.write()]
    process = crawl(one, *words)
    assert "left out: 2 rows of photos that another row has" in process.stdout
    assert "left out: 2 photos of observations that are not of research grade" in process.stdout
    dump.write(backwards=True)
    crawl(other, *words)
    assert found(one) == found(other)
    assert {"1", "2", "3"} <= found(one)["Puma concolor"]
    excluded = tmp_path / "excluded.txt"
    excluded.write_text(f"{uuid_of(500)}\n{uuid_of(501)}\n")
    process = crawl(some, *words, "--exclude", excluded, "--per-category", "5")
    assert "left out: 4 photos that --exclude names" in process.stdout
    assert not {"1", "2"} & set.union(*found(some).values())
    excluded.write_text("999\n")
    process = crawl(some, *words, "--exclude", excluded)
    assert "no photo of a category is one of the 1 that --exclude names" in process.stdout


def test_what_is_excluded_after_it_was_entered_or_fetched_is_dropped(tmp_path, dump, catalog):
    dump.add(15, copies=5)
    excluded, pumas = tmp_path / "excluded.txt", {}
    with Web(lambda _, path: None if "robots" in path else Answer(jpeg(int(path.split("/")[2])))) as web:
        words = ["--dump", "inaturalist", dump.write(), "--per-category", "4"]
        words += ["--source-url", f"inaturalist=http://{web.hosts[0]}"]

        def run(*more: object) -> str:
            done = subprocess.run(command(catalog, *words, *more), capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            with Catalog(catalog) as opened:
                rows = opened.connection.execute(
                    "SELECT url, state FROM candidate WHERE category = 1 ORDER BY url"
                ).fetchall()
            pumas.clear()
            pumas.update({url.split("/")[-2]: state for url, state in rows})
            return done.stdout

        run("--list-only")
        first, second = [*pumas][:2]
        excluded.write_text(f"{first}\n")
        assert "1 URL is left out from now on: --exclude" in run("--exclude", excluded)
        assert Counter(pumas.values()) == {"dropped": 1, "fetched": 4}  # another one in its place
        assert pumas[first] == "dropped"
        assert not web.asked[web.hosts[0], f"/photos/{first}/medium.jpg"]
        excluded.write_text(f"{first}\n{uuid_of(int(second))}\n")  # the observation of one that was fetched
        run("--exclude", excluded)
        assert {first, second} == {photo for photo, state in pumas.items() if state == "dropped"}
        assert "nothing was left to fetch" in run("--exclude", excluded)
        assert "2 URLs are taken again that --exclude left out" in run()
        assert set(pumas.values()) == {"fetched"}


def test_a_plan_leaves_the_catalog_as_it_is(tmp_path, dump, catalog):
    planned = crawl(catalog, "--dump", "inaturalist", dump.write(), "--plan")
    assert re.search(r"^127.0.0.1:9 +15 ", planned.stdout, re.M), planned.stdout + planned.stderr
    assert found(catalog) == {}
    entered = crawl(catalog, "--dump", "inaturalist", dump.folder, "--per-category", "1", "--list-only")
    assert "6 new URLs of 6 categories" in entered.stdout  # not those of the plan


def test_a_clade_settles_what_a_name_means(tmp_path, dump):
    catalog = make_catalog(tmp_path / "c.sqlite", categories=("Morus",))
    words = ["--dump", "inaturalist", dump.write()]
    assert (
        "1 names mean several taxa, and none was taken; --dump-ancestor says which: Morus"
        in crawl(catalog, *words).stdout
    )
    crawl(catalog, *words, "--dump-ancestor", "plantae")
    assert found(catalog) == {"Morus": {"18"}}
    assert "no taxon of that name" in crawl(catalog, *words, "--dump-ancestor", "x' OR 1=1").stderr


def damaged(dump: Dump, what: str) -> Path:
    if what == "cycle":
        dump.taxa[3] = row(11, "1/10/12", 20, "genus", "Lynx", "true")
    folder = dump.write()
    if what == "cut":
        file = folder / "photos.csv.gz"
        file.write_bytes(file.read_bytes()[:-20])
    elif what == "no photos":
        (folder / "photos.csv.gz").write_bytes(
            gzip.compress(gzip.decompress((folder / "photos.csv.gz").read_bytes()).split(b"\n")[0] + b"\n")
        )
    elif what == "no file":
        (folder / "photos.csv.gz").unlink()
    elif what == "no column":
        (folder / "photos.csv.gz").write_bytes(gzip.compress(b"photo_id\tlicense\n1\tCC0\n"))
    elif what == "quoted":
        text = gzip.decompress((folder / "observations.csv.gz").read_bytes()).decode().splitlines()
        quoted = "\n".join("\t".join(f'"{cell}"' for cell in line.split("\t")) for line in text)
        (folder / "observations.csv.gz").write_bytes(gzip.compress(quoted.encode()))
    elif what == "quoted licenses":
        text = re.sub(rb"CC-BY[-A-Z]*", rb'"\g<0>"', gzip.decompress((folder / "photos.csv.gz").read_bytes()))
        (folder / "photos.csv.gz").write_bytes(gzip.compress(text))
    elif what.startswith("empty"):
        (folder / f"{what.split()[1]}.csv.gz").write_bytes(gzip.compress(b""))
    elif what in ("no observations", "no observers"):
        file = folder / f"{what[3:]}.csv.gz"
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).split(b"\n")[0] + b"\n"))
    elif what == "no text":
        (folder / "taxa.csv.gz").write_bytes(os.urandom(5000))
    return folder


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("cut", "photos.csv.gz cannot be read: Truncated compressed stream: fetch it again."),
        ("no photos", "photos.csv.gz has no photo"),
        ("no observations", "observations.csv.gz has no observation: fetch it again."),
        ("no observers", "observers.csv.gz has no observer, and licenses want them named: fetch it again."),
        ("empty taxa", "taxa.csv.gz is empty: fetch it again."),
        ("empty observers", "observers.csv.gz is empty: fetch it again."),
        ("no file", "has no photos.csv.gz: it is no folder of iNaturalist's open data"),
        ("no column", "photos.csv.gz has no column 'photo_uuid', only photo_id, license"),
        ("quoted", "observations.csv.gz has quoted columns"),
        ("quoted licenses", "photos.csv.gz has quoted columns"),
        ("cycle", "taxa.csv.gz is damaged: taxon 11 (Lynx) is its own ancestor"),
        ("no text", "taxa.csv.gz cannot be read"),
    ],
)
def test_a_damaged_dump_is_one_sentence_and_leaves_nothing(tmp_path, dump, catalog, what, said):
    process = crawl(catalog, "--dump", "inaturalist", damaged(dump, what))
    assert process.returncode
    assert said in process.stderr
    assert "Traceback" not in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert not found(catalog)
    assert not list(tmp_path.glob("*.tmp"))


def test_ids_that_are_none_are_counted(dump, catalog):
    dump.taxa.append(row("Aves", "1", 50, "class", "Aves", "true"))
    dump.add(15, copies=3)
    dump.observations[-1] = dump.observations[-1].replace(str(uuid_of(dump.number)), "twenty")
    dump.photos[-2] = dump.photos[-2].replace(f"\t{dump.number - 1}\t", f"\t{dump.number - 1}.0\t")
    dump.photos[-3] = dump.photos[-3].replace("\t7\tjpg", "\t8\tjpg")
    done = run_here(
        ["crawl", str(catalog), "--contact", "a@b.org", "--list-only", "--dump", "inaturalist", str(dump.write())]
    )
    for said in (
        "left out: 1 taxa of .*/taxa.csv.gz whose id is no number",
        "left out: 1 observations of .*/observations.csv.gz whose id is no UUID",
        "left out: 1 photos whose number is none",
        "1 photos are of observers without a name in .*/observers.csv.gz",
    ):
        assert re.search(said, done.stdout), (said, done.stdout)


def test_photos_of_another_dump_than_the_observations_are_said(tmp_path, dump, catalog):
    other = Dump(tmp_path / "other")
    other.number = 1000
    folder = other.add(15, copies=3).write()
    shutil.copy(dump.write() / "observations.csv.gz", folder / "observations.csv.gz")
    done = run_here(
        ["crawl", str(catalog), "--contact", "a@b.org", "--list-only", "--dump", "inaturalist", str(folder)]
    )
    assert re.search(r"none of these photos is of one of the \d+ observations of categories: are both", done.stdout)


def test_names_of_files_are_names_and_no_patterns(tmp_path, dump, catalog):
    dump.folder = tmp_path / "it's [a] *dump?; --"
    assert crawl(catalog, "--dump", "inaturalist", dump.write()).stdout.count("new URLs") == 1
    assert len(found(catalog)) == 6


META = """<archive xmlns="http://rs.tdwg.org/dwc/text/">
<core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.tdwg.org/dwc/terms/Occurrence"><files><location>occurrence.txt</location></files><id index="0"/>
<field index="1" term="http://rs.tdwg.org/dwc/terms/scientificName"/>
<field index="2" term="http://rs.tdwg.org/dwc/terms/kingdom"/><field index="3" term="http://rs.tdwg.org/dwc/terms/genus"/>
<field index="4" term="http://rs.gbif.org/terms/1.0/species"/>
<field index="5" term="http://rs.gbif.org/terms/1.0/lastInterpreted"/></core>
<extension encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.gbif.org/terms/1.0/Multimedia"><files><location>multimedia.txt</location></files><coreid index="0"/>
<field index="1" term="http://purl.org/dc/terms/type"/><field index="2" term="http://purl.org/dc/terms/identifier"/>
<field index="3" term="http://purl.org/dc/terms/license"/><field index="4" term="http://purl.org/dc/terms/rightsHolder"/>
</extension></archive>"""
BY = "http://creativecommons.org/licenses/by/4.0/"
OCCURRENCES = [
    (100, "Puma concolor (Linnaeus, 1771)", "Animalia", "Puma", "Puma concolor", "2024-03-04T01:02:03Z"),
    (101, "Lynx rufus subsp. x", "Animalia", "Lynx", "Lynx rufus", "2024-03-05T01:02:03Z"),
    (102, "Morus L.", "Plantae", "Morus", None, None),
    (103, "Morus Vieillot, 1816", "Animalia", "Morus", None, None),
    (104, "Aus bus", "Animalia", "Aus", "Aus bus", None),
]
MEDIA = [
    (100, "StillImage", "http://127.0.0.1:9/a/1.jpg", BY, "Ann"),
    (100, "Sound", "http://127.0.0.1:9/a/2.mp3", BY, "Ann"),
    (100, "StillImage", "http://127.0.0.1:9/c/3.jpg", "All rights reserved", "Ann"),
    (101, "StillImage", "http://127.0.0.1:9/d/4.jpg", BY, None),
    (102, "StillImage", "http://127.0.0.1:9/e/5.jpg", BY, None),
    (103, "StillImage", "http://127.0.0.1:9/f/6.jpg", BY, None),
    (104, "StillImage", "http://127.0.0.1:9/g/7.jpg", BY, None),
]


def write_archive(path: Path, meta: str = META, media: list = MEDIA) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.xml", meta)
        for name, rows in (("occurrence", OCCURRENCES), ("multimedia", media)):
            archive.writestr(f"{name}.txt", "\n".join(["head", *(row(*cells) for cells in rows)]) + "\n")
    return path


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_darwin_core_archive(tmp_path, catalog, is_folder):
    path = write_archive(tmp_path / "gbif.zip")
    if is_folder:
        zipfile.ZipFile(path).extractall(tmp_path / "gbif")
        path = tmp_path / "gbif"
    words = ["--dump", "gbif", path]
    process = subprocess.run(command(catalog, *words), capture_output=True, text=True, timeout=120)
    assert found(catalog) == {"Puma concolor": {"a"}, "Lynx": {"d"}, "Morus": {"f"}}, process.stderr
    with Catalog(catalog) as opened:
        told = opened.connection.execute(
            "SELECT source, page, license, attribution FROM candidate ORDER BY url"
        ).fetchone()
    assert tuple(told) == ("gbif", "https://www.gbif.org/occurrence/100", "cc-by-4.0", "Ann")
    for said in (
        "gbif's dump of 2024-03-05",
        "left out: 1 photos whose license is not allowed",
        "left out: 1 files that are no still images",
        "1 names are of several kingdoms, of which that of most other names counts: Morus (Animalia)",
    ):
        assert said in process.stdout, said


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + META, "is none of a Darwin Core archive"),
        ("<archive", "cannot be read"),
        (META.replace('ignoreHeaderLines="1"', 'ignoreHeaderLines="one"'), "cannot be read: 'one' is no number"),
        (META.replace('ignoreHeaderLines="1"', f'ignoreHeaderLines="{10**10}"'), "is no number of a line"),
        (META.replace('"UTF-8"', '"base64"'), "the meta.xml of .* cannot be read: 'base64' is not a text encoding"),
        (META.replace('"UTF-8"', '"undefined"'), "the meta.xml of .* cannot be read: .*undefined encoding"),
        (META.replace('"UTF-8"', '"utf-16"'), "occurrence.txt of .* cannot be read: UTF-16 stream does not start"),
        (META.replace('By="\\t"', 'By="\u00e9"'), "separated as nobody can read"),
        (META.replace("/Multimedia", "/Nothing"), "has no media: ask GBIF"),
        (META.replace(">multimedia.txt", ">../../etc/passwd"), "has no ../../etc/passwd"),
        (META.replace("scientificName", "a").replace("kingdom", "b").replace("genus", "c").replace("species", "d"),
         "has no name of a taxon"),
    ],
)  # fmt: skip
def test_an_archive_that_is_none_is_one_sentence(tmp_path, catalog, meta, said):
    process = crawl(catalog, "--dump", "gbif", write_archive(tmp_path / "gbif.zip", meta), "--source", "inaturalist")
    assert re.search(said, process.stderr), process.stderr
    assert "Traceback" not in process.stderr
    assert not found(catalog)


def test_parquet_by_the_columns_that_are_named(tmp_path, catalog):
    columns = {
        "scientific name": ["puma concolor", "Lynx", "Lynx lynx", None, "Lynx", "Lynx", "Lynx", "Lynx"],
        "u": [f"http://127.0.0.1:9/{i}/x.jpg" for i in range(4)]
        + [None, "http://127.0.0.1:9/5/x.jpg", None]
        + ["http://127.0.0.1:9/1/x.jpg"],
        "l": ["CC BY 4.0", "CC0", "CC0", "CC0", "CC0", None, "CC0", "CC0"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    words = ["--dump", "parquet", tmp_path / "*.parquet", "--name-column", "scientific name", "--url-column", "u"]
    words += ["--license-column", "l"]
    process = subprocess.run(command(catalog, *words, "--licenses", "cc0"), capture_output=True, text=True, timeout=120)
    assert found(catalog) == {"Lynx": {"1"}}, process.stderr
    assert "left out: 2 rows without a URL" in process.stdout
    assert "left out: 1 rows of photos that another row has" in process.stdout
    process = subprocess.run(command(catalog, *words, "--licenses", "any"), capture_output=True, text=True, timeout=120)
    assert found(catalog) == {"Puma concolor": {"0"}, "Lynx": {"1", "5"}}
    words[words.index("u")] = "v"
    process = subprocess.run(command(catalog, *words), capture_output=True, text=True, timeout=120)
    assert "has no column 'v' for --url-column, only scientific name, u, l" in process.stderr


def test_parquet_columns_that_are_no_names_are_one_sentence(tmp_path, catalog):
    file, url = tmp_path / "a.parquet", "http://127.0.0.1:9/1/x.jpg"
    words = ["crawl", str(catalog), "--contact", "a@b.org", "--list-only", "--dump", "parquet", str(file)]
    words += ["--name-column", "name", "--url-column", "u"]
    for table, status, said in (
        (pa.table([["Lynx"], ["Lynx"], [url]], ["name", "name", "u"]), 1, "a.parquet has several columns 'name'"),
        (pa.table({"name": [["Lynx"]], "u": [url]}), 1, "a.parquet holds list<"),
        (pa.table({"name": pa.array(["Lynx"], pa.string_view()), "u": [url]}), 0, "1 new URLs of 1 categories"),
    ):
        pq.write_table(table, file)
        done = run_here(words)
        assert done.returncode == status
        assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dump", "flickr", "x"], "--dump flickr: there are dumps of inaturalist, gbif, parquet"),
        (["--dump", "parquet", "x"], "by --name-column and --url-column"),
        (["--dump", "gbif", "x", "--any-grade"], "--any-grade is about --dump inaturalist"),
        (["--dump", "gbif", "x", "--urls", "y"], "--urls and --dump are two ways to read a list"),
        (["--dump", "gbif", "nowhere"], "nowhere is no Darwin Core archive"),
        (["--dump", "inaturalist", "nowhere"], "nowhere is no folder"),
        (
            ["--dump", "parquet", "nowhere/*.parquet", "--name-column", "n", "--url-column", "u"],
            "there is no file at nowhere/*.parquet",
        ),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(catalog, words, said):
    process = subprocess.run(command(catalog, *words), capture_output=True, text=True, timeout=120)
    assert process.returncode
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_a_line_of_an_exclusion_list_that_is_no_id(tmp_path, dump, catalog):
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("12\nhttps://www.inaturalist.org/observations/12\n")
    process = crawl(catalog, "--dump", "inaturalist", dump.write(), "--exclude", wrong)
    assert "line 2 of" in process.stderr
    assert "give its UUID" in process.stderr


def test_a_join_reads_and_writes_no_file_but_its_own(tmp_path):
    from fastlt.data_prep.dumps.database import Database

    (tmp_path / "secret.csv").write_text("a\n1\n")
    with Database(tmp_path / "x.tmp") as database:
        for query in (
            f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
            f"COPY (SELECT 1) TO '{tmp_path}/written.csv'",
            f"ATTACH '{tmp_path}/written.db'",
            "SET enable_external_access = true",
            "INSTALL httpfs",
        ):
            with pytest.raises(ValueError, match="cannot be joined"):
                database.run(query)
    assert [file.name for file in tmp_path.iterdir()] == ["secret.csv"]


def test_what_a_killed_join_left_goes_with_the_next_crawl(tmp_path, catalog):
    left = tmp_path / "c_dump.tmp"
    left.mkdir()
    (left / "duckdb_temp").write_text("")
    crawl(catalog, "--dump", "gbif", write_archive(tmp_path / "gbif.zip"), "--source", "inaturalist")
    assert not left.exists()


def test_what_was_taken_is_remembered_as_json(tmp_path, catalog):
    archive = write_archive(tmp_path / "gbif.zip")
    subprocess.run(command(catalog, "--dump", "gbif", archive), capture_output=True, timeout=120)
    with Catalog(catalog) as opened:
        remembered = json.loads(opened.setting(f"dump gbif {archive}"))
    assert remembered["photos"] == 3
    assert remembered["left out"]["photos whose license is not allowed"] == 1
