"""Files of strangers: manifests, label spaces, recipes, lists and runs that are deep, endless or not what they say."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from PIL import Image
from pyarrow import parquet as pq

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from support.crawling import command

DEEP = "[" * 100_000
DEEP_OBJECT = '{"a":' * 100_000
HALF_DEEP = "[" * 900 + "]" * 900  # which Python reads, and cannot print or walk
DIGITS = "9" * 5000
CONTROLS = "a\x1b]0;owned\x07\u202eb"


@pytest.fixture
def refusal(capsys, tmp_path, monkeypatch):
    """What a command says that ends with one sentence."""
    monkeypatch.chdir(tmp_path)

    def refused(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 1
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert said.err.count("\n") <= 3  # a check of a data set lists what it found
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err)
        return said.err

    return refused


def images(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(folder / name / "a.png")
    return folder


@pytest.fixture
def encoded(tmp_path, monkeypatch, capsys) -> Path:
    """A small data set, plain: folders of images and their index."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        images(tmp_path / split, ["crow", "kite"])
    assert main(["encode", "set", "--train", "train", "--val", "val", "--format", "plain", "--workers", "0"]) == 0
    capsys.readouterr()
    return tmp_path / "set"


def change(file: Path, **changed: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


# Encoded data sets


@pytest.mark.parametrize("text", [DEEP, DEEP_OBJECT, HALF_DEEP, DIGITS, "null", "\udcff", "[1"])
@pytest.mark.parametrize("name", ["manifest.json", "label_space.json", "train.json"])
def test_a_file_of_a_data_set_that_is_not_what_it_says(encoded, refusal, name, text):
    content = text.encode(errors="surrogateescape")
    (encoded / name).write_bytes(content)
    if name == "train.json":
        manifest = json.loads((encoded / "manifest.json").read_text())
        manifest["splits"]["train"]["num_bytes"] = len(content)
        (encoded / "manifest.json").write_text(json.dumps(manifest))
    said = refusal("encode", "set", "--check")
    assert name in said
    assert len(said) < 1000


@pytest.mark.parametrize(
    "changed",
    [
        {"counts": [1e400, 1]},
        {"counts": [10**30, 1]},
        {"counts": ["1", 1]},
        {"counts": [True, 1]},
        {"neighbors": [[0, 1e999]]},
        {"neighbors": [[0]]},
        {"target_names": [CONTROLS, "kite"]},
        {"target_names": ["a\nb", "kite"]},
        {"target_names": [["crow"], "kite"]},
        {"target_names": "ck"[:1]},
    ],
)
def test_a_label_space_with_other_things_than_names_and_counts(encoded, refusal, changed):
    change(encoded / "label_space.json", **changed)
    assert "label_space.json is not a label space: " in refusal("encode", "set", "--check")


@pytest.mark.parametrize(
    "changed",
    [
        {"file": "../train.json"},
        {"file": "/etc/passwd"},
        {"file": "train.json\0"},
        {"file": 5},
        {"counts": [10**30, 1]},
        {"counts": [-1, 3]},
        {"counts": None},
        {"num_bytes": 1e999},
    ],
)
def test_a_manifest_whose_splits_lead_elsewhere_or_count_wrong(encoded, refusal, changed):
    manifest = json.loads((encoded / "manifest.json").read_text())
    manifest["splits"]["train"] |= changed
    (encoded / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json is damaged, encode again: " in refusal("encode", "set", "--check")


# Class lists, split files, pairs


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", DEEP, "cannot be read: it has more than 64 lists or objects inside each other"),
        ("a.json", HALF_DEEP, "cannot be read: it has more than 64 lists or objects inside each other"),
        ("a.json", f'{{"owl": {DIGITS}}}', "cannot be read: "),
        ("a.json", f'{{"owl": {10**25}}}', "which is not a number of images"),
        ("a.json", '{"owl": {"count": 5, "title": "\\ud800"}}', "whose name is not UTF-8"),
        ("a.json", '{"owl": {"count": 5, "synonyms": ["a\\u001b[31m"]}}', "has control characters in it"),
        ("a.json", '{"owl\\u0000": 5}', "has control characters in it"),
        ("a.json", '{"owl\\u202egnp.exe": 5}', "has control characters in it"),
        ("a.txt", "o\x1b[31mwl\t5\n", "has control characters in it"),
        ("a.txt", "owl\t\x9b31m5\n", "which is not a number"),
    ],
)
def test_a_class_list_of_a_stranger(refusal, tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    assert sentence in refusal(
        "discover", "c.db", "--classes", name, "--base-url", "http://127.0.0.1:9/v1", "--model", "m"
    )
    assert not (tmp_path / "c.db").exists()


def test_a_class_folder_with_controls_in_its_name(refusal, tmp_path):
    images(tmp_path / "train", ["crow", "k\x1b[31mite"])
    assert "has control characters in it: rename it" in refusal("encode", "set", "--train", "train", "--val", "train")


@pytest.mark.parametrize("text", [DEEP, HALF_DEEP, f'{{"images": [{DIGITS}]}}', '{"images": {"a": 1}}'])
def test_a_split_file_of_a_stranger(refusal, tmp_path, text):
    images(tmp_path / "all", ["crow"])
    (tmp_path / "split.json").write_text(text)
    assert "split.json" in refusal("encode", "set", "--train", "split.json", "--val", "all", "--images", "all")


@pytest.mark.parametrize("text", [DEEP, HALF_DEEP, f'{{"crow": {DIGITS}}}', '{"cr\\u001bow": ["kite"]}', "\x80"])
def test_a_file_of_pairs_of_a_stranger(refusal, tmp_path, text):
    for folder in ("train", "auxiliary"):
        images(tmp_path / folder, [f"{folder}_crow"])
    (tmp_path / "pairs.json").write_bytes(text.encode("latin-1"))
    words = ["--train", "train", "--val", "train", "--auxiliary", "auxiliary", "--neighbors", "pairs.json"]
    said = refusal("encode", "set", *words)
    assert "pairs.json" in said or "the neighbor list" in said


# Recipes


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "../here/b"]])
def test_bases_that_go_in_a_ring(refusal, tmp_path, chain):
    (tmp_path / "here").mkdir()
    for name, base in zip(chain, [*chain[1:], chain[0]], strict=True):
        (tmp_path / "here" / f"{Path(name).name}.yaml").write_text(f"base: {base}.yaml\n")
    assert "is its own base." in refusal("recipe", "here/a.yaml")


