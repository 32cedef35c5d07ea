"""Official split files, from archives of their form to a data set; and what is said of bad ones."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlt.data_prep.encode.encode import encode
from fastlt.data_prep.encode.inputs import EncodeInputs, read_inputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.inputs.split_files import read_split_file
from fastlt.dataset.encoded import EncodedDataset
from fastlt.dataset.images import read_image

SPECIES = [("Aves", "Pica pica"), ("Aves", "Corvus corax"), ("Insecta", "Pica pica"), ("Plantae", "Acer rubrum")]
COLORS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (200, 200, 0)]


@pytest.fixture
def inat(tmp_path):
    """What iNaturalist 2018's three archives unpack to: four species of 4, 3, 2, 1 images, and one of each held out."""
    packed, unpacked = tmp_path / "packed", tmp_path / "inat"
    categories = [{"id": i, "name": name, "supercategory": above} for i, (above, name) in enumerate(SPECIES)]
    splits = {split: {"images": [], "annotations": [], "categories": categories} for split in ("train", "val")}
    for i, ((above, _), color) in enumerate(zip(SPECIES, COLORS, strict=True)):
        for k in range(5 - i):
            name = f"train_val2018/{above}/{i}/{i}{k}.jpg"
            (packed / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), color).save(packed / name)
            split = splits["val" if k == 0 else "train"]
            split["images"].append({"id": 100 * i + k, "file_name": name, "width": 40, "height": 30})
            split["annotations"].append({"id": k, "image_id": 100 * i + k, "category_id": i})
    unpacked.mkdir()
    for split, content in splits.items():
        content["images"].reverse()  # the order of the file means nothing
        (packed / f"{split}2018.json").write_text(json.dumps(content))
    for name, inside in (
        ("train_val2018.tar.gz", "train_val2018"),
        ("train2018.json.tar.gz", "train2018.json"),
        ("val2018.json.tar.gz", "val2018.json"),
    ):
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            tar.add(packed / inside, inside)
        subprocess.run(["tar", "-xzf", tmp_path / name, "-C", unpacked], check=True)
    return unpacked


def json_sources(root: Path) -> EncodeInputs:
    return EncodeInputs(root / "train2018.json", test=root / "val2018.json", images=root)


@pytest.mark.parametrize("form", ["ffcv", "webdataset", "plain"])
def test_inaturalist(inat, tmp_path, form):
    space = encode(tmp_path / "out", json_sources(inat), EncodeOptions(format=form, workers=1))
    assert space.target_names == ("Pica pica 0", "Corvus corax", "Pica pica 2", "Acer rubrum")
    assert space.counts == (4, 3, 2, 1)
    data = EncodedDataset.open(tmp_path / "out")
    assert {name: split.counts for name, split in data.splits.items()} == {"train": [4, 3, 2, 1], "test": [1] * 4}
    if form != "ffcv":
        for split in ("train", "test"):
            for image, label in zip(data.image_names(split), data.split(split).labels(), strict=True):
                assert np.abs(np.asarray(read_image(image), int) - COLORS[label]).max() < 9


@pytest.fixture
def lists(tmp_path):
    """ImageNet-LT's lists: folders in the paths of training images, none in those of the others."""
    root = tmp_path / "images"
    rows = {"train": [], "val": []}
    for label, folder in enumerate(("n01440764", "n01443537", "n01484850")):
        for i in range(3 - label):
            rows["train"].append((f"train/{folder}/{i} of.JPEG", label))
        rows["val"].append((f"val/ILSVRC2012_val_{label}.JPEG", label))
    for split, listed in rows.items():
        listed.reverse()
        for path, _ in listed:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(root / path)
        (tmp_path / f"{split}.txt").write_text("".join(f"{path} {label}\n" for path, label in listed))
    return EncodeInputs(tmp_path / "train.txt", tmp_path / "val.txt", images=root)


def test_imagenet_lt(lists):
    inputs = read_inputs(lists)
    assert inputs.label_space().target_names == ("n01440764", "n01443537", "n01484850")
    assert inputs.label_space().counts == (3, 2, 1)
    assert [path.name for path in inputs.splits["train"]["n01443537"]] == ["1 of.JPEG", "0 of.JPEG"]
    assert [len(images) for images in inputs.splits["val"].values()] == [1, 1, 1]


def test_classes_without_a_folder_of_their_own_are_called_by_their_labels(lists):
    text = lists.train.read_text().replace("train/n01484850/0 of.JPEG 2", "train/n01443537/2.JPEG 2")
    (lists.images / "train" / "n01443537" / "2.JPEG").touch()
    lists.train.write_text(text)
    inputs = read_inputs(lists)
    assert inputs.label_space().target_names == ("0", "1", "2")
    assert list(inputs.splits["val"]) == ["0", "1", "2"]


