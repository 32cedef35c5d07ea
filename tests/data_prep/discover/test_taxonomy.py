"""`fastlt discover --taxonomy`: what becomes a neighbor, in each form of a taxonomy, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.taxonomy.tree import Tree
from support.crawling import command

TAXA = [  # id, ancestry, rank, name, active: as iNaturalist's files have them
    (1, "", "kingdom", "Animalia", "true"),
    (2, "", "kingdom", "Plantae", "true"),
    (10, "1", "family", "Felidae", "true"),
    (11, "1/10", "genus", "Lynx", "true"),
    (12, "1/10/11", "subgenus", "Lynx", "true"),
    (13, "1/10/11/12", "species", "Lynx rufus", "true"),
    (14, "1/10/11/12", "species", "Lynx lynx", "true"),
    (15, "1/10/11", "species", "Lynx pardinus", "true"),
    (16, "1/10/11", "species", "Lynx gone", "false"),
    (17, "1/10/11/12/13", "subspecies", "Lynx rufus baileyi", "true"),
    (20, "1/10", "genus", "Puma", "true"),
    (21, "1/10/20", "species", "Puma concolor", "true"),
    (22, "1/10/40", "species", "Felis concolor", "false"),
    (40, "1/10", "genus", "Felis", "true"),
    (41, "1/10/40", "species", "Felis catus", "true"),
    (42, "1/10/40", "species", "Felis chaus", "true"),
    (50, "1", "family", "Sulidae", "true"),
    (51, "1/50", "genus", "Morus", "true"),
    (52, "1/50", "genus", "Sula", "true"),
    (60, "2", "family", "Moraceae", "true"),
    (61, "2/60", "genus", "Morus", "true"),
    (62, "2/60", "genus", "Ficus", "true"),
]
HEAD = ("taxon_id", "ancestry", "rank_level", "rank", "name", "active")


def table(rows: list[tuple], *head: str) -> bytes:
    lines = (head, *rows) if head else rows
    return "".join("\t".join("" if cell is None else str(cell) for cell in row) + "\n" for row in lines).encode()


class Place:
    """A folder with a class list, a taxonomy, and the command."""

    def __init__(self, folder: Path, capsys) -> None:
        self.folder, self.capsys, self.out = folder, capsys, ""
        self.catalog, self.taxa = folder / "c.sqlite", folder / "taxa.csv.gz"
        self.classes("Lynx rufus\t5\nPuma concolor\t50\n")
        self.write(TAXA)

    def classes(self, text: str) -> None:
        (self.folder / "classes.txt").write_text(text)

    def write(self, rows: list[tuple], **more: dict[int, object]) -> None:
        cells = [(*row[:2], 10, *row[2:], *(column.get(row[0]) for column in more.values())) for row in rows]
        self.taxa.write_bytes(gzip.compress(table(cells, *HEAD, *more)))

    def discover(self, *words: object, file: Path | None = None) -> str:
        """What it says; it is to succeed."""
        self.capsys.readouterr()
        given = ["discover", self.catalog, "--classes", self.folder / "classes.txt", "--taxonomy", file or self.taxa]
        code = main([str(word) for word in (*given, *words)])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return out + err

    def refusal(self, *words: object, file: Path | None = None) -> str:
        given = ["discover", self.catalog, "--classes", self.folder / "classes.txt", "--taxonomy", file or self.taxa]
        self.capsys.readouterr()
        assert main([str(word) for word in (*given, *words)]) == 1
        self.out, said = self.capsys.readouterr()
        assert said.startswith("fastlt: error: ")
        assert said.count("\n") == 1, said
        assert not list(self.folder.glob("*.tmp"))
        return said

    def neighbors(self) -> dict[str, list[str]]:
        with Catalog(self.catalog) as opened:
            return opened.neighbors()

    def rows(self, query: str) -> list[tuple]:
        with Catalog(self.catalog) as opened:
            return [tuple(row) for row in opened.connection.execute(query)]


@pytest.fixture
def place(tmp_path, capsys, monkeypatch) -> Place:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path, capsys)


def within(place: Place, target: str) -> dict[str, str]:
    with Catalog(place.catalog) as opened:
        siblings = opened.json_setting(f"taxonomy of {target}")["siblings"]
    return {sibling["name"]: sibling["within"] for sibling in siblings}


def test_siblings_of_the_genus_come_first_and_rarer_targets_get_more(place):
    said = place.discover("--categories", 1, 2, 3)
    assert "2 target classes, 4 auxiliary categories, 5 neighbor pairs" in said
    assert "whose photos are not counted: siblings may have few or none" in said
    found = place.neighbors()
    assert {"lynx_lynx", "lynx_pardinus"} < {*found["Lynx rufus"]}
    assert {name: len(of) for name, of in found.items()} == {"Lynx rufus": 3, "Puma concolor": 2}
    assert not {"lynx_rufus", "puma_concolor", "lynx_gone", "felis_concolor"} & set().union(*found.values())
    assert sorted(within(place, "Lynx rufus").values()) == ["family", "genus", "genus"]
    assert place.rows("SELECT name, state FROM target") == [("Lynx rufus", "done"), ("Puma concolor", "done")]
    assert place.rows("SELECT title FROM category WHERE name = 'lynx_lynx'") == [("Lynx lynx",)]
    with Catalog(place.catalog) as opened:
        about = opened.json_setting("taxonomy of Lynx rufus")["siblings"][0]
        assert opened.json_setting(f"taxonomy {place.taxa}")["neighbor pairs"] == 5
    assert (about["file"], about["of"]) == (str(place.taxa), "13")
    assert about["day"][:2] == "20"
    before = place.rows("SELECT * FROM category"), place.rows("SELECT * FROM neighbor")
    assert "0 neighbor pairs are new" in place.discover("--categories", 1, 2, 3)
    assert (place.rows("SELECT * FROM category"), place.rows("SELECT * FROM neighbor")) == before
    assert within(place, "Lynx rufus").keys() == {"Lynx lynx", "Lynx pardinus", about_family(found)}


def about_family(found: dict[str, list[str]]) -> str:
    (name,) = {*found["Lynx rufus"]} - {"lynx_lynx", "lynx_pardinus"}
    return name.capitalize().replace("_", " ")


def test_the_order_of_rows_makes_no_difference(place):
    place.discover("--categories", 1)
    before = place.neighbors()
    place.catalog.unlink()
    place.write(TAXA[::-1])
    place.discover("--categories", 1)
    assert place.neighbors() == before


def test_a_newer_class_list_takes_siblings_out(place):
    place.discover()
    place.classes("Lynx rufus\t5\nPuma concolor\t50\nLynx lynx\t5\n")
    place.discover()
    found = place.neighbors()
    assert all("lynx_lynx" not in of for of in found.values())
    assert "lynx_pardinus" in found["Lynx lynx"]


def test_whom_it_leaves_short_a_later_taxonomy_may_help(place):
    said = place.discover()
    assert "2 target classes have fewer categories than wanted: Lynx rufus, Puma concolor" in said
    assert place.rows("SELECT DISTINCT state, reason FROM target") == [
        ("short", "the taxonomy has no more siblings that may be taken")
    ]
    place.write([*TAXA, *((n, "1/10/40", "species", f"Felis {chr(n)}us", "true") for n in range(97, 110))])
    place.discover()
    assert place.rows("SELECT DISTINCT state, reason FROM target") == [("done", "")]
    assert [len(of) for of in place.neighbors().values()] == [8, 5]


def test_siblings_above_and_below_targets_and_their_inactive_names_are_none(place):
    place.classes("Felis concolor\t5\nFelis\t5\nLynx rufus\t5\n")
    said = place.discover()
    # Felis catus is of the target Felis; Puma concolor is what Felis concolor is called today.
    assert place.neighbors() == {
        "Felis concolor": ["lynx_lynx", "lynx_pardinus"],
        "Felis": ["puma"],  # the genus Lynx has a target in it
        "Lynx rufus": ["lynx_lynx", "lynx_pardinus"],
    }
    assert "1 target classes are called by names that are inactive" in said
    assert "so that no sibling with the same last word is taken: Felis concolor" in said


def test_an_animal_and_a_plant_of_one_name(place):
    place.classes("Morus\t5\nLynx rufus\t5\n")
    assert "1 names mean several taxa, of which the one nearest to the other names counts: Morus (taxon 51)" in (
        place.discover()
    )
    assert place.neighbors()["Morus"] == ["sula"]
    place.catalog.unlink()
    place.classes("Morus\t5\n")
    assert "no target class has any category: see above for the reasons" in place.refusal()
    assert "1 names mean several taxa, and none was taken; another name of it in the class list says which: Morus" in (
        place.out
    )
    assert place.rows("SELECT state, reason FROM target") == [("short", "the taxonomy has several taxa of that name")]
    place.classes("Ficus\t5\nLynx rufus\t5\n")
    place.catalog.unlink()
    assert "left out: 1 siblings with a name that another taxon has too: Morus" in place.discover()
    assert "Ficus" not in place.neighbors()


def test_photos_are_counted_from_observations_and_those_of_subspecies_too(place):
    rows = [(taxon, grade) for taxon, grade, times in OBSERVED for _ in range(times)]
    (place.folder / "observations.csv").write_bytes(table(rows, "taxon_id", "quality_grade"))
    place.classes("Puma concolor\t5\n")
    said = place.discover("--min-photos", 3, file=place.folder)
    assert place.neighbors() == {"Puma concolor": ["felis_catus", "lynx_rufus"]}
    assert "22 taxa, of them 20 active ones, whose photos are counted" in said
    assert "read: 11 observations" in said
    assert "left out: 3 siblings with fewer than 3 photos" in said


OBSERVED = [(13, "research", 1), (17, "research", 2), (41, "research", 5), (42, "needs_id", 3)]


def test_a_column_may_count_photos(place):
    place.write(TAXA, **{"seen 'x'\"": {14: 200, 15: 99, 41: "many", 42: 300}})
    place.classes("Lynx rufus\t500\n")
    said = place.discover("--photos-column", "seen 'x'\"", "--categories", 2)
    assert within(place, "Lynx rufus") == {"Lynx lynx": "genus", "Felis chaus": "family"}
    assert "left out: 1 siblings with fewer than 100 photos" in said
    assert "whose photos are counted, but of 17" in said
    assert "has no column 'seen', only taxon_id" in place.refusal("--photos-column", "seen")
    place.discover("--photos-column", "rank")  # is no number of anything


@pytest.mark.medium
def test_a_crawl_goes_on_with_what_a_taxonomy_gave(place):
    place.discover()
    rows = {
        "observations": ([("a" * 8 + "-0000-0000-0000-000000000000", 14, "research", "2024-01-01")],
                         "observation_uuid taxon_id quality_grade observed_on"),
        "photos": ([("u", 7, "a" * 8 + "-0000-0000-0000-000000000000", 1, "jpg", "CC0")],
                   "photo_uuid photo_id observation_uuid observer_id extension license"),
        "observers": ([(1, "ann", "Ann")], "observer_id login name"),
    }  # fmt: skip
    for name, (lines, head) in rows.items():
        (place.folder / f"{name}.csv").write_bytes(table(lines, *head.split()))
    words = ["--dump", "inaturalist", place.folder, "--source-url", "inaturalist=http://127.0.0.1:9"]
    done = subprocess.run(command(place.catalog, *words), capture_output=True, text=True, timeout=120)
    assert "1 new URLs of 1 categories" in done.stdout, done.stderr
    assert "the dump does not know" not in done.stdout


# Darwin Core

META = """<archive xmlns="http://rs.tdwg.org/dwc/text/">
<core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.tdwg.org/dwc/terms/Taxon"><files><location>Taxon.tsv</location></files><id index="0"/>
<field index="1" term="http://rs.tdwg.org/dwc/terms/parentNameUsageID"/>
<field index="2" term="http://rs.tdwg.org/dwc/terms/acceptedNameUsageID"/>
<field index="3" term="http://rs.tdwg.org/dwc/terms/scientificName"/>
<field index="4" term="http://rs.tdwg.org/dwc/terms/scientificNameAuthorship"/>
<field index="5" term="http://rs.tdwg.org/dwc/terms/taxonRank"/>
<field index="6" term="http://rs.tdwg.org/dwc/terms/taxonomicStatus"/></core>
<extension encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.gbif.org/terms/1.0/VernacularName"><files><location>names.tsv</location></files><coreid index="0"/>
<field index="1" term="http://rs.tdwg.org/dwc/terms/vernacularName"/></extension></archive>"""
DARWIN = [
    ("f", None, None, "Felidae", "Fischer", "FAMILY", "accepted"),
    ("l", "f", None, "Lynx Kerr, 1792", "Kerr, 1792", "GENUS", "accepted"),
    ("l1", "l", None, "Lynx rufus (Schreber, 1777)", "(Schreber, 1777)", "SPECIES", "accepted"),
    ("l2", "l", None, "Lynx lynx (Linnaeus, 1758)", "(Linnaeus, 1758)", "SPECIES", "accepted"),
    ("l3", "l", None, "Lynx (Pardina) pardinus de Temm.", "de Temm.", "SPECIES", None),
    ("l4", "l", "l2", "Lynx borealis", "", "SPECIES", "synonym"),
    ("l5", "l", None, "Lynx dubius", "", "SPECIES", "doubtful"),
    ("p", "f", None, "Puma", "Jardine", "GENUS", "accepted"),
    ("p1", "p", None, "Puma concolor", "(L.)", "SPECIES", "accepted"),
    ("p2", "p", "p1", "Felis concolor", "L.", "SPECIES", "homotypic synonym"),
    ("r1", "r2", None, "Ringus", "", "GENUS", "accepted"),
    ("r2", "r1", None, "Ringidae", "", "FAMILY", "accepted"),
    ("r3", "r1", None, "Ringus lost", "", "SPECIES", "accepted"),
    ("o1", "nowhere", None, "Orphan one", "", "SPECIES", "accepted"),
]
COMMON = [("l1", "bobcat"), ("l2", "Eurasian lynx"), ("p1", "cougar")]
DARWIN_HEAD = (
    *("taxonID", "parentNameUsageID", "acceptedNameUsageID", "scientificName"),
    *("scientificNameAuthorship", "taxonRank", "taxonomicStatus"),
)


def write_archive(place: Place, meta: str = META) -> Path:
    file = place.folder / "backbone-2026-05-04.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("meta.xml", meta)
        archive.writestr("Taxon.tsv", table(DARWIN, *DARWIN_HEAD))
        archive.writestr("names.tsv", table(COMMON, "taxonID", "vernacularName"))
    return file


@pytest.mark.parametrize("form", ["zip", "folder", "table"])
def test_darwin_core_by_parents_with_synonyms_and_common_names(place, form):
    name = "Lynx rufus" if form == "table" else "bobcat"
    place.classes(f"{name}\t5\nFelis concolor\t5\nRingus lost\t5\n")
    file = write_archive(place)
    if form == "folder":
        zipfile.ZipFile(file).extractall(file.with_suffix(""))
        file = file.with_suffix("")
    if form == "table":
        file = place.folder / "Taxon.tsv"
        file.write_bytes(gzip.compress(table(DARWIN, *(f"dwc:{name}" for name in DARWIN_HEAD))))
    said = place.discover(file=file)
    found = place.neighbors()
    lynxes = ["lynx_lynx", "lynx_pardinus"]
    assert found == {name: lynxes, "Felis concolor": lynxes}
    assert "a Darwin Core taxonomy by parents, of 20" in said
    assert "2 taxa lie above themselves, and are taken to belong to nothing: Ringidae, Ringus" in said
    assert "1 taxa belong to one that is not there" in said
    assert "1 of 3 target classes have NO category: Ringus lost" in said
    assert ("taxonomy by parents, of 2026-05-04" in said) == (form != "table")


def test_inaturalists_own_archive(place):
    """Its ids are numbers in one place and pages in another, its cells are quoted, common names are in many files."""
    page = "https://www.inaturalist.org/taxa/"
    rows = [(id, above, name, rank) for id, above, rank, name, active in TAXA if active == "true"]
    lines = ["id,taxonID,parentNameUsageID,scientificName,taxonRank,vernacularName"]
    for number, above, name, rank in rows:
        parent = f"{page}{above.split('/')[-1]}" if above else ""
        lines.append(f'{number},"{page}{number}","{parent}","{name}",{rank},')
    terms = ("taxonID", "parentNameUsageID", "scientificName", "taxonRank", "vernacularName")
    fields = "".join(
        f'<field index="{n}" term="http://rs.tdwg.org/dwc/terms/{term}"/>' for n, term in enumerate(terms, 1)
    )
    how = 'encoding="UTF-8" fieldsTerminatedBy="," fieldsEnclosedBy="&quot;" ignoreHeaderLines="1"'
    common = "".join(
        f'<extension {how} rowType="http://rs.gbif.org/terms/1.0/VernacularName"><files><location>{name}</location>'
        '</files><coreid index="0"/><field index="1" term="http://rs.tdwg.org/dwc/terms/vernacularName"/></extension>'
        for name in ("english.csv", "german.csv")
    )
    meta = (
        f'<archive xmlns="http://rs.tdwg.org/dwc/text/"><core {how} rowType="http://rs.tdwg.org/dwc/terms/Taxon"><files>'
        f'<location>taxa.csv</location></files><id index="0"/>{fields}</core>{common}</archive>'
    )
    file = place.folder / "inaturalist-taxonomy.dwca.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (
            ("meta.xml", meta),
            ("taxa.csv", "\n".join(lines) + "\n"),
            ("english.csv", 'id,vernacularName\n13,"Bobcat"\n21,"Cougar, or puma"\n'),
            ("german.csv", "id,vernacularName\n13,Rotluchs\n"),
        ):
            archive.writestr(name, text)
    place.classes("Rotluchs\t5\nbobcat\t5\n")
    said = place.discover(file=file)
    lynxes = {"Lynx lynx": "genus", "Lynx pardinus": "genus"}
    assert within(place, "Rotluchs").items() > lynxes.items()
    assert within(place, "bobcat") == within(place, "Rotluchs")
    assert "by parents, of" in said
    place.catalog.unlink()
    table_alone = place.folder / "taxa_alone.csv"
    table_alone.write_text("\n".join(lines) + "\n")
    place.classes("Lynx rufus\t5\n")
    place.discover(file=table_alone)
    assert within(place, "Lynx rufus").items() > lynxes.items()


def test_a_category_that_means_a_taxon_already_is_taken_for_it(place):
    place.classes("bobcat\t5\n")
    with Catalog(place.catalog, create=True) as opened, opened.transaction():
        for title in ("Eurasian lynx", "Felis concolor", "bob's cat", "lynx-rufus"):
            opened.add_category(title.lower().replace(" ", "_"), title)
        opened.reject_category(2, "by hand")
    said = place.discover(file=write_archive(place))
    assert place.neighbors() == {"bobcat": ["eurasian_lynx", "lynx_pardinus"]}
    assert "1 categories mean a target class, and are marked in the catalog: lynx-rufus" in said
    day = "backbone-2026-05-04.zip of 2026-05-04"
    assert place.rows("SELECT title, state, reason FROM category WHERE reason != ''") == [
        ("Felis concolor", "rejected", "by hand"),
        ("bob's cat", "kept", f"its name is not in {day}"),
        ("lynx-rufus", "kept", f"means the target class 'bobcat', says {day}"),
    ]


RANKED_HEAD = "taxonKey scientificName acceptedTaxonKey numberOfOccurrences taxonRank taxonomicStatus family genus"
RANKED = [
    (1, "Lynx rufus (Schreber, 1777)", 1, 900, "SPECIES", "ACCEPTED", "Felidae", "Lynx"),
    (2, "Lynx lynx (Linnaeus, 1758)", 2, 800, "SPECIES", "ACCEPTED", "Felidae", "Lynx"),
    (3, "Lynx borealis Thunberg", 2, 5, "SPECIES", "SYNONYM", "Felidae", "Lynx"),
    (4, "Lynx pardinus", 4, 20, "SPECIES", "ACCEPTED", "Felidae", "Lynx"),
    (5, "Puma concolor", 5, 700, "SPECIES", "ACCEPTED", "Felidae", "Puma"),
    (6, "Puma", 6, 700, "GENUS", "ACCEPTED", "Felidae", "Puma"),
    (7, "Lynx plantae", 7, 700, "SPECIES", "ACCEPTED", "Lynxaceae", "Lynx"),
]


def test_ranks_of_a_list_of_gbif(place):
    file = place.folder / "species.csv"
    file.write_bytes(table(RANKED, *RANKED_HEAD.split()))
    said = place.discover("--photos-column", "numberOfOccurrences", "--categories", 9, file=file)
    assert place.neighbors() == {"Lynx rufus": ["lynx_lynx"], "Puma concolor": ["lynx_lynx"]}
    assert "by the columns of ranks" in said
    assert "left out: 1 siblings with fewer than 100 photos" in said
    place.classes("Lynx\t5\nLynx rufus\t5\nPuma concolor\t50\n")
    assert "1 names mean several taxa" in place.discover(file=file)  # of Felidae, as the others are
    assert "Lynx" not in place.neighbors()  # beside it is Puma, which has a target


# JSON


def test_ranks_of_inaturalists_own_json(place):
    ranks = {"kingdom": "Animalia", "family": "Felidae"}
    names = ["Lynx rufus", "Lynx lynx", "Lynx pardinus", "Puma concolor"]
    categories = [{"id": n, "name": name, "genus": name.split()[0], **ranks} for n, name in enumerate(names)]
    categories[1]["common_name"] = "Eurasian lynx"
    annotations = [{"image_id": n, "category_id": 1} for n in range(7)]
    file = place.folder / "train2018.json"
    file.write_text(json.dumps({"categories": categories}))
    place.classes("Lynx rufus\t5\n")
    place.discover(file=file)
    assert within(place, "Lynx rufus") == {
        "Lynx lynx": "genus",
        "Lynx pardinus": "genus",
        "Puma concolor": "family",
    }
    before = place.neighbors()
    place.catalog.unlink()
    file.write_text(json.dumps(categories))  # as categories.json of 2018 and 2019 is
    place.discover(file=file)
    assert place.neighbors() == before
    place.catalog.unlink()
    file.write_text(json.dumps({"categories": categories, "annotations": annotations}))
    said = place.discover("--min-photos", 7, file=file)
    assert place.neighbors() == {"Lynx rufus": ["lynx_lynx"]}
    assert "left out: 2 siblings with fewer than 7 photos" in said
    place.catalog.unlink()
    place.classes("Eurasian lynx\t5\n")
    place.discover("--min-photos", 0, file=file)
    assert "no category of" in (said := place.refusal("--photos-column", "seen", file=file))
    assert "has the field 'seen'" in said
    assert place.neighbors() == {"Eurasian lynx": ["lynx_pardinus", "lynx_rufus", "puma_concolor"]}


def test_a_taxonomy_of_names(place):
    file = place.folder / "taxonomy.json"
    above = {"cello": ["bowed", "strings"], "viola": ["bowed", "strings"], "harp": ["plucked", "strings"]}
    file.write_text(json.dumps(above | {"oboe": ["reeds", "winds"], "lute": ["plucked", "strings"]}))
    place.classes("cello\t5\nlute\t5\nplucked\t5\n")
    place.discover(file=file)
    assert within(place, "cello") == {"viola": "group"}  # the plucked ones are targets, by another class
    assert within(place, "lute") == {"viola": "group above"}
    assert "has no numbers, only names" in place.refusal("--photos-column", "seen", file=file)
    assert "plucked" not in place.neighbors()  # beside it are the bowed ones, which have a target


# With a language model


@pytest.fixture
def server():
    pytest.importorskip("openai")
    from support.llm_server import LlmServer

    server = LlmServer()
    yield server
    server.close()


def test_what_no_taxonomy_knows_is_marked_and_stays(place, server):
    from support.llm_server import names

    model = ["--base-url", server.url, "--model", "m"]
    place.classes("Lynx rufus\t500\n")
    server.answer = lambda question: names("Lynx lynx", "Lynx inventus", "felis CHAUS")
    words = [place.catalog, "--classes", place.folder / "classes.txt", *model]
    assert main(["discover", *map(str, words)]) == 0
    found = place.neighbors()
    said = place.discover()
    assert place.neighbors() == found
    names_file = place.folder / "c_not_in_taxonomy.txt"
    assert "1 of 3 categories have a name that no taxonomy here has; they stay, are marked in the catalog" in said
    assert names_file.read_text() == "Lynx inventus\n"
    with Catalog(place.catalog) as opened:
        day = opened.json_setting(f"taxonomy {place.taxa}")["day"]
        reasons = opened.status()["category"]["kept"]
    assert reasons == {"": 2, f"its name is not in taxa.csv.gz of {day}": 1}
    assert main(["status", str(place.catalog)]) == 0
    assert f"1     kept: its name is not in taxa.csv.gz of {day}" in place.capsys.readouterr().out
    # Another file knows it.
    place.write([*TAXA, (99, "1/10/11", "species", "Lynx inventus", "false")])
    place.discover()
    with Catalog(place.catalog) as opened:
        assert opened.status()["category"] == {"kept": {"": 3}}
    assert not names_file.exists()


def test_a_model_is_asked_for_what_the_taxonomy_lacks(place, server):
    from support.llm_server import names

    server.answer = lambda question: names("ocelot", "Lynx catus", "serval", "margay", "Lynx canadensis")
    said = place.discover("--base-url", server.url, "--model", "m", "--categories", 5)
    (asked, *_) = server.asked
    assert {"Lynx lynx", "Lynx pardinus"} < {*asked.known}
    assert asked.number == 5 - len(asked.known)
    assert [len(of) for of in place.neighbors().values()] == [5, 5]
    assert place.rows("SELECT DISTINCT state, reason FROM target") == [("done", "")]
    assert "categories have a name that no taxonomy here has" in said
    assert said.count("iNaturalist's taxa, of") == 1
    number = len(server.asked)
    place.discover("--base-url", server.url, "--model", "m", "--categories", 5)
    assert len(server.asked) == number


def test_who_was_not_answered_is_asked_again_after_a_taxonomy(place, server):
    from support.llm_server import error, names, obliging

    place.classes("Morus\t5\n")
    server.answer = lambda question: names("gannet") if len(server.asked) == 1 else error(500)
    model = ["--base-url", server.url, "--model", "m"]
    words = [place.catalog, "--classes", place.folder / "classes.txt", *model, "--attempts", 1]
    assert main(["discover", *map(str, words)]) == 1
    place.discover()
    assert place.rows("SELECT state FROM target") == [("open",)]
    server.answer = obliging
    assert main(["discover", *map(str, words)]) == 0
    assert len(place.neighbors()["Morus"]) == 8


# Bad input


def damaged(place: Place, what: str) -> Path:
    file = place.taxa
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif what == "no column":
        file.write_bytes(table([(1, "", "x")], "taxon_id", "ancestry", "name"))
    elif what == "no rows":
        file.write_bytes(table([], *HEAD))
    elif what == "no text":
        file.write_bytes(np.random.default_rng(0).bytes(9999))
    elif what == "another table":
        file.write_bytes(table([(1, 2)], "photo_id", "license"))
    elif what == "an empty folder":
        file = place.folder / "empty"
        file.mkdir()
    elif what == "a pipe":
        file = place.folder / "pipe"
        os.mkfifo(file)
    elif what == "nowhere":
        file = place.folder / "nowhere"
    elif what == "occurrences":
        file = write_archive(place, META.replace("/Taxon", "/Occurrence"))
    elif what == "no parents":
        file = place.folder / "t.tsv"
        file.write_bytes(table([("Lynx rufus", "species", "Lynx")], "scientificName", "taxonRank", "genus"))
    elif what == "lost parents":
        file = place.folder / "t.tsv"
        rows = [(1, 5, "Lynx rufus", "species"), (2, 6, "Lynx lynx", "species"), (3, 2, "Lynx lynx lynx", "form")]
        file.write_bytes(table(rows, "taxonID", "parentNameUsageID", "scientificName", "taxonRank"))
    elif what == "no ranks":
        file = place.folder / "t.tsv"
        file.write_bytes(table([("Lynx rufus", 1)], "scientificName", "parentNameUsageID"))
    elif what == "circle":
        file = place.folder / "t.json"
        file.write_text('{"a": ["b", "c"], "d": ["c", "b"]}')
    elif what == "names alone":
        file = place.folder / "t.json"
        file.write_text('{"categories": [{"id": 1, "name": "Lynx rufus"}]}')
    return file


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("cut", "taxa.csv.gz cannot be read: Truncated compressed stream: fetch it again."),
        ("no column", "taxa.csv.gz has no column 'active', only taxon_id, ancestry, name"),
        ("no rows", "taxa.csv.gz has no taxon: fetch it again."),
        ("no text", "taxa.csv.gz "),
        ("another table", "is no taxonomy; its columns are photo_id, license: give iNaturalist's taxa.csv.gz"),
        ("an empty folder", "has neither taxa.csv.gz nor meta.xml: give"),
        ("a pipe", "pipe is no file."),
        ("nowhere", "nowhere cannot be read: No such file or directory."),
        ("occurrences", "has no table of taxa: give an archive of a checklist, not of occurrences."),
        ("no parents", "has neither the column parentNameUsageID nor genus and family, only scientificName"),
        ("lost parents", "t.tsv does not say what taxa belong to: 2 of 3 parents are not there"),
        ("no ranks", "t.tsv has no column 'taxonRank'"),
        ("circle", "t.json goes in a circle"),
        ("names alone", "category 'Lynx rufus' has none of the ranks kingdom"),
    ],
)
def test_a_damaged_taxonomy_is_one_sentence_and_gives_nothing(place, what, said):
    assert said in place.refusal(file=damaged(place, what))
    assert place.rows("SELECT count(*) FROM category") == [(0,)]
    assert place.rows("SELECT DISTINCT state, reason FROM target") == [("open", "")]


def test_taxa_above_themselves_and_targets_that_are_not_there(place):
    place.write([*TAXA[:3], (11, "1/10/12", *TAXA[3][2:]), *TAXA[4:]])
    place.classes("Felis catus\t5\nno such cat\t5\nLynx rufus\t5\n")
    said = place.discover()
    assert "2 taxa lie above themselves, and are taken to belong to nothing: Lynx, Lynx" in said
    assert "1 of 3 target classes are not in it: no such cat" in said
    assert "2 of 3 target classes have NO category: no such cat, Lynx rufus" in said
    assert place.neighbors() == {"Felis catus": ["felis_chaus", "puma_concolor"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base-url", "http://127.0.0.1:9/v1"], "--base-url: say which model there is asked, by --model NAME."),
        (["--min-photos", "-1"], "--min-photos is -1; it must be 0 or more."),
    ],
)
def test_options_that_make_no_sense(place, words, said):
    assert said in place.refusal(*words)
    assert not place.catalog.exists()


def test_nobody_names_categories(place):
    words = ["discover", place.catalog, "--classes", place.folder / "classes.txt"]
    assert main([*map(str, words)]) == 1
    assert "say who names categories: a language model by --model NAME, or --taxonomy" in place.capsys.readouterr().err
    assert main([*map(str, words), "--photos-column", "x"]) == 1
    assert "--photos-column is about a taxonomy" in place.capsys.readouterr().err


def test_trees_as_arrays_are_what_a_walk_finds():
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 300):
        ids = np.sort(rng.choice(10 * n, n, replace=False)).astype(np.int64)
        parents = np.where(rng.random(n) < 0.1, -1, rng.choice(ids, n))
        parents[rng.random(n) < 0.02] = 10 * n + 5  # not there
        tree = Tree(ids, parents)
        up = {int(one): int(other) for one, other in zip(ids, parents, strict=True) if other in ids}
        for one in ids.tolist():
            line, at = [], one
            while (at := up.get(at, -1)) not in (-1, *line):
                line.append(at)
            assert (one in line) == (np.searchsorted(ids, one) in tree.ring)
        for ring in ids[tree.ring].tolist():
            up.pop(ring)
        wanted = rng.random(n) < 0.2
        nearest = tree.nearest(wanted)
        numbers = rng.integers(0, 5, n)
        sums = dict(zip(ids.tolist(), numbers.tolist(), strict=True))
        for place, one in enumerate(ids.tolist()):
            line, at = [], one
            while (at := up.get(at, -1)) != -1:
                line.append(at)
                sums[at] += int(numbers[place])
            assert ids[tree.above(place)].tolist() == line[::-1]
            first = next((at for at in line if wanted[np.searchsorted(ids, at)]), None)
            assert (ids[nearest[place]] if nearest[place] < n else None) == first
        assert tree.sums(numbers).tolist() == list(sums.values())
        assert tree.orphans == np.count_nonzero(parents == 10 * n + 5)
