"""The package as others get it: a wheel, installed away from the checkout, that has all it needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastlt
from support.paths import BIN, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves its folder in the checkout.
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.split("\n"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "bench/")):
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), "."]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_every_module_and_file_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for folder in ("fastlt", "kernels", "configs", "data_prep"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".c", ".yaml", ".html", ".css", ".js", ".svg") or file.name == "prompt.md":
                name = file.relative_to(ROOT).as_posix()
                expected.add(name if folder == "fastlt" else f"fastlt/{name}")
    assert expected <= inside, sorted(expected - inside)
    assert f"fastlt-{fastlt.__version__}" in wheel.name


def test_an_installed_wheel_works_without_the_checkout(wheel, tmp_path):
    """Only its dependencies come from this environment."""
    options = ["--no-deps", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "DS_ACCELERATOR": "cpu"}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"

    def run(*words: str) -> str:
        program = "import sys; from fastlt.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import fastlt.kernels as k, fastlt.data_prep as d; print(k.__file__, d.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.count(str(tmp_path / "site")) == 2
    assert run("--version") == f"fastlt {fastlt.__version__}\n"
    assert "name: resnet18" in run("recipe", "demo/species")
    run("draw", "species")
    folders = ["--train", "species/train", "--val", "species/val", "--auxiliary", "species/auxiliary"]
    run("encode", "data/species_encoded", *folders, "--neighbors", "species/neighbors.json", "--mode", "raw")
    said = run("train", "demo/species", "optimizer.epochs=1", "optimizer.warmup_epochs=0")
    assert "epoch 1/1" in said
