"""Class lists of every form, and which names mean the same class."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fastlt.data_prep.inputs.class_lists import read_targets
from fastlt.data_prep.names import normalized, same_name_key


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


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
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
