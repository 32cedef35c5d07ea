"""Class lists of every form, and which names mean the same class."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fastlt.data_prep.inputs.class_lists import read_targets
from fastlt.data_prep.names import normalized, same_name_key
from support.paths import SHARED


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def told(classes) -> list[tuple]:
    return [(c.name, c.title, c.synonyms, c.count) for c in classes]


def test_class_lists_of_every_form(tmp_path):
    want = [("grey_owl", "grey owl", (), 2), ("tench, Tinca tinca", "tench", ("Tinca tinca",), 1)]
    text = write(tmp_path, "list.txt", "\ufeffgrey_owl\t2\n\ntench, Tinca tinca\t1\r\n")
    counts = write(tmp_path, "counts.json", {"grey_owl": 2, "tench, Tinca tinca": 1, "other": 7})
    bare = write(tmp_path, "bare.txt", "grey_owl\ntench, Tinca tinca\n")
    listed = write(tmp_path, "list.json", ["grey_owl", "tench, Tinca tinca"])
    assert told(read_targets(text)) == want
    assert told(read_targets(bare, counts)) == want
    assert told(read_targets(listed, counts)) == want
    about = {"n1": {"count": 2, "title": "grey owl", "synonyms": ["Strix_nebulosa", "grey owl"]}, "n2": {"count": 1}}
    full = write(tmp_path, "full.json", about)
    assert told(read_targets(full)) == [("n1", "grey owl", ("Strix nebulosa",), 2), ("n2", "n2", (), 1)]
    for name, count in (("grey_owl", 2), ("tench, Tinca tinca", 1)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / f"{i}.jpg")
    assert told(read_targets(tmp_path / "train")) == want
    assert told(read_targets(listed, tmp_path / "train")) == want


def test_inaturalist(tmp_path):
    """In train2018.json the species' names are withheld; categories.json has them under the same ids."""
    train = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 0, "name": "10"}, {"id": 1, "name": "11"}],
        "annotations": [{"id": i, "image_id": i, "category_id": c} for i, c in enumerate([0, 1, 1])],
    }
    species = [{"id": 1, "name": "Strix nebulosa", "common_name": "Great Grey Owl"}, {"id": 0, "name": "Tinca tinca"}]
    train, species = write(tmp_path, "train2018.json", train), write(tmp_path, "categories.json", species)
    with pytest.raises(ValueError, match=r"codes like '10' for names.*categories.json"):
        read_targets(train)
    want = [("Strix nebulosa", "Strix nebulosa", ("Great Grey Owl",), 2), ("Tinca tinca", "Tinca tinca", (), 1)]
    assert told(read_targets(species, train)) == want


