"""`fastlt publish` as a user types it, to a hub on loopback: what arrives there, and what is refused."""

import html
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastlt.dataset.attribution import read_credits
from support.catalogs import make_catalog
from support.command import run_here
from support.crawling import jpeg
from support.hub import Hub

pytestmark = pytest.mark.medium

TOKEN = "hf_secretOfSomebody123"
LICENSES = ["cc-by-4.0", "cc-by-nd-4.0", "All rights reserved", "cc0-1.0"]


@pytest.fixture
def hub():
    with Hub(TOKEN) as hub:
        yield hub


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """`good`: a set that may be passed on, `bad`: one that may not, `own`: one without a catalog; `model`."""
    from fastlt.classifier import Classifier
    from fastlt.data_prep.catalog import Catalog
    from fastlt.label_space import LabelSpace
    from fastlt.recipe import Recipe
    from fastlt.run_folder import RunFolder

    folder = tmp_path_factory.mktemp("made")
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "0.jpg").write_bytes(jpeg(100 + number + 10 * len(split)))
    make_catalog(folder / "c.sqlite", [("lynx", jpeg(n)) for n in range(len(LICENSES))], {"cat": ["lynx"]})
    with Catalog(folder / "c.sqlite") as catalog, catalog.transaction():
        for n, license in enumerate(LICENSES, 1):
            catalog.connection.execute("UPDATE candidate SET license = ? WHERE id = ?", [license, n])
        catalog.judge_images([("kept", "", None, None, n) for n in range(1, len(LICENSES) + 1)])
        told = {"encoder": "resnet18 of /home/me/run, epoch 3, at 32 px", "gamma2": 0.9812402725219727}
        catalog.remember("filter", json.dumps(told | {"preset": None, "workers": 4, "batch_size": 128}))
    words = ["--train", "train", "--val", "val", "--workers", "1", "--format", "webdataset"]
    for out, more in (
        ("good", ["--catalog", "c.sqlite", "--licenses", "redistributable", "--own-license", "cc-by-4.0"]),
        ("bad", ["--catalog", "c.sqlite", "--own-license", "cc-by-4.0"]),
        ("own", []),
    ):
        done = run_here(["encode", out, *words, *more], folder)
        assert done.returncode == 0, done.stderr
    space = LabelSpace.build({"cat": 30, "dog": 3}, {"lynx": 4}, {"cat": ["lynx"]})
    model = {"name": "test_vit"}
    data = {"path": "nowhere", "image_size": 32}
    optimizer = {"epochs": 1, "batch_size": 1, "blr": 1}
    recipe = Recipe.model_validate({"output": "run", "data": data, "model": model, "optimizer": optimizer})
    run = RunFolder(folder / "run")
    run.path.mkdir()
    recipe.save(run.recipe)
    space.save(run.label_space)
    run.save_weights(Classifier(recipe, space).state_dict(), "last", {"label_space": space.digest(), "epoch": 1})
    done = run_here(["export", "run", "--out", "model"], folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def type_it(folder: Path, *words: str, token: str = TOKEN, typed: bytes | None = None) -> tuple[int, str]:
    """The command in a process of its own, whose terminal answers `typed`; its status, and all that it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_TOKEN": token, "HF_HOME": str(folder.parent / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "fastlt", "publish", *words]
    ours, theirs = pty.openpty()
    if typed is not None:
        os.write(ours, typed)
    stdin = subprocess.DEVNULL if typed is None else theirs
    done = subprocess.run(command, cwd=folder, env=environment, stdin=stdin, capture_output=True, text=True)
    for end in (ours, theirs):
        os.close(end)
    said = done.stdout + done.stderr
    assert TOKEN not in said
    return done.returncode, said


def test_a_data_set_arrives_whole(folder, hub):
    status, said = type_it(folder, "good", "--to", "me/birds", "--endpoint", hub.url, "--private", "--yes")
    assert status == 0, said
    assert f"published: {hub.url}/datasets/me/birds/commit/bbbb" in said
    assert "a data set of 6 images, 4 of them your own" in said
    repository = hub.repositories["datasets", "me/birds"]
    assert repository["private"] is True
    assert repository["commits"] == ["good, by fastlt publish"]
    names = {"README.md", "ATTRIBUTION.csv", "label_space.json", "manifest.json"}
    names |= {"train.tar", "train.idx", "val.tar", "val.idx"}
    assert set(repository["files"]) == names
    for name in names - {"manifest.json"}:
        assert repository["files"][name] == (folder / "good" / name).read_bytes()
    manifest = json.loads(repository["files"]["manifest.json"])
    assert manifest["settings"]["catalog"]["filter"]["encoder"] == "resnet18 of a run, epoch 3, at 32 px"
    pushed = html.unescape(b"".join(repository["files"].values()).decode("latin-1"))
    assert "/home/me" not in pushed
    assert "encoder resnet18 of a run, epoch 3, at 32 px, gamma2 0.9812.\n" in pushed
    copy = folder / "downloaded"
    copy.mkdir()
    for name, content in repository["files"].items():
        (copy / name).write_bytes(content)
    assert run_here(["encode", "downloaded", "--check", "--workers", "1"], folder).returncode == 0
    status, said = type_it(folder, "good", "--to", "me/birds", "--endpoint", hub.url, "--yes")  # again: no new one
    assert status == 0, said
    assert len(repository["commits"]) == 2


def test_a_model_arrives_and_timm_loads_it_from_there(folder, hub):
    status, said = type_it(folder, "model", "--to", "me/cats", "--endpoint", hub.url, "--yes")
    assert status == 0, said
    files = hub.repositories["models", "me/cats"]["files"]
    assert set(files) == {"README.md", "config.json", "load.py", "model.json", "model.safetensors"}
    script = (
        "import sys, timm, torch\n"
        "model = timm.create_model('hf-hub:me/cats', pretrained=True).eval()\n"
        "local = timm.create_model('local-dir:model', pretrained=True).eval()\n"
        "images = torch.randn(4, 3, 32, 32)\n"
        "assert model(images).equal(local(images))\n"
        "print(model.pretrained_cfg['label_names'])"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['cat', 'dog']\n"


def test_nothing_is_pushed_without_a_yes(folder, hub):
    words = ["model", "--to", "me/cats", "--endpoint", hub.url]
    status, said = type_it(folder, *words)
    assert status == 1
    assert "nothing was pushed: nobody is there to be asked; --yes says that you mean it" in said
    status, said = type_it(folder, *words, typed=b"\n")
    assert status == 1
    assert "for everybody to see" in said
    assert "push " in said
    assert "nothing was pushed, as you did not say yes" in said
    assert hub.asked == []
    status, said = type_it(folder, *words, typed=b"y\n")
    assert status == 0, said
    assert hub.repositories["models", "me/cats"]["private"] is False


@pytest.mark.parametrize("to", ["cats", "/cats", "me/cats/2", "me/"])
def test_a_repository_has_an_owner(folder, hub, to):
    status, said = type_it(folder, "model", "--to", to, "--endpoint", hub.url, "--yes")
    assert status == 1
    assert f"--to {to} is no repository: give OWNER/NAME" in said
    assert hub.asked == []


def test_licenses_that_forbid_it_are_named(folder, hub):
    status, said = type_it(folder, "bad", "--to", "me/birds", "--endpoint", hub.url, "--yes")
    assert status == 1
    assert "the licenses of 2 images of bad forbid to pass on changed copies (1 cc-by-nd-4.0, 1 'All rights" in said
    assert "lynx, http://images.test/1, lynx, http://images.test/2" in said
    assert "Encode with --licenses redistributable" in said
    assert hub.asked == []


def test_ones_own_images_need_a_license(folder, hub):
    words = ["--to", "me/own", "--endpoint", hub.url, "--yes"]
    status, said = type_it(folder, "own", *words)
    assert status == 1
    assert "nobody has told the license of 4 images of own, those that you brought: say it with --own-license" in said
    status, said = type_it(folder, "own", *words, "--own-license", "cc-by-nd-4.0")
    assert "cc-by-nd-4.0, the license of your own images, forbids" in said
    assert hub.asked == []
    status, said = type_it(folder, "own", *words, "--own-license", "cc-by-sa-4.0")
    assert status == 0, said
    files = hub.repositories["datasets", "me/own"]["files"]
    assert yaml.safe_load(files["README.md"].decode().split("---\n")[1])["license"] == "cc-by-sa-4.0"
    assert list(read_credits(folder / "own")) == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "good" / "ATTRIBUTION.csv").unlink(), "it has no ATTRIBUTION.csv to credit anybody"),
        (lambda folder: _cut(folder / "good" / "ATTRIBUTION.csv"), "ATTRIBUTION.csv is cut off, or of another"),
        (lambda folder: (folder / "good" / "val.idx").unlink(), "val.idx is not the index of val.tar"),
        (lambda folder: _of_before(folder / "good"), "good was encoded before data sets said whose the images of"),
        (lambda folder: _say(folder / "good" / "manifest.json", settings=3), "good/manifest.json is damaged"),
        (lambda folder: _flip(folder / "good" / "train.tar"), "train.tar does not have the sha256 of its manifest"),
        (lambda folder: (folder / "good" / "label_space.json").unlink(), "there is no label space at"),
        (lambda folder: (folder / "model" / "README.md").unlink(), "model is not whole, it has no README.md"),
        (lambda folder: (folder / "model" / "config.json").unlink(), "model is not whole, it has no config.json"),
        (lambda folder: os.truncate(folder / "model" / "model.safetensors", 5000), "model is damaged ("),
        (lambda folder: _say(folder / "model" / "model.json", labels=5), "model is damaged ("),
        (lambda folder: (folder / "model" / "model.safetensors").unlink(), "neither an exported model nor an encoded"),
    ],
)
def test_what_is_not_whole_is_refused(folder, damage, sentence):
    damage(folder)
    name = (
        "good"
        if "good" in sentence or any(n in sentence for n in ("ATTR", "val", "train.", "label space"))
        else "model"
    )
    done = run_here(["publish", name, "--to", "me/x", "--endpoint", "http://127.0.0.1:1", "--yes"], folder)
    assert done.returncode == 1
    assert sentence in done.stderr


def _cut(file: Path) -> None:
    """Behind a row, as by a disk that was full."""
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def _say(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def _of_before(data: Path) -> None:
    """As data sets were before they had credits; nobody knows that its auxiliary images are others'."""
    settings = json.loads((data / "manifest.json").read_text())["settings"]
    del settings["catalog"]
    _say(data / "manifest.json", settings=settings)
    (data / "ATTRIBUTION.csv").unlink()


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[2000] ^= 1
    file.write_bytes(content)


def test_the_token_is_kept(folder, hub):
    words = ["model", "--to", "me/cats", "--yes", "--endpoint"]
    status, said = type_it(folder, *words, hub.url, token="")
    assert status == 1
    assert "there is no token of the hub: set HF_TOKEN" in said
    status, said = type_it(folder, *words, "http://hub.example")
    assert status == 1
    assert "must begin with https://" in said
    status, said = type_it(folder, *words, hub.url, token="hf_anotherToken0000")
    assert status == 1
    assert "did not take me/cats" in said
    assert "hf_another" not in said
    hub.says = '{"error": "you sent {}"}'
    status, said = type_it(folder, *words, hub.url)  # which must not have the token in it
    assert status == 1
    assert "did not take me/cats" in said


def test_private_is_not_said_of_what_everybody_sees(folder, hub):
    hub.repositories["models", "me/cats"] = {"private": False, "files": {}, "commits": []}
    status, said = type_it(folder, "model", "--to", "me/cats", "--endpoint", hub.url, "--private", "--yes")
    assert status == 1
    assert "me/cats is there, and everybody sees it" in said
    assert hub.repositories["models", "me/cats"]["files"] == {}
