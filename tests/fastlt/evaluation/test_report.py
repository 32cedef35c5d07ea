"""What a report says of runs of which little is known, or which were judged in different ways."""

import json
from pathlib import Path

from fastlt.evaluation.report import _bars
from fastlt.evaluation.shown_run import read_runs
from fastlt.label_space import LabelSpace
from fastlt.recipe import load_recipe


def evaluated(run: Path, **found: float | None) -> Path:
    """A run of which `fastlt evaluate` has found this."""
    run.mkdir()
    LabelSpace.build({"a": 3, "b": 30}).save(run / "label_space.json")
    (run / "log.jsonl").write_text(json.dumps({"kind": "eval", "step": 1, "epoch": 1, "all": 50.0}) + "\n")
    (run / "evaluation_test.json").write_text(json.dumps({"weights": "best", "epoch": 1} | found))
    return run


def test_five_crops_are_told_apart_from_one(tmp_path):
    """They are worth a point or so: side by side with a run of one crop they must not look alike."""
    runs = [evaluated(tmp_path / "one", crops=1, all=50.0), evaluated(tmp_path / "five", crops=5, all=50.0)]
    told = [run.about for run in read_runs(runs)]
    assert told == ["test, best weights, epoch 1", "test, five crops, best weights, epoch 1"]


def test_figures_on_another_data_set_and_none_yet_are_said(tmp_path):
    runs = [evaluated(tmp_path / name, data=name, all=50.0) for name in ("own", "other")]
    for run in runs:
        load_recipe("demo/species", ["data.path=own", "output=x"]).save(run / "recipe.yaml")
    begun = evaluated(tmp_path / "begun")
    (begun / "evaluation_test.json").unlink()
    (begun / "log.jsonl").write_text("")
    told = [run.about for run in read_runs([*runs, begun])]
    assert told == [
        "test, best weights, epoch 1",
        "test of another data set, best weights, epoch 1",
        "not evaluated yet",
    ]


def test_a_shot_group_without_classes_has_no_bar_of_zero(tmp_path):
    figure = _bars(read_runs([evaluated(tmp_path / "run", all=50.0, many=None, medium=75.0, few=0.0)]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["50.0", "", "75.0", "0.0"]