TENCH, GOLDFISH = ("n01440764", "tench", ("Tinca tinca",)), ("n01443537", "goldfish", ())


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("words.txt", "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n", [TENCH, GOLDFISH]),
        ("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n", [TENCH, GOLDFISH]),
        ("synsets.csv", 'n01440764,"tench, Tinca tinca"\nn01443537,goldfish\n', [TENCH, GOLDFISH]),
        ("map_clsloc.txt", "n01440764 1 tench\nn01443537 2 goldfish\n", [TENCH[:2], GOLDFISH]),
        ("index.json", {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}, [TENCH[:2], GOLDFISH]),
        ("wnid.csv", 'wnid,words\nn01440764,"tench, Tinca tinca"\nn01443537,goldfish\n', [TENCH, GOLDFISH]),
        (
            "cat_to_name.json",
            {"1": "pink primrose", "10": "globe thistle"},
            [("1", "pink primrose"), ("10", "globe thistle")],
        ),
        (
            "classes.txt",
            "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
            [("001.Black_footed_Albatross", "Black footed Albatross"), ("002.Laysan_Albatross", "Laysan Albatross")],
        ),
        (
            "categories_places365.txt",
            "/a/airfield 0\n/a/apartment_building/outdoor 1\n",
            [("airfield", "airfield"), ("outdoor", "outdoor apartment building")],
        ),
        ("indexed.txt", "airfield 0\nwet bar 1\n", [("airfield", "airfield"), ("wet bar", "wet bar")]),
        ("class_to_idx.json", {"airfield": 0, "wet_bar": 1}, [("airfield", "airfield"), ("wet_bar", "wet bar")]),
        ("utf16.txt", "Grünspecht\nbar\n", [("Grünspecht", "Grünspecht"), ("bar", "bar")]),
        ("nfd.txt", "Gru\u0308nspecht\nbar\n", [("Grünspecht", "Grünspecht"), ("bar", "bar")]),
    ],
)
def test_names_and_synonyms_of_published_lists(tmp_path, name, content, want):
    """Their counts are in another file, under the same names."""
    source = write(tmp_path, name, content)
    if name == "utf16.txt":
        source.write_text(content, encoding="utf-16")
    counts = write(tmp_path, "counts.json", {entry[0]: 5 + i for i, entry in enumerate(want)})
    assert told(read_targets(source, counts)) == [
        (*e, (), 5 + i)[:2] + (e[2:] or ((),)) + (5 + i,) for i, e in enumerate(want)
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "tench,5\ngold fish,7\n"),
        ("a.csv", "class,count\ntench,5\ngold fish,7\n"),
        ("a.csv", '"tench";"5"\r\n"gold fish";"7"\r\n'),
        ("a.tsv", "id\tname\timages\n3\ttench\t5\n4\tgold fish\t7\n"),
        ("a.txt", "train/tench/1.JPEG 0\n" * 5 + "train/gold fish/2.JPEG 1\n" * 7),
        ("a.txt", "path,label\n" + "/train/tench/1.JPEG,1\n" * 5 + "/train/gold fish/2.JPEG,2\n" * 7),
        (
            "a.json",
            {
                "categories": [{"id": 1, "name": "tench"}, {"id": 2, "name": "gold fish"}],
                "annotations": [{"image_id": i % 12, "category_id": 1 if i % 12 < 5 else 2} for i in range(20)],
            },
        ),
    ],
)
def test_counts_of_every_form(tmp_path, name, content):
    """As the list itself, and as --counts of another, whose names are written otherwise."""
    source = write(tmp_path, name, content)
    assert told(read_targets(source)) == [("tench", "tench", (), 5), ("gold fish", "gold fish", (), 7)]
    other = write(tmp_path, "list.txt", "002.Gold_Fish\n001.Tench\n")
    assert [(c.name, c.count) for c in read_targets(other, source)] == [("002.Gold_Fish", 7), ("001.Tench", 5)]


def test_numbers_that_count_the_classes_are_labels(tmp_path, capsys):
    counts = write(tmp_path, "counts.txt", "carp\t4\ntench\t5\ngold fish\t7\n")
    for first in (0, 1):
        source = write(tmp_path, "labels.json", {n: i for i, n in enumerate(("tench", "gold fish", "carp"), first)})
        assert [(c.name, c.count) for c in read_targets(source, counts)] == [
            ("tench", 5),
            ("gold fish", 7),
            ("carp", 4),
        ]
        assert (
            f"{source}: {first} to {first + 2} are taken as labels, not as counts of images" in capsys.readouterr().out
        )
        with pytest.raises(
            ValueError, match=r"class 'tench' has no count in .*labels.json: --counts FILE can give counts"
        ):
            read_targets(source)


def test_codes_are_known_by_a_list_beside_them(tmp_path, capsys):
    """ImageNet's folders, of which a data set has some, and words.txt, which has all."""
    for name, number in (("n01440764", 2), ("n01443537", 1)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / f"{i}.JPEG")
    words = write(tmp_path, "words.txt", "n00001740\tentity\nn01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n")
    want = [(*TENCH, 2), (*GOLDFISH, 1)]
    assert told(read_targets(tmp_path / "train", words)) == want
    assert told(read_targets(words, tmp_path / "train")) == want
    assert f"{words}: 1 left out that {tmp_path / 'train'} does not have" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("200.Common_Yellowthroat", "Common Yellowthroat"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("n02086646-Blenheim_spaniel", "Blenheim spaniel"),
        ("Chihuahua_n02085620", "Chihuahua"),
        ("00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris", "Lumbricus terrestris"),
        ("Plantae_Tracheophyta_Liliopsida_Poales_Poaceae_Poa_annua", "Poa annua"),
        ("8_ball", "8 ball"),
        ("12_gauge_shotgun", "12 gauge shotgun"),
        ("747-400", "747-400"),
        ("3.5_inch_floppy", "3.5 inch floppy"),
        ("n01440764", "n01440764"),
        ("Animalia", "Animalia"),
    ],
)
def test_titles_are_what_people_say(tmp_path, name, title):
    source = write(tmp_path, "list.txt", f"{name}\t5\nowl\t5\n")
    assert told(read_targets(source)) == [(name, title, (), 5), ("owl", "owl", (), 5)]


def test_numbers_that_all_names_have_are_none_of_theirs(tmp_path):
    source = write(tmp_path, "list.txt", "0_owl\t5\n1_ball\t5\n2_eel\t5\n")
    assert [c.title for c in read_targets(source)] == ["owl", "ball", "eel"]