def test_auxiliary_images_have_lists_too(lists, tmp_path):
    for name in ("x", "y"):
        (lists.images / "web" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(lists.images / "web" / name / "0.jpg")
    (tmp_path / "web.txt").write_text("web/x/0.jpg 0\nweb/y/0.jpg 1\n")
    (tmp_path / "neighbors.json").write_text(json.dumps({"n01440764": ["y"]}))
    more = {"auxiliary": tmp_path / "web.txt", "neighbors": tmp_path / "neighbors.json"}
    space = read_inputs(EncodeInputs(lists.train, lists.val, images=lists.images, **more)).label_space()
    assert space.auxiliary_names == ("x", "y")
    assert space.neighbors == ((0, 4),)
    (tmp_path / "neighbors.json").write_text(json.dumps({"n01440764": {"y": 0.5, "x": 0}, "n01443537": ["x"]}))
    space = read_inputs(EncodeInputs(lists.train, lists.val, images=lists.images, **more)).label_space()
    assert (space.neighbors, space.strengths) == (((0, 4), (1, 3)), (0.5, 1.0))
    for wrong in ("1.5", "true", "null", '"1"'):
        (tmp_path / "neighbors.json").write_text(f'{{"n01440764": {{"y": {wrong}}}}}')
        with pytest.raises(ValueError, match=r"'y' in the neighbor list of 'n01440764' is no number in 0\.\.1"):
            read_inputs(EncodeInputs(lists.train, lists.val, images=lists.images, **more))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("n01440764/1 of.JPEG 0", "n01440764/1 of.JPEG 7", "labels up to 7, but none is 3: "),
        (
            "n01440764/1 of.JPEG 0",
            "n01440764/1 of.JPEG zero",
            r"train\.txt:5: .* is not a path followed by a space and a whole",
        ),
        ("n01440764/1 of.JPEG 0", "n01440764/1 of.JPEG -1", r"train\.txt:5: .* is not a path"),
        ("train/n01440764/1 of.JPEG 0", "0", r"train\.txt:5: '0' is not a path"),
        ("train/n01440764/1 of.JPEG", "train/../train/1 of.JPEG", r"train\.txt:5: .* does not stay in the folder"),
        ("train/n01440764/1 of.JPEG", "/train/1 of.JPEG", r"1 of the 6 images of .* the first train/1 of\.JPEG"),
        ("n01440764/1 of.JPEG", "n01440764/2 of.JPEG", r"train\.txt:5: .* listed twice, first at 4: remove one"),
        ("n01440764/1 of.JPEG", ".//n01440764/2 of.JPEG", r"train\.txt:5: .* listed twice"),
        ("n01440764/1 of.JPEG", "n01440764/9.JPEG", r"1 of the 6 images of .* the first train/n01440764/9\.JPEG"),
        (None, "\n", "lists no image"),
    ],
)
def test_bad_lists(lists, old, new, sentence):
    text = lists.train.read_text()
    assert old is None or old in text
    lists.train.write_text(new if old is None else text.replace(old, new))
    with pytest.raises(ValueError, match=sentence):
        read_inputs(lists)


@pytest.mark.parametrize(
    "written",
    {
        "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": lambda text: text.encode("utf-16"),
        "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
        "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
        "leading slashes": lambda text: re.sub("^(?=.)", "/", text, flags=re.MULTILINE).encode(),
        "backslashes": lambda text: text.replace("/", "\\").encode(),
        "tabs": lambda text: re.sub(r" (\d+)\n", r"\t\1\n", text).encode(),
        "commas": lambda text: re.sub(r" (\d+)\n", r", \1\n", text).encode(),
        "several spaces": lambda text: re.sub(r" (\d+)\n", r"   \1  \n", text).encode(),
        "quotes": lambda text: re.sub(r"(.*) (\d+)\n", r'"\1" \2\n', text).encode(),
        "a header": lambda text: b"path label\n" + text.encode(),
        "what pandas writes": lambda text: (
            ",image,split,label\r\n" + re.sub(r"(.*) (\d+)\n", r'7,"\1",train,\2.0\r\n', text)
        ).encode(),
        "labels from 1": lambda text: re.sub(r" (\d+)\n", lambda m: f" {int(m[1]) + 1}\n", text).encode(),
    }.items(),
    ids=lambda item: item[0],
)
def test_lists_however_they_are_written(lists, written):
    """The same classes and images, in every file of the data set."""
    before = read_inputs(lists)
    for file in (lists.train, lists.val):
        file.write_bytes(written[1](file.read_text()))
    after = read_inputs(lists)
    assert after.label_space() == before.label_space()
    assert after.splits == before.splits


