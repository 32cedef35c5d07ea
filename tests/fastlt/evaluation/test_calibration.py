"""The temperature is where the likelihood is largest, and what `evaluate`, `predict` and an export say of it agrees."""

import csv
import io
import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from fastlt.evaluation.calibration import HIGHEST, LOWEST, Calibration, find_temperature
from fastlt.evaluation.finished_run import FinishedRun


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_it_is_where_the_likelihood_is_largest(true):
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 7) * true
    labels = (logits / true).softmax(1).multinomial(1)[:, 0]
    found = find_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.1)

    def nll(temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / temperature, labels))

    assert nll(found) <= min(nll(found * factor) for factor in (0.99, 0.999, 1.001, 1.01))


def test_it_stops_where_images_do_not_tell_more():
    logits = torch.eye(5).repeat(3, 1)
    assert find_temperature(logits, torch.arange(5).repeat(3)) == pytest.approx(LOWEST)
    assert find_temperature(logits, torch.arange(5).roll(1).repeat(3)) == pytest.approx(HIGHEST)


@pytest.mark.parametrize(("ece", "doubted"), [(9.5, True), (12.5, False)])
def test_a_temperature_that_calibrates_worse_is_doubted(ece, doubted):
    assert ("ECE got worse" in Calibration(1.2, 3, 40, 1.1, 1.0, ece, 12.0).sentence()) == doubted


@pytest.mark.medium
def test_evaluate_keeps_it_and_predict_and_export_use_it(workshop, trained, monkeypatch):
    monkeypatch.chdir(workshop.folder)
    shutil.copytree(trained, "calibrated")
    done = workshop.fastlt("evaluate", "calibrated", "--calibrate")
    assert done.returncode == 0, done.stderr
    kept = json.loads((workshop.folder / "calibrated" / "calibration_last.json").read_text())
    told = json.loads((workshop.folder / "calibrated" / "evaluation_val.json").read_text())
    assert f"temperature {kept['temperature']:.3f}" in done.stdout
    assert f"ECE {kept['ece']:.1f} -> {kept['ece_calibrated']:.1f}" in done.stdout
    assert kept["nll_calibrated"] <= kept["nll"]
    assert (told["temperature"], told["ece"]) == (kept["temperature"], pytest.approx(kept["ece"]))
    assert told["ece_calibrated"] == pytest.approx(kept["ece_calibrated"])

    run = FinishedRun(workshop.folder / "calibrated")
    logits, labels = run.target_logits("val")
    best = (logits.double() / kept["temperature"]).softmax(1).amax(1)
    assert float(F.cross_entropy(logits.double(), labels)) == pytest.approx(kept["nll"])
    assert workshop.fastlt("export", "calibrated", "--out", "calibrated_export").returncode == 0
    for folder in ("calibrated", "calibrated_export"):
        done = workshop.fastlt("predict", folder, "species/val", "--format", "csv")
        assert f"calibrated by temperature {kept['temperature']:.3g}" in done.stderr
        found = sorted(float(row["probability"]) for row in csv.DictReader(io.StringIO(done.stdout)))
        assert found == pytest.approx(sorted(best.tolist()), abs=1e-5)

    other = workshop.folder / "calibrated" / "calibration_last.json"
    other.write_text(json.dumps(kept | {"epoch": 1}))
    assert "not calibrated" in workshop.fastlt("predict", "calibrated", "species/val").stderr, "of other weights"
    other.write_text('{"temperature": 1e9}')
    assert "is not what `fastlt evaluate --calibrate` writes" in workshop.fastlt("evaluate", "calibrated").stderr
    assert "leave out --ensemble" in workshop.fastlt("evaluate", "trained", "--calibrate", "--ensemble").stderr