CASES = SHARED / "cases" / "classes"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize(
    ("source", "counts", "want"),
    [
        ("words.txt", "ImageNet_LT_train.txt", [(*TENCH, 2), (*GOLDFISH, 1)]),
        ("words.txt", "train", [(*TENCH, 2), (*GOLDFISH, 2)]),
        ("train", "words.txt", [(*TENCH, 2), (*GOLDFISH, 2)]),
        ("LOC_synset_mapping.txt", "train", [(*TENCH, 2), ("n01443537", "goldfish", ("Carassius auratus",), 2)]),
        ("imagenet_class_index.json", "ImageNet_LT_train.txt", [(*TENCH[:2], (), 2), (*GOLDFISH, 1)]),
        (
            "cub_classes.txt",
            None,
            [
                ("001.Black_footed_Albatross", "Black footed Albatross", (), 30),
                ("002.Laysan_Albatross", "Laysan Albatross", (), 30),
            ],
        ),
        ("inat2021.json", None, [("Lumbricus terrestris", "Lumbricus terrestris", ("Common Earthworm",), 1)]),
        (
            "inat2021_dirname.json",
            "inat2021.json",
            [
                (
                    "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
                    "Lumbricus terrestris",
                    ("Common Earthworm",),
                    1,
                )
            ],
        ),
        ("names.csv", None, [("tench", "tench", (), 5), ("goldfish", "goldfish", (), 7)]),
        ("names_header.csv", None, [("tench", "tench", (), 5)]),
        ("u16.txt", "names_counts.json", [("tench", "tench", (), 5)]),
    ],
)
def test_cases(source, counts, want):
    assert told(read_targets(CASES / source, counts and CASES / counts)) == want


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "what,how many,count\nowl,7,8\n", "has the columns what, how many, count: which has the names"),
        ("a.csv", "name,count\nowl,7\nray,8,9\n", "line 3 of .* has not the columns of the header"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", '["\\ud800"]', "whose name is not UTF-8"),
        ("a.txt", "", "has no class in it"),
        ("a.json", {}, "has no class in it"),
        ("a.json", {"categories": []}, "has no class in it"),
        ("a.txt", "owl\t1\nray\t2\nowl\t3\n", "has class 'owl' twice"),
        ("a.json", ["owl", "owl"], "has class 'owl' twice"),
        ("a.json", '{"owl": 1, "owl": 2}', "cannot be read: it has 'owl' twice"),
        ("a.json", '{"owl": 1', "cannot be read"),
        ("a.json", "7", "neither a JSON list nor an object"),
        ("a.json", [1], "class 0 in .* has no name"),
        ("a.json", {"owl": "many"}, "class 'owl' in .* has count 'many'"),
        ("a.json", {"owl": {"count": 1, "synonyms": "Strix"}}, "synonyms in a list"),
        ("a.txt", "owl\tmany\n", "line 1 of .* has the count 'many'"),
        ("a.txt", "owl\n", "class 'owl' has no count in .*: --counts FILE"),
        ("a.json", {"owl": 0}, "class 'owl' has 0 training images"),
        ("a.txt", "n01440764\t3\n17\t4\n", "codes like 'n01440764' for names"),
    ],
)
def test_class_lists_that_are_none(tmp_path, name, content, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_targets(write(tmp_path, name, content))


@pytest.mark.parametrize(
    "same",
    [
        ("great white shark", "Great_White-Sharks", "the great  white shark"),
        ("Saint-Bernard's dog", "saint bernards dog", "Saint Bernard\u2019s dogs"),
        ("crème brûlée", "Creme Brulee"),
        ("cherry", "cherries"),
        ("cookie", "cookies"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("Acer \u00d7 freemanii", "Acer x freemanii", "Acer freemanii"),
        ("wine glass", "wineglasses"),
        ("axe", "axes"),
    ],
)
def test_names_that_are_the_same(same):
    assert len({same_name_key(name) for name in same}) == 1


@pytest.mark.parametrize(
    "others",
    [
        ("can", "cane"),
        ("bass", "bas relief"),
        ("pin", "pine"),
        ("vitamin a", "vitamin"),
        ("virus", "viru"),
        ("か", "が"),
    ],
)
def test_names_that_are_not(others):
    assert len({same_name_key(name) for name in others}) == 2


def test_normalized_names_stay_as_they_are():
    for name in ("great_white_shark", "creme_brulee", "हिन्दी", "が", "魚", "747_400"):
        assert normalized(name) == name