def test_bases_of_bases_by_the_thousand(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(2000):
        Path(f"{i}.yaml").write_text(f"base: {i + 1}.yaml\noptimizer: {{epochs: {i + 1}}}\n")
    whole = {"data": {"path": "x", "image_size": 32}, "model": {"name": "resnet18"}, "output": "o"}
    Path("2000.yaml").write_text(yaml.safe_dump(whole | {"optimizer": {"epochs": 9, "batch_size": 8, "blr": 0.1}}))
    assert main(["recipe", "0.yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["optimizer"]["epochs"] == 1


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "a: " + "{a: " * 500 + "1" + "}" * 500,
        "- " * 20_000,
        BOMB,
        "model: {arguments: &a {b: *a}}",
        f"seed: {DIGITS}",
        "x" * 300_000,
        "".join(f"k{i}: 1\n" for i in range(20_000)),
        "base: /dev/zero",
        "base: .",
        'base: "a\\0b"',
        f"base: {'x' * 5000}",
        "base: [a, b]",
        "? [a, b]\n: 1",
    ],
    ids=[
        *("deep", "deep-mapping", "deep-list", "bomb", "inside-itself", "digits", "long", "keys", "device", "folder"),
        *("null", "long-base", "list-base", "list-key"),
    ],
)
def test_a_recipe_of_a_stranger(refusal, tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    said = refusal("recipe", "r.yaml")
    assert "recipe" in said
    assert len(said) < 6000


# Lists of URLs


@pytest.mark.parametrize("text", [DEEP, HALF_DEEP, f'[{{"url": {DIGITS}}}]', '{"a":' * 900 + "1" + "}" * 900])
def test_a_list_of_urls_of_a_stranger(tmp_path, text):
    (tmp_path / "l.json").write_text(text)
    done = subprocess.run(
        command(tmp_path / "c.sqlite", "--urls", tmp_path / "l.json"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "l.json" in done.stderr


def test_lines_of_json_that_cannot_be_read_are_counted(tmp_path):
    good = [json.dumps({"url": f"http://127.0.0.1:9/{i}.jpg", "label": "bird"}) for i in range(3)]
    lines = [*good, DEEP, HALF_DEEP, f'{{"url": {DIGITS}}}', '{"url": "http://127.0.0.1:9/4.jpg", "label": "\\ud800"}']
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    done = subprocess.run(
        command(tmp_path / "c.sqlite", "--urls", tmp_path / "l.jsonl"), capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
    assert "3 lines that hold no JSON object (line 4 of l.jsonl)" in done.stdout
    with Catalog(tmp_path / "c.sqlite") as catalog:
        assert catalog.num_candidates() == 4


def test_a_text_that_parquet_repeats_for_nothing_is_refused(tmp_path):
    """A few hundred bytes that stand for ten gigabytes."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["http://127.0.0.1:9/" + "a" * 2_000_000])
    pq.write_table(pa.table({"url": texts}), tmp_path / "l.parquet", compression="zstd")
    words = command(tmp_path / "c.sqlite", "--urls", tmp_path / "l.parquet")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "has a text of more than 1,048,576 characters: it is no list of URLs." in done.stderr


def test_nothing_that_parquet_repeats_for_nothing_is_refused(tmp_path):
    """A kilobyte of lists with millions of missing values, which take no bytes in Arrow and 750 MB in Python."""
    missing = pa.ListArray.from_arrays([0, 20_000_000], pa.nulls(20_000_000))
    table = pa.table({"url": ["http://127.0.0.1:9/a.jpg"], "label": ["a"], "x": missing})
    pq.write_table(table, tmp_path / "l.parquet", compression="zstd")
    words = command(tmp_path / "c.sqlite", "--urls", tmp_path / "l.parquet")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "has 1 rows of 20,000,003 values together: it is no list of URLs." in done.stderr


def test_json_of_millions_of_empty_lists_is_refused(tmp_path):
    content = b'{"url": "http://127.0.0.1:9/a.jpg", "x": [' + b"[]," * 10_000_000 + b"[]]}"
    (tmp_path / "l.json.gz").write_bytes(gzip.compress(content, 1))
    words = command(tmp_path / "c.sqlite", "--urls", tmp_path / "l.json.gz")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "l.json.gz is too long for one JSON value: write a record a line" in done.stderr


@pytest.mark.medium
def test_a_value_on_one_line_may_be_long(tmp_path):
    rows = [{"url": f"http://127.0.0.1:9/{i}.jpg", "label": "a", "text": "b" * 2000} for i in range(35_000)]
    (tmp_path / "l.json").write_text(json.dumps(rows))
    done = subprocess.run(
        command(tmp_path / "c.sqlite", "--urls", tmp_path / "l.json"), capture_output=True, text=True, timeout=120
    )
    assert "35,000 new URLs" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["l.jsonl.gz", "l.csv.gz", "l.csv.bz2", "l.csv.xz"])
def test_a_list_of_one_line_without_end_is_refused(tmp_path, name):
    """A quarter of a megabyte that unpacks to 250."""
    first = (
        b'{"url": "http://127.0.0.1:9/1.jpg"}\n' * 2 if "json" in name else b"url,label\nhttp://127.0.0.1:9/1.jpg,a\n"
    )
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[Path(name).suffix]
    (tmp_path / name).write_bytes(pack(first + b"a" * (250_000_000 if name.endswith("gz") else 70_000_000)))
    done = subprocess.run(
        command(tmp_path / "c.sqlite", "--urls", tmp_path / name), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert f"{name} has a line of more than 67,108,864 characters: it is no list" in done.stderr


# Runs


def run_folder(tmp_path: Path, **files: str) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    train = {"kind": "train", "step": 1, "epoch": 0.5, "loss": 1.0, "images_per_s": 9.0, "data_wait": 0.1}
    lines = [train, {"kind": "eval", "step": 1, "epoch": 1, "all": 50.0, "ece": None}]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    space = {"target_names": ["=cmd|' /C calc'!A0", "kite"], "auxiliary_names": [], "counts": [1, 1], "neighbors": []}
    (run / "label_space.json").write_text(json.dumps(space))
    for name, content in files.items():
        (run / name.replace("__", ".")).write_text(content)
    return run


def test_a_run_as_it_should_be_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')  # cut off by a kill
    assert main(["report", "run"]) == 0
    assert "50.0" in capsys.readouterr().out


EVALUATED = {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": 50, "per_class": [0, 100]}'}


@pytest.mark.parametrize(
    "files",
    [
        {"log__jsonl": "[]\n"},
        {"log__jsonl": "5\n"},
        {"log__jsonl": '{"kind": "train"}\n'},
        {"log__jsonl": '{"kind": "train", "step": 1, "epoch": "\\u001b[31m", "loss": 1}\n'},
        {"log__jsonl": '{"kind": "train", "step": 1, "epoch": 1, "loss": [], "images_per_s": 1, "data_wait": 0}\n'},
        {"log__jsonl": '{"kind": "eval", "step": 1, "epoch": 1}\n'},
        {"log__jsonl": '{"kind": [], "step": 1e999}\n'},
        {"evaluation_val__json": DEEP},
        {"evaluation_val__json": HALF_DEEP},
        {"evaluation_val__json": "{}"},
        {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": "50"}'},
        {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": 1e999}'},
        {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": 5, "per_class": [1]}'},
        {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": 5, "per_class": [1, 1e999]}'},
        {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": 5, "bins": 5}'},
        {"evaluation_val__json": '{"weights": "last", "epoch": 1, "all": 5, "bins": {"images": [1]}}'},
        *({"mistakes_val__json": text, **EVALUATED} for text in (DEEP, "[]", '{"images": [1e999, 1]}')),
        {"label_space__json": DEEP},
        {"label_space__json": '{"target_names": ["\\u001b"], "auxiliary_names": [], "counts": [1], "neighbors": []}'},
    ],
)
def test_a_run_of_a_stranger_is_one_sentence(refusal, tmp_path, files):
    run_folder(tmp_path, **files)
    name = next(iter(files)).replace("__", ".")
    assert name in refusal("report", "run")


def test_names_of_a_stranger_are_text_on_the_page(tmp_path, capsys, monkeypatch):
    """Of classes, of the data set and of the run; without a recipe there are no pictures."""
    monkeypatch.chdir(tmp_path)
    name = "<img src=x onerror=alert(1)>"
    space = {"target_names": [name, "kite"], "auxiliary_names": ["<b>"], "counts": [1, 1, 1], "neighbors": [[0, 2]]}
    evaluation = {"weights": name, "epoch": 1, "all": 0, "per_class": [0, 0]}
    mistakes = {"data": name, "sha256": "", "images": [1, 1], "mistakes": [[0, 0, 1], [1, 1, 0]], "auxiliaries": None}
    texts = {"label_space": space, "evaluation_val": evaluation, "mistakes_val": mistakes}
    run = run_folder(tmp_path, **{f"{file}__json": json.dumps(content) for file, content in texts.items()})
    run.rename(tmp_path / "<b>run")
    assert main(["report", "<b>run"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<h3>&lt;img src=x onerror=alert(1)&gt;</h3>" in page
    assert "There are no pictures: " in page
    assert "onerror=alert(1)>" not in page
    assert "<b>" not in page


def test_lines_of_a_log_that_are_deep_are_left_out_as_cut_ones_are(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_folder(tmp_path)
    with (run / "log.jsonl").open("a") as log:
        log.write(f"{DEEP}\n{HALF_DEEP}\n")
    assert main(["report", "run"]) == 0
    assert "50.0" in capsys.readouterr().out


# Tables

FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", " =1", "\uff1d1"]


def cells(file: Path) -> list[str]:
    with file.open(newline="") as stream:
        return [cell for row in csv.reader(stream) for cell in row]


@pytest.mark.medium
@pytest.mark.slow
def test_no_name_is_a_formula_in_a_table_of_evaluate(workshop, trained, tmp_path):
    """The names are those of another label space, of as many classes: a set is evaluated under the names of the run."""
    shutil.copytree(workshop.folder / "species", tmp_path / "species")
    names = sorted(path.name for path in (tmp_path / "species" / "train").iterdir())
    for name, formula in zip(names, FORMULAS, strict=False):
        for split in ("train", "val"):
            os.rename(tmp_path / "species" / split / name, tmp_path / "species" / split / formula)
    shutil.copy(workshop.folder / "recipe.yaml", tmp_path)
    shop = type(workshop)(tmp_path)
    for words in (
        ["encode", "encoded", "--train", "species/train", "--val", "species/val", "--format", "plain"],
        ["train", "recipe.yaml", "data.path=encoded", "output=run", "optimizer.epochs=1", "data.loader=plain"],
        ["evaluate", "run"],
    ):
        done = shop.fastlt(*words)
        assert done.returncode == 0, done.stderr
    found = cells(tmp_path / "run" / "per_class_val.csv")
    assert all(f"'{formula}" in found for formula in FORMULAS)
    assert not any(formula in found for formula in FORMULAS)
