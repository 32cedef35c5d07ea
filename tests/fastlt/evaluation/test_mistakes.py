"""What a run takes its images for: counted by hand, over ranks, and kept in a file that is read again."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastlt.evaluation.finished_run import FinishedRun
from fastlt.evaluation.mistakes import Mistakes, Predictions
from fastlt.evaluation.shown_run import Shown
from fastlt.evaluation.where_mistakes_go import shares
from fastlt.evaluation.worst_classes import worst_tail_classes
from fastlt.label_space import LabelSpace
from fastlt.run_folder import RunFolder

# a and c share x, b and c share y; d and e have no neighbors; z is nobody's.
TARGETS = {"a": 200, "b": 50, "c": 5, "d": 6, "e": 6}
SPACE = LabelSpace.build(TARGETS, {"x": 9, "y": 9, "z": 9}, {"a": ["x"], "b": ["y"], "c": ["x", "y"]})
A, B, C, D, E, X, Y, Z = range(8)
# Labels, what is predicted among targets, and among all classes.
SEEN = [(A, A, A), (A, C, X), (A, B, Y), (B, B, B), (B, A, A), (C, A, X), (C, B, Y), (C, D, Z), (C, C, Y), (D, E, E)]


def mistakes() -> Mistakes:
    predictions = Predictions()
    for batch in (SEEN[:4], SEEN[4:]):
        predictions.add(*torch.tensor(batch).T)
    return predictions.mistakes(SPACE, "data", "sha")


def shown(found: Mistakes, space: LabelSpace = SPACE) -> Shown:
    accuracies = [100 / 3, 50.0, 25.0, 0.0, None]
    return Shown("run", "C0", RunFolder(Path("run")), space, [], {}, "", "val", accuracies, None, found)


def test_by_hand():
    found = mistakes()
    assert found.images == [3, 2, 4, 1, 0]
    assert found.mistakes == [(1, A, C), (2, A, B), (4, B, A), (5, C, A), (6, C, B), (7, C, D), (9, D, E)]
    assert found.auxiliaries == [(1, A, X), (2, A, Y), (5, C, X), (6, C, Y), (7, C, Z), (8, C, Y)]
    assert found.are_of([100 / 3, 50.0, 25.0, 0.0, None])
    assert not found.are_of([100 / 3, 50.0, 50.0, 0.0, None])
    assert not found.are_of([100 / 3, 50.0, 25.0, 0.0, 0.0])


def test_where_they_go():
    of = shares(shown(mistakes()), SPACE.neighbors)
    assert [of[group].images for group in ("many", "medium", "few")] == [3, 2, 5]
    assert of["many"].mistakes == {"sibling": 1, "other medium": 1}
    assert of["medium"].mistakes == {"other many": 1}
    assert of["few"].mistakes == {"sibling": 2, "other few": 2}
    assert of["few"].by_chance == pytest.approx((3 * 2 / 4 + 0) / 4)  # c has two siblings among four others, d none
    assert of["many"].auxiliaries == {"own neighbor": 1, "other auxiliary": 1}
    assert of["medium"].auxiliaries == {}
    assert of["few"].auxiliaries == {"own neighbor": 3, "other auxiliary": 1}


def test_a_run_without_auxiliary_classes_has_the_siblings_of_others():
    found = replace(mistakes(), auxiliaries=None)
    of = shares(shown(found, SPACE.trained(auxiliary=False)), SPACE.neighbors)
    assert of["few"].mistakes["sibling"] == 2
    assert of["few"].auxiliaries is None
    nobody = shares(shown(found, SPACE.trained(auxiliary=False)), ())
    assert nobody["few"].mistakes == {"other many": 1, "other medium": 1, "other few": 2}


def test_the_worst_tail_classes_are_those_of_few_images_that_are_wrong_by_accuracy_and_name():
    run = shown(mistakes())
    assert worst_tail_classes(run) == [D, C]
    assert worst_tail_classes(replace(run, per_class=[0.0, 0.0, 25.0, 25.0, 100.0])) == [C, D]


def test_the_file_says_the_same(tmp_path):
    found = mistakes()
    found.save(tmp_path / "m.json")
    assert Mistakes.load(tmp_path / "m.json", SPACE) == found


@pytest.mark.parametrize(
    "changed",
    [
        {"images": [3, 2, 4, 1]},
        {"images": [3, 2, 4, 1, -1]},
        {"images": None},
        {"mistakes": [[10, 0, 1]]},
        {"mistakes": [[0, 0, 0]]},
        {"mistakes": [[0, 0, X]]},
        {"mistakes": [[0, 0]]},
        {"mistakes": [["0", 0, 1]]},
        {"mistakes": None},
        {"auxiliaries": [[0, 0, 1]]},
        {"auxiliaries": [[0, 0, 8]]},
        {"auxiliaries": 5},
    ],
)
def test_a_file_that_says_what_cannot_be_is_one_sentence(tmp_path, changed):
    file = tmp_path / "m.json"
    mistakes().save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(ValueError, match=r"m.json is not what `fastlt evaluate` writes, evaluate again: "):
        Mistakes.load(file, SPACE)


@pytest.mark.medium
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_find_what_one_process_finds(workshop, trained, ranks, tmp_path, monkeypatch):
    """45 images in batches of 11: the second of two ranks has one batch less, and a stand-in."""
    monkeypatch.chdir(workshop.folder)
    run, predictions = FinishedRun(trained), Predictions()
    expected = run.evaluate("val", predictions=predictions)
    taken = predictions.mistakes(run.label_space, "data", "sha256")
    assert taken.mistakes
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    script = Path(__file__).with_name("evaluate_ranks.py")
    done = subprocess.run(
        [*command, str(script), str(trained), str(tmp_path / "found")],
        cwd=workshop.folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        found, theirs = json.loads((tmp_path / f"found.{rank}").read_text())
        assert Mistakes(**theirs | {n: [tuple(t) for t in theirs[n]] for n in ("mistakes", "auxiliaries")}) == taken
        assert found["per_class"] == expected.per_class
        assert found["bins"]["images"] == expected.bins["images"]
        assert found["bins"]["correct"] == expected.bins["correct"]
        assert found["bins"]["confidence"] == pytest.approx(expected.bins["confidence"], rel=1e-6)