def test_whole_paths(lists):
    before = read_inputs(lists)
    lists.train.write_text(re.sub("^(?=.)", f"{lists.images}/", lists.train.read_text(), flags=re.MULTILINE))
    assert read_inputs(lists).splits == before.splits


def test_labels_from_1_are_told_and_those_that_contradict_are_asked_about(lists, capsys):
    from_1 = {
        file: re.sub(r" (\d+)\n", lambda m: f" {int(m[1]) + 1}\n", file.read_text())
        for file in (lists.train, lists.val)
    }
    from_0 = lists.val.read_text()
    lists.val.write_text(from_1[lists.val])
    with pytest.raises(ValueError, match=r"there is no class 3, only 0 to 2; are they counted from 1 here\?"):
        read_inputs(lists)
    lists.train.write_text(from_1[lists.train])
    lists.val.write_text(from_0)
    with pytest.raises(ValueError, match=r"there is no class 0, only 1 to 3; are they counted from 0 here\?"):
        read_inputs(lists)
    capsys.readouterr()
    lists.val.write_text(from_1[lists.val])
    read_inputs(lists)
    said = capsys.readouterr().out
    assert f"{lists.train}: its labels are taken as counted from 1" in said
    assert f"{lists.train}: 6 training images of 3 classes taken" in said


def test_a_column_of_splits_says_which_rows_are_meant(lists, capsys):
    """One table for all splits, as WaterBirds and many of Kaggle's have it: validation images are not trained on."""
    rows = [(file, re.sub(r"(.*) (\d+)\n", r"\1,\2\n", file.read_text())) for file in (lists.train, lists.val)]
    text = "".join(
        f"{line},{name}\n"
        for (_, part), name in zip(rows, ("Train", "valid"), strict=True)
        for line in part.splitlines()
    )
    before = read_inputs(lists).splits
    for file in (lists.train, lists.val):
        file.write_text("path,label,split\n" + text)
    capsys.readouterr()
    assert read_inputs(lists).splits == before
    said = capsys.readouterr().out
    assert said.count("(6 Train, 3 valid)") == 2
    assert f"{lists.val}: of its split (6 Train, 3 valid) the 3 of val are taken" in said
    for file in (lists.train, lists.val):
        file.write_text("path,label,split\n" + text.replace("Train", "0").replace("valid", "1"))
    with pytest.raises(ValueError, match=r"of its column split \(6 0, 3 1\) none is train: give those rows in a file"):
        read_inputs(lists)


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [("is_valid", "False", "True"), ("is_train", "1", "0"), ("data set", "train", "valid"), ("fold", "training", "dev"),
     ("Usage", "Training", "PublicTest")],
)  # fmt: skip
def test_splits_are_known_by_what_a_column_holds(lists, name, train, val):
    text = f"path,label,{name}\n"
    before = read_inputs(lists).splits
    for file, value in ((lists.train, train), (lists.val, val)):
        text += re.sub(r"(.*) (\d+)\n", rf"\1,\2,{value}\n", file.read_text())
    for file in (lists.train, lists.val):
        file.write_text(text)
    assert read_inputs(lists).splits == before


@pytest.mark.parametrize("names", [("train", "bus", "car"), ("dev", "ops", "test"), ("1", "0", "2")])
def test_classes_that_are_called_like_splits_are_none(lists, names):
    before = read_inputs(lists).splits
    for file in (lists.train, lists.val):
        rows = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("path,label,class_name\n" + "".join(f"{p},{n},{names[int(n)]}\n" for p, n in rows))
    assert read_inputs(lists).splits == before


def test_images_that_are_trained_on_and_judged_by_are_told(lists, capsys):
    read_inputs(lists)
    assert "training images too" not in capsys.readouterr().out
    lists.val.write_text(lists.val.read_text() + lists.train.read_text().splitlines()[0] + "\n")
    read_inputs(lists)
    assert "warning: 1 of the 4 validation images are training images too, such as " in capsys.readouterr().out


def test_headers_that_do_not_say_what_is_meant(lists):
    text = re.sub(r"(.*) (\d+)\n", r"a,\1,\2\n", lists.train.read_text())
    lists.train.write_text("who,where,what\n" + text)
    with pytest.raises(ValueError, match=r"train\.txt begins with who, where, what: if these are columns, call"):
        read_inputs(lists)
    lists.train.write_text("who,path,label\n" + text + "b,c\n")
    with pytest.raises(ValueError, match=r"train\.txt:8: 'b,c' has not the columns of the header"):
        read_inputs(lists)


