"""The front doors: help in the order of use, mistakes told in one sentence before anything heavy is imported."""

import errno
import os
import subprocess
import sys

import pytest

from fastlt import cli
from fastlt.cli import COMMANDS, main
from fastlt.recipe import Recipe
from fastlt.yaml_keys import keys_of
from support.paths import BIN

ALL = [name for group in COMMANDS.values() for name in group]


def said(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(words))
    return code, *capsys.readouterr()


def test_help_tells_the_whole_path_in_order(capsys):
    code, out, _ = said(capsys, "--help")
    assert code == 0
    shown = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    path = [
        "discover",
        "crawl",
        "merge",
        "push",
        "pull",
        "filter",
        "status",
        "review",
        "remove",
        "encode",
        "class-embeddings",
        "recipe",
        "train",
        "evaluate",
    ]
    path += ["predict", "export", "publish", "report", "study", "granularity", "doctor", "demo", "draw"]
    assert shown == path
    assert said(capsys)[1] == out


@pytest.mark.parametrize("name", ALL)
def test_every_command_explains_itself(name, capsys):
    code, out, _ = said(capsys, name, "--help")
    assert code == 0
    assert f"usage: fastlt {name}" in out
    assert "None" not in out


def test_an_error_of_the_system_is_told_without_its_number():
    said = cli.sentence(FileNotFoundError(2, "No such file or directory", "titles.json"))
    assert said == "No such file or directory: 'titles.json'"
    said = cli.sentence(OSError(errno.ENOSPC, "No space left on device", "run"))
    assert said == "No space left on device: 'run': make room, and run the same command again"


def test_recipe_explains_every_key(capsys):
    _, out, _ = said(capsys, "recipe")
    for key, field in keys_of(Recipe):
        assert f"\n{key} (" in f"\n{out}"
        assert field.description
    assert "optimizer.ema_decay (default 0.0)" in out
    _, one, _ = said(capsys, "recipe", "optimizer.blr")
    assert one == "optimizer.blr (required)\n    Base learning rate: lr = blr * batch_size / 256.\n"
    _, section, _ = said(capsys, "recipe", "log")
    keys = [line.split()[0] for line in section.splitlines() if not line.startswith(" ")]
    assert keys == ["log.steps", "log.eval_epochs", "log.trackers"]
    assert "demo/species" in out
    _, out, _ = said(capsys, "recipe", "tiny_imagenet_lt/resnet_smoke")
    assert "epochs: 2" in out
    assert "label_smoothing: 0.05" in out, "of what it is based on"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["train", "demo/specis"], "neither a file nor one of ours; did you mean demo/species?"),
        (
            ["train", "demo/species", "optimizer.epoch=3"],
            "unknown key 'optimizer.epoch'; did you mean optimizer.epochs?",
        ),
        (["train", "demo/species", "optimizer.lr=1"], "did you mean optimizer.blr (lr = blr * batch_size / 256)?"),
        (["train", "demo/species", "--epochs=3"], "--epochs=3: keys of the recipe are written without dashes"),
        (
            ["train", "demo/species", "--optimizer.lr", "1"],
            "--optimizer.lr: keys of the recipe are written without dash",
        ),
        (["train", "demo/species", "--ranks", "-1"], "--ranks is -1; give a number of processes"),
        (
            ["recipe", "no-such"],
            "there is no recipe 'no-such': it is neither a file nor one of ours; ours are demo/species",
        ),
        (["crawl", "c", "--contact", "a", "--workers", "-1"], "--workers is -1"),
        (["crawl", "c", "--contact", "a", "--source-url", "gbif"], "--source-url gbif: give NAME=URL"),
        (["train", "demo/species", "epochs=3"], "did you mean optimizer.epochs or checkpoint.epochs?"),
        (["train", "demo/species", "optimizer.average=0.9"], "'optimizer.average' is now called optimizer.ema_decay"),
        (["train", "demo/species", "augment.test_crop=1"], "'augment.test_crop' is now called augment.crop_pct"),
        (["train", "demo/species"], "data/species_encoded is not an encoded data set: use `fastlt encode`."),
        (
            ["encode", "out", "--train", "nowhere", "--val", "nowhere"],
            "folder of training images, nowhere, does not",
        ),
        (["encode", "out"], "--train is missing"),
        (["encode", "out", "--train", "x"], "without --val and --test nothing can be evaluated"),
        (["encode", "out", "--auxiliary", "x"], "--auxiliary and --neighbors go together"),
        (["encode", "out", "--format", "plain", "--max-resolution", "9"], "leave out --max-resolution"),
        (["filter", "c", "--model", "x"], "--model needs --weights FILE or --pretrained"),
        (["filter", "c"], "say what sees the images: --run RUN or --model NAME"),
        (["crawl", "c", "--contact", "me", "--rate", "-1"], "--rate is -1.0: nothing could be fetched"),
        (
            ["crawl", "c", "--contact", "me", "--source", "flickr"],
            "no image source 'flickr', only inaturalist",
        ),
        (["crawl", "c", "--contact", "", "--source", "gbif"], "say how sites can reach you: --contact"),
        (["status", "nowhere"], "there is no catalog at nowhere"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["report", "nowhere"], "nowhere is not a run"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *words)
    assert code in (1, 2)
    assert err.startswith("fastlt: error: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["crawl", "c", "--surce", "gbif"], "Perhaps you meant:"),
        (["train", "demo/species", "--resum"], "--resume"),
        (["export"], "RUN"),
        (["demo", "--ranks", "two"], "--ranks"),
    ],
)
def test_options_that_are_none(words, sentence, capsys):
    code, _, err = said(capsys, *words)
    assert code == 2
    assert sentence in err


def test_a_run_is_checked_without_torch(workshop):
    """Recipe, data set and model: 'within a second or two' means that nothing heavy is imported."""
    program = """
import sys
from fastlt.cli import main
for words in (["data.path=nowhere"], ["model.name=resnet81"], ["optimizer.batch_size=4096"], ["optimizer.epocs=1"]):
    assert main(["train", "recipe.yaml", "data.path=encoded", "output=checked", *words]) == 1
assert main(["train", "recipe.yaml", "data.path=encoded", "output=checked", "--resume"]) == 1
assert main(["train", "recipe.yaml", "data.path=encoded", "output=checked", "--ranks", "3"]) == 1
assert main(["train", "recipe.yaml", "data.path=encoded", "output=encoded/manifest.json/x"]) == 1
assert not {"torch", "timm", "deepspeed", "numba"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=workshop.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for sentence in (
        "nowhere is not an encoded data set",
        "model.name=resnet81: timm has no such model; did you mean resnet",
        "fewer than one batch of 4096: lower optimizer.batch_size",
        "did you mean optimizer.epochs?",
        "checked holds no run to resume",
        "optimizer.batch_size=16 is not divisible by 3 ranks x 1 accumulation steps",
        "output=encoded/manifest.json/x cannot be made: ",
    ):
        assert sentence in done.stderr
    assert not (workshop.folder / "checked").exists()


def test_the_script_of_the_ranks_says_where_help_is(capsys):
    from fastlt import train

    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "`fastlt recipe` explains every key" in " ".join(capsys.readouterr().out.split())


def test_a_full_disk_says_what_to_do():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as raised:
        full.write(b"a")
    said = cli.sentence(raised.value)
    assert said.endswith("No space left on device: make room, and run the same command again")


@pytest.mark.parametrize("words", [["recipe"], ["recipe", "demo/species"]])  # many writes, and one
def test_output_that_nobody_reads_ends_a_command_without_a_word(words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([BIN / "fastlt", *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
