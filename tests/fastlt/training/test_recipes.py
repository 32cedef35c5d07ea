"""Our recipes on drawn species: each smoke variant trains to its end, as its first lines say."""

import json

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.slow
SMOKE = sorted(str(file.relative_to(ROOT / "configs"))[: -len(".yaml")] for file in ROOT.glob("configs/*/*_smoke.yaml"))


@pytest.fixture(scope="module")
def species(workshop):
    done = workshop.encode("species_encoded", "--mode", "raw")
    assert done.returncode == 0, done.stderr


def test_every_recipe_has_a_smoke_variant():
    recipes = {str(file.relative_to(ROOT / "configs"))[: -len(".yaml")] for file in ROOT.glob("configs/*/*.yaml")}
    assert {f"{name}_smoke" for name in recipes if not name.endswith("_smoke")} - recipes == {"demo/species_smoke"}


@pytest.mark.parametrize("name", SMOKE)
def test_smoke_variant_trains(name, workshop, species):
    output = f"output=smoke/{name}"
    done = workshop.fastlt("train", name, output, "data.path=species_encoded", "--ranks", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    log = (workshop.folder / "smoke" / name / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log if json.loads(line)["kind"] == "eval"] == [1, 2]
