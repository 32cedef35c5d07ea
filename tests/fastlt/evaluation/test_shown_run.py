"""What a report says of a run beside its figures."""

import json

from fastlt.evaluation.shown_run import read_runs
from fastlt.label_space import LabelSpace


def test_five_crops_are_told_apart_from_one(tmp_path):
    """They are worth a point or so: side by side with a run of one crop they must not look alike."""
    runs = [tmp_path / name for name in ("one", "five")]
    for run, crops in zip(runs, (1, 5), strict=True):
        run.mkdir()
        LabelSpace.build({"a": 3, "b": 30}).save(run / "label_space.json")
        (run / "log.jsonl").write_text(json.dumps({"kind": "eval", "step": 1, "epoch": 1, "all": 50.0}) + "\n")
        evaluation = {"weights": "best", "epoch": 1, "crops": crops, "all": 50.0}
        (run / "evaluation_test.json").write_text(json.dumps(evaluation))
    told = [run.about for run in read_runs(runs)]
    assert told == ["test, best weights, epoch 1", "test, five crops, best weights, epoch 1"]