def test_classes_in_nested_folders_are_called_by_all_that_tells_them_apart(tmp_path):
    """Places365: /a/apartment_building/outdoor, /b/bazaar/outdoor."""
    rows = ["/a/apartment/outdoor/1.jpg 0", "/b/bazaar/outdoor/1.jpg 1", "/b/beach/1.jpg 2"]
    for row in rows:
        file = tmp_path / row.split()[0][1:]
        file.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(file)
    (tmp_path / "list.txt").write_text("\n".join(rows))
    assert list(read_split_file(tmp_path / "list.txt", tmp_path)) == ["apartment/outdoor", "bazaar/outdoor", "b/beach"]


def test_several_boxes_of_one_class_are_one_image(inat):
    file = inat / "train2018.json"
    before = read_split_file(file, inat)
    data = json.loads(file.read_text())
    data["annotations"] += [a | {"id": 100 + i, "bbox": [0, 0, 9, 9]} for i, a in enumerate(data["annotations"][:3])]
    file.write_text(json.dumps(data))
    assert read_split_file(file, inat) == before


def test_lists_that_do_not_fit_together(lists, tmp_path):
    whole = lists.val.read_text()
    lists.val.write_text(whole.replace("_2.JPEG 2", "_2.JPEG 3"))
    with pytest.raises(ValueError, match=r"val\.txt:1: there is no class 3, only 0 to 2"):
        read_inputs(lists)
    lists.val.write_text(whole.replace("_2.JPEG 2", "_2.JPEG 1"))
    assert [len(images) for images in read_inputs(lists).splits["val"].values()] == [1, 2, 0]
    lists.val.write_text(whole)
    with pytest.raises(ValueError, match="say with --images which folder"):
        read_inputs(EncodeInputs(lists.train, lists.val))
    with pytest.raises(ValueError, match=r"the folder of images, .*nowhere, does not exist"):
        read_inputs(EncodeInputs(lists.train, lists.val, images=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"the labels of .*val\.txt are numbers"):
        read_inputs(EncodeInputs(lists.images / "train", lists.val, images=lists.images))
    lists.train.write_bytes(b"\xff\xfea")
    with pytest.raises(ValueError, match=r"train\.txt cannot be read"):
        read_inputs(lists)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data.pop("images"), "has no list 'images'"),
        (lambda data: data["images"][3].pop("file_name"), r"images\[3\] has no 'file_name' that is str"),
        (lambda data: data["categories"].append("Aves"), r"categories\[4\] has no 'id'"),
        (
            lambda data: data["annotations"].append(data["annotations"][0] | {"category_id": 3}),
            r"1 of the 10 images have .* several categories, the first is images\[9\], .*/01\.jpg, with 0 and 3",
        ),
        (lambda data: data["annotations"].pop(), r"images\[0\], train_val2018/Plantae/3/31\.jpg, has no annotation"),
        (lambda data: data["annotations"][2].update(image_id=77), r"annotations\[2\] is of image 77, which is not"),
        (lambda data: data["annotations"][2].update(category_id=9), r"annotations\[2\] is of category 9, which is not"),
        (lambda data: data["images"][1].update(id=1), r"images\[1\] has the id 1, which another has too"),
        (lambda data: data["images"][1].update(file_name="../a.jpg"), r"images\[1\]: '\.\./a\.jpg' does not stay"),
        (lambda data: [data[kind].clear() for kind in ("images", "annotations")], "lists no image"),
    ],
)
def test_bad_json(inat, damage, sentence):
    file = inat / "train2018.json"
    data = json.loads(file.read_text())
    damage(data)
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=sentence) as caught:
        read_split_file(file, inat)
    assert str(file) in str(caught.value)


def test_json_that_is_cut_off_or_of_other_classes(inat):
    file = inat / "val2018.json"
    file.write_text(file.read_text().replace("Acer rubrum", "Acer"))
    with pytest.raises(ValueError, match="have class 'Acer', which the training images do not have"):
        read_inputs(json_sources(inat))
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"val2018\.json:1: this is not valid JSON: .*; is the file complete\?"):
        read_inputs(json_sources(inat))
    shutil.rmtree(inat / "train_val2018" / "Aves")
    with pytest.raises(ValueError, match=r"7 of the 10 images of .*train2018\.json are not below"):
        read_inputs(json_sources(inat))
