"""`fastlt predict` on real files: it says what `evaluate` finds, and names and counts what cannot be read."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from fastlt.dataset.encoded import EncodedDataset
from fastlt.evaluation.finished_run import FinishedRun
from support.command import run_here

pytestmark = pytest.mark.medium


def predict(workshop, *words, given: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """The command; in a process of its own where it is given something on standard input."""
    words = ["predict", *map(str, words)]
    if given is None:
        return run_here(words, workshop.folder)
    command = [sys.executable, "-m", "fastlt", *words]
    done = subprocess.run(command, cwd=workshop.folder, capture_output=True, input=given, timeout=300)
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_it_says_what_evaluate_finds_in_the_order_of_the_images(workshop, trained, monkeypatch):
    """Of a run and of its export, from a list on standard input that is longer than a batch."""
    monkeypatch.chdir(workshop.folder)
    names = EncodedDataset.open(workshop.folder / "plain").image_names("val")
    run = FinishedRun(trained)
    probabilities = run.predict("val")[1][:, :9].double().softmax(1)
    best, classes = probabilities.topk(3)
    shown = [[run.label_space.target_names[c] for c in row] for row in classes.tolist()]
    assert workshop.fastlt("export", "trained", "--out", "to_predict").returncode == 0
    for folder, copies in (("trained", 4), ("to_predict", 1)):
        done = predict(workshop, folder, "-", "--top-k", 3, "--format", "csv", given="\n".join(names * copies).encode())
        assert done.returncode == 0, done.stderr
        assert f"{45 * copies} images" in done.stderr
        rows = table(done.stdout)
        assert [row["file"] for row in rows] == names * copies
        assert [[row["class"], row["class_2"], row["class_3"]] for row in rows] == shown * copies
        found = [[float(row[f"probability{end}"]) for end in ("", "_2", "_3")] for row in rows]
        assert torch.tensor(found).sub(best.repeat(copies, 1)).abs().max() < 1e-5


def test_what_cannot_be_read_is_named_and_counted(workshop, trained):
    folder = workshop.folder / "mixed"
    shutil.copytree(workshop.folder / "species" / "val" / "genus00_species0", folder / "deeper" / "seen")
    whole = sorted((folder / "deeper" / "seen").iterdir())
    (folder / "notes.txt").write_text("no image\n")
    (folder / "=HYPERLINK(1).jpg").write_bytes(whole[0].read_bytes()[:-200])
    (folder / ".DS_Store").write_bytes(b"left by a system")
    (folder / "deeper" / "ring").symlink_to("..")
    os.mkfifo(folder / "pipe.jpg")
    done = predict(workshop, "trained", "mixed", "nowhere.jpg", "--out", "said/all.csv")
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "9 images; 4 could not be read; not calibrated" in done.stderr
    rows = {row["file"]: row for row in table((workshop.folder / "said" / "all.csv").read_text())}
    assert [name for name, row in rows.items() if not row["error"]] == [
        f"mixed/deeper/seen/{file.name}" for file in whole
    ]
    assert "not an image of a format that is read" in rows["mixed/notes.txt"]["error"]
    assert "a pipe, a device" in rows["mixed/pipe.jpg"]["error"]
    assert rows["nowhere.jpg"]["error"] == "No such file or directory"
    assert rows["mixed/=HYPERLINK(1).jpg"]["class"] == ""
    done = predict(workshop, "trained", folder / "notes.txt", "=x", "--format", "csv")
    assert done.returncode == 1, "none could be read"
    assert "'=x" in done.stdout, "no formula"
    done = predict(workshop, "trained", "mixed", "--format", "jsonl")
    assert done.returncode == 3
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in told if "error" in line] == [
        "mixed/=HYPERLINK(1).jpg", "mixed/notes.txt", "mixed/pipe.jpg",
    ]  # fmt: skip


def test_odd_names_come_back_as_they_are_and_links_that_lead_nowhere_stop_nothing(workshop, trained):
    folder = workshop.folder / "odd"
    folder.mkdir()
    one = next((workshop.folder / "species" / "val" / "genus00_species0").iterdir()).read_bytes()
    names = [
        "new\nline.jpg",
        "esc\x1b[31m.jpg",
        "bidi\u202egpj.exe.jpg",
        "line\u2028.jpg",
        "latin\udce9.jpg",
        "größe.jpg",
    ]
    for name in names:
        (folder / name).write_bytes(one)
    (folder / "ring").symlink_to("ring")
    (folder / "nowhere").symlink_to("gone")
    done = predict(workshop, "trained", "odd", "--format", "jsonl")
    assert done.returncode == 3, done.stderr
    said = {
        entry["file"]: entry for entry in map(json.loads, done.stdout.encode(errors="backslashreplace").splitlines())
    }
    assert {f"odd/{name}" for name in names} == {name for name, entry in said.items() if "class" in entry}
    assert said["odd/ring"]["error"] == "Too many levels of symbolic links"
    assert "größe" in done.stdout


def test_under_a_threshold_it_is_unsure(workshop, trained):
    done = predict(workshop, "trained", "species/val/genus00_species0", "--threshold", 1)
    assert done.returncode == 0, done.stderr
    assert "5 images; 5 unsure" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["class", *["unsure"] * 5]
    done = predict(workshop, "trained", "species/val/genus00_species0", "--threshold", 0.01, "--format", "jsonl")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["unsure"] for line in lines] == [False] * 5
    assert all(line["class"] == line["top"][0]["class"] for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["species", "x.jpg"], "species is neither a run nor an export"),
        (["trained"], "name images, folders of them, or - for paths"),
        (["trained", "species/none"], "none: No such file"),
        (["trained", "empty"], "there is no image in empty"),
        (["trained", "x", "--threshold", "50"], "--threshold is 50; give a probability"),
        (["trained", "x", "--top-k", "0"], "--top-k is 0"),
        (["trained", "x", "--out", "/dev/null"], "--out /dev/null is no file"),
        (["trained", "-"], "is no list of paths"),
    ],
)
def test_mistakes(workshop, trained, words, sentence):
    (workshop.folder / "empty").mkdir(exist_ok=True)
    done = predict(workshop, *words, given=b"\x89PNG\r\n\0\0" if "-" in words else None)
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_of_no_image_there_is_no_table(workshop, trained):
    done = predict(workshop, "trained", "-", given=b"")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "there is no image in standard input." in done.stderr


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "hf-hub:somebody/model"}, "name is no model of timm's own"),
        ({"arguments": {"checkpoint_path": "theirs.pth"}}, "arguments shape no network: ['checkpoint_path']"),
        ({"labels": ["a\x1b[2J"]}, "is no name of a class"),
        ({"image_size": 10**9}, "none that a run has"),
        ({"mean": None}, "is not what `fastlt export` writes"),
        ({"arguments": {}}, "does not fit model.json"),
    ],
)
def test_an_export_of_a_stranger_is_one_sentence(workshop, trained, changed, sentence, tmp_path):
    assert workshop.fastlt("export", "trained", "--out", tmp_path / "theirs").returncode == 0
    file = tmp_path / "theirs" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    done = predict(workshop, file.parent, "species/val")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
