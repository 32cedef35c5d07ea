"""`fastlt study`: bad files, figures that can be checked by hand, what is skipped and what is stale, real trainings."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

import fastlt
from fastlt.cli import main
from fastlt.dataset.encoded import EncodedDataset
from fastlt.experiments.comparison import student_t
from fastlt.experiments.study_file import Cell, Study, read_study
from fastlt.provenance import commit, processor
from fastlt.recipe import load_recipe
from fastlt.run_folder import RunFolder, hold
from fastlt.yaml_keys import validated
from fastlt.yaml_text import read_mapping
from support.paths import ROOT, with_support

STUDY = """
base: recipe.yaml
data: {species: encoded}
arms:
  balanced: data.auxiliary=false loss.lambda_s=1
  + auxiliary: loss.lambda_s=1
  silenced: {loss.lambda_s: 0.1}
seeds: [0, 1, 5]
"""
FIGURES = {"balanced": (40.0, 41.0, 43.0), "+ auxiliary": (41.5, 42.0, 44.6), "silenced": (41.0, 40.0, 43.5)}
COMMIT = "c0ffee"


@pytest.fixture
def place(workshop, tmp_path, monkeypatch) -> Path:
    """A folder with the drawn species and their recipe, where commands are typed."""
    (tmp_path / "encoded").symlink_to(workshop.folder / "encoded")
    shutil.copy(workshop.folder / "recipe.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTLT_COMMIT", COMMIT)
    return tmp_path


def study(capsys, text: str, *words: str) -> tuple[int, str, str]:
    Path("study.yaml").write_text(text)
    capsys.readouterr()
    code = main(["study", "study.yaml", *words])
    return code, *capsys.readouterr()


def finish(text: str, figures: dict[str, tuple[float, ...]]) -> None:
    """Writes the line that each run would have written, with these accuracies for the seeds."""
    Path("study.yaml").write_text(text)
    lines = []
    cells = read_study(Path("study.yaml")).cells
    for cell in cells:
        place = [other.seed for other in cells if other.arm == cell.arm].index(cell.seed)
        if place < len(figures.get(cell.arm, ())):
            value = figures[cell.arm][place]
            line = {"data": cell.data, "arm": cell.arm, "seed": cell.seed, "top1": value, "all": value, "many": None}
            line |= {"medium": value + 1, "few": value / 2, "ece": 3.0, "mce": 9.0, "num_images": 45, "split": "val"}
            line |= {"weights": "last", "epoch": 2, "precision": "float32", "steps": cell.steps, "epochs": 2}
            line |= {"hours": 0.25, "device": "a CPU", "commit": COMMIT, "data_digest": cell.data_digest, "ranks": 1}
            line |= {"recipe": cell.recipe_digest(), "command": cell.command, "versions": {}}
            lines.append(json.dumps(line) + "\n")
    Path("study").mkdir()
    Path("study/runs.jsonl").write_text("".join(lines))


def test_the_study_explains_its_keys(capsys):
    assert main(["study"]) == 0
    said = capsys.readouterr().out
    for key in ("base (required)", "seeds (required)", "steps (default null)", "baseline (default null)"):
        assert f"{key}\n" in said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[0, 1, 5]", "[3, 1, 3]", "seed 3 stands twice in seeds"),
        ("[0, 1, 5]", "[0, x]", "seeds is [0, 'x']; it must be a list of whole numbers"),
        ("[0, 1, 5]", "[true]", "seeds is [True]; it must be"),
        ("[0, 1, 5]", "[-1]", "arm 'balanced': seed is -1; it must be at least 0"),
        ("[0, 1, 5]", "[]", "seeds names nothing to train"),
        ("[0, 1, 5]", "0", "seeds names nothing to train"),
        ("silenced:", "balanced:", "key 'balanced' stands twice"),
        ("{loss.lambda_s: 0.1}", "loss.lambda_s=1", "arms '+ auxiliary' and 'silenced' are one arm twice"),
        ("{loss.lambda_s: 0.1}", "{loss.lambda: 1}", "arm 'silenced': unknown key 'loss.lambda'; did you mean loss."),
        ("{loss.lambda_s: 0.1}", "loss.lambda_s", "arm 'silenced': 'loss.lambda_s' is not of the form key=value"),
        ("{loss.lambda_s: 0.1}", "loss.lambda_s=2", "arm 'silenced': loss.lambda_s is 2; it must be at most 1"),
        ("{loss.lambda_s: 0.1}", "[[1]]", "arm 'silenced' is [[1]]; it must be words like optimizer.epochs=3"),
        ("{loss.lambda_s: 0.1}", '"model.name=\'"', "arm 'silenced': No closing quotation"),
        (
            "{loss.lambda_s: 0.1}",
            "loss.lambda_s=0.1 loss.tau=0 loss.lambda_s=0.2",
            "arm 'silenced' sets loss.lambda_s twice: leave one of them out.",
        ),
        ("{loss.lambda_s: 0.1}", "seed=3", "arm 'silenced': the study sets seed and output: leave them out."),
        ("{loss.lambda_s: 0.1}", "output=x", "arm 'silenced': the study sets seed and output: leave them out."),
        (
            "{loss.lambda_s: 0.1}",
            "model.name=resnet81",
            "arm 'silenced' on data set 'species': model.name=resnet81: timm",
        ),
        ("{loss.lambda_s: 0.1}", "data.path=x", "arm 'silenced': x is not an encoded data set: use `fastlt encode`."),
        ("silenced", "a/b", "'a/b' cannot be the name of a folder of runs"),
        ("silenced", "..", "'..' cannot be the name of a folder of runs"),
        ("encoded}", "species}", "data set 'species': species is not an encoded data set: use `fastlt encode`."),
        ("{species: encoded}", "encoded", "data is 'encoded'; it must have keys of its own"),
        ("recipe.yaml", "recipes.yaml", "there is no recipe 'recipes.yaml': it is neither a file nor one of ours"),
        ("seeds:", "seed:", "unknown key 'seed'; did you mean seeds?"),
        ("base: recipe.yaml", "", "key 'base' is missing"),
        (
            "seeds: [0, 1, 5]",
            "seeds: 1\nbaseline: balanced",
            "asks for paired differences, and one seed gives no interval",
        ),
        (
            "seeds:",
            "baseline: balance\nseeds:",
            "baseline 'balance' is none of the arms balanced, + auxiliary, silenced",
        ),
        ("seeds:", "against: {silenced: balance}\nseeds:", "against 'balance' is none of the arms balanced, + aux"),
        ("seeds:", "against: {silenced: silenced}\nseeds:", "against compares 'silenced' with itself"),
        ("seeds: [0, 1, 5]", "seeds: 1\nagainst: {silenced: balanced}", "against asks for paired differences"),
        ("seeds:", "steps: 0\nseeds:", "steps is 0; it must be a number above 0, or baseline"),
        ("seeds:", "steps: yes\nseeds:", "is True; it must be a number"),
        ("seeds:", "ranks: yes\nseeds:", "is True; it must be a number"),
        ("silenced: {loss", "1: loss.tau=2\n  '1': {loss", "it has the name '1' twice"),
        ("encoded}", "~nobodyx/a}", "data set 'species' is ~nobodyx/a, of a user whom nobody knows"),
        ("seeds:", "steps: many\nseeds:", "steps cannot be 'many': The same number of optimizer steps for all arms"),
        ("{loss.lambda_s: 0.1}", "optimizer.epochs=3\nsteps: 9", "optimizer.epochs follows from `steps`: leave one"),
        (
            "{loss.lambda_s: 0.1}",
            "optimizer.head_only_epochs=1\nsteps: 9",
            "arm 'silenced': its epochs have 1.37 times the baseline's steps, so that optimizer.head_only_epochs=1",
        ),
        ("seeds:", "ranks: 5\nseeds:", "optimizer.batch_size=16 is not divisible by 5 ranks"),
    ],
)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(place, capsys, old, new, sentence):
    assert old in STUDY
    code, out, err = study(capsys, STUDY.replace(old, new))
    assert code == 1
    assert sentence in err
    assert err.startswith("fastlt: error: ")
    assert err.count("\n") == 1
    assert not out
    assert not Path("study").exists()


def test_other_bad_inputs_are_one_sentence(place, capsys):
    assert "there is no such arm, only balanced, + auxiliary, silenced" in study(capsys, STUDY, "--only", "x")[2]
    shutil.copytree("encoded", "other")
    space = json.loads(Path("other/label_space.json").read_text())
    space["target_names"][0] = "another"
    Path("other/label_space.json").write_text(json.dumps(space))
    _, _, err = study(capsys, STUDY.replace("{loss.lambda_s: 0.1}", "data.path=other"))
    assert "arm 'silenced': other is judged by other classes or images than encoded." in err
    assert "data sets 'species' and 'x' are one data set twice" in study(
        capsys, STUDY.replace("encoded}", "encoded, x: ./encoded}")
    )[2]  # fmt: skip
    shutil.copytree("encoded", "again")
    two = STUDY.replace("encoded}", "encoded, again: again}")
    assert "arm 'silenced': data.path is the same for all data sets" in study(
        capsys, two.replace("{loss.lambda_s: 0.1}", "data.path=other")
    )[2]  # fmt: skip
    finish(STUDY, FIGURES)
    with Path("study/runs.jsonl").open("a") as lines:
        lines.write('{"data": "species"}\n')
    err = study(capsys, STUDY)[2]
    assert "line 10 of study/runs.jsonl is no record of a run" in err
    assert "Delete that line: the same command then takes its run from the run's folder, or trains it again" in err


def test_means_and_intervals_are_those_computed_by_hand(place, capsys):
    finish(STUDY, FIGURES)
    code, out, err = study(capsys, STUDY)
    assert (code, err) == (0, "")
    assert "9 runs in study, 9 of them done" in out
    rows = {row["arm"]: row for row in csv.DictReader(Path("study/table.csv").read_text().splitlines())}
    # Differences 1.5, 1.0, 1.6: mean 1.3667, sd 0.32146; t of two degrees of freedom 4.30265.
    auxiliary = rows["'+ auxiliary"]  # a spreadsheet would take it for a formula
    # The 80% quantile of two degrees of freedom is 1.06066: (4.30265 + 1.06066) / 4.30265 of 0.7986.
    found = [float(auxiliary[f"all_{name}"]) for name in ("mean", "difference", "low", "high", "smallest_effect")]
    assert found == pytest.approx([42.7, 1.3667, 0.5681, 2.1652, 0.9954], abs=2e-4)
    assert auxiliary["pairs"] == "3"
    assert float(auxiliary["few_difference"]) == pytest.approx(1.3667 / 2, abs=2e-4)
    assert rows["balanced"]["all_difference"] == auxiliary["many_mean"] == auxiliary["many_difference"] == ""
    # Differences 1.0, -1.0, 0.5.
    assert float(rows["silenced"]["all_low"]) == pytest.approx(0.16667 - 4.30265 * 1.04083 / 3**0.5, abs=2e-4)
    table = Path("study/table.md").read_text()
    assert "| species | balanced | 3 of 3 | 41.3 | - | 42.3 | 20.7 | 1.53 |" in table
    assert "| species | + auxiliary | 3 | **+1.37 ± 0.80** | - |" in table
    assert "| species | silenced | 3 | +0.17 ± 2.59 |" in table
    assert (
        "about four such intervals of five tell from 0 is 1.00 points (+ auxiliary), 3.22 points (silenced)." in table
    )
    assert "9 runs, 2.25 hours of training" in table
    assert "commit c0ffee; a CPU." in table
    assert "`fastlt study study.yaml --only ARM --out runs/repeated`" in table


def test_quantiles_are_those_of_the_tables():
    known = {1: (12.7062, 1.3764), 4: (2.7764, 0.9410), 9: (2.2622, 0.8834), 19: (2.0930, 0.8610), 99: (1.9842, 0.8453)}
    for freedom, quantiles in known.items():  # 97.5% and 80%
        assert [student_t(freedom), student_t(freedom, 0.6)] == pytest.approx(quantiles, abs=5e-5)


def test_an_arm_is_compared_with_another_than_the_baseline_as_well(place, capsys):
    text = STUDY + "against: {silenced: + auxiliary}\n"
    finish(text, FIGURES)
    assert study(capsys, text)[0] == 0
    *rows, further = csv.DictReader(Path("study/table.csv").read_text().splitlines())
    assert [row["against"] for row in rows] == ["", "balanced", "balanced"]
    assert (further["arm"], further["against"]) == ("silenced", "'+ auxiliary")
    assert further["all_mean"] == rows[2]["all_mean"]
    # Differences -0.5, -2.0, -1.1: sd 0.75498.
    found = [float(further[f"all_{name}"]) for name in ("difference", "high")]
    assert found == pytest.approx([-1.2, -1.2 + 4.30265 * 0.75498 / 3**0.5], abs=2e-4)
    table = Path("study/table.md").read_text()
    assert "| species | silenced | + auxiliary | 3 | -1.20 ± 1.88 |" in table
    assert "9 runs, 2.25 hours of training" in table


def test_seeds_that_differ_by_the_same_are_no_evidence(place, capsys):
    """As two seeds do by chance where few images are judged: an interval of no width would say that all is certain."""
    finish(STUDY, FIGURES | {"balanced": (40.1, 41.2, 42.3), "silenced": (42.3, 43.4, 44.5)})
    study(capsys, STUDY)
    table = Path("study/table.md").read_text()
    assert "| species | silenced | 3 | +2.20 ± 0.00 |" in table
    assert "On species all seeds differ by the same (silenced): it takes more seeds for an interval." in table
    assert "points (silenced)" not in table
    assert "about four such intervals of five tell from 0 is 2.34 points (+ auxiliary)." in table


def test_the_picture_reads_on_light_and_on_dark_pages(place, capsys):
    finish(STUDY, FIGURES)
    study(capsys, STUDY)
    picture = Image.open("study/picture.png")
    corner, middle = picture.getpixel((0, 0)), (128, 128, 128)
    assert corner[3] == 0, "no ground of its own"
    assert (
        sum(count for count, (*color, alpha) in picture.getcolors(2**24) if alpha > 200 and tuple(color) == middle)
        > 500
    )
    assert not [color for _, color in picture.getcolors(2**24) if color[3] > 200 and max(color[:3]) < 60], "black ink"


def test_only_pairs_that_are_there_count_and_the_baseline_can_be_named(place, capsys):
    text = STUDY + "baseline: silenced\n"
    finish(text, FIGURES | {"balanced": (40.0, 41.0), "+ auxiliary": (41.5,)})
    finished = read_study(Path("study.yaml"))
    for cell in finished.cells:  # those without a line have failed before
        if cell.key in {("species", "balanced", 5), ("species", "+ auxiliary", 1), ("species", "+ auxiliary", 5)}:
            cell.folder.path.mkdir(parents=True)
            why = {"commit": COMMIT, "data_digest": cell.data_digest, "ranks": 1, "failed": "it | rained"}
            (cell.folder.path / "study.json").write_text(json.dumps(why))
    code, out, _ = study(capsys, text, "--only", "silenced")
    assert code == 0
    assert "3 runs in study, 3 of them done" in out
    table = Path("study/table.md").read_text()
    assert "| species | balanced | 2 of 3 |" in table
    assert "seed 5: it \\| rained |" in table
    assert "seed 1, 5: it \\| rained |" in table
    assert "| species | balanced | 2 | +0.00 ± 12.71 |" in table, "differences -1 and 1"
    assert "| species | + auxiliary | 0 | - | - | - | - |" in table


def test_one_seed_has_means_and_says_why_nothing_else(place, capsys):
    text = STUDY.replace("[0, 1, 5]", "1")
    finish(text, FIGURES)
    assert study(capsys, text)[0] == 0
    table = Path("study/table.md").read_text()
    assert "| species | silenced | 1 of 1 | 41.0 |" in table
    assert "no differences with intervals: one seed says nothing of how much a repetition would differ" in table
    assert "±" not in table
    assert Image.open("study/picture.png").width > 100


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("{loss.lambda_s: 0.1}", "{loss.lambda_s: 0.2}", "arms 'silenced' (3 runs; its recipe is another now)"),
        (
            "optimizer: {name: adamw",
            "optimizer: {name: sgd",
            "arms 'balanced' (3 runs; its recipe is another now), '+ aux",
        ),
        ("seeds:", "ranks: 2\nseeds:", "arms 'balanced' (3 runs; ranks: 1 -> 2)"),
        (COMMIT, "decade", "arms 'balanced' (3 runs; commit: c0ffee -> decade)"),
        ("[0, 1, 5]", "[0, 1]", None),
        ("trackers: []", "trackers: [tensorboard]", None),
    ],
)
def test_a_changed_study_says_which_arms_are_stale_and_what_to_do(place, capsys, monkeypatch, old, new, stale):
    finish(STUDY, FIGURES)
    recipe = Path("recipe.yaml").read_text()
    Path("recipe.yaml").write_text(recipe.replace(old, new))
    monkeypatch.setenv("FASTLT_COMMIT", COMMIT.replace(old, new))
    before = Path("study/runs.jsonl").read_text()
    code, out, err = study(capsys, STUDY.replace(old, new))
    if stale is None:
        assert (code, err) == (0, "")
        assert sorted(Path("study/runs.jsonl").read_text().splitlines()) == sorted(before.splitlines())
        assert ("3 runs in study/runs.jsonl are none of this study now, and stay there" in out) == (old == "[0, 1, 5]")
        return
    assert code == 1
    assert f"study has stale runs of the {stale}" in err
    assert "have --redo delete them and train them again" in err
    assert ("--other-commits" in err) == (old == COMMIT)
    assert Path("study/runs.jsonl").read_text() == before, "nothing is touched"
    if old == COMMIT:
        code, out, err = study(capsys, STUDY, "--other-commits")
        assert (code, err) == (0, "")
        assert "commit c0ffee" in Path("study/table.md").read_text()


def test_a_data_set_that_was_encoded_again_makes_runs_stale(place, capsys):
    finish(STUDY, FIGURES)
    lines = Path("study/runs.jsonl")
    lines.write_text(re.sub(r'"data_digest": "\w+"', '"data_digest": "0123456789abcdef"', lines.read_text()))
    assert "(3 runs; its data set was encoded again since)" in study(capsys, STUDY)[2]


def test_a_folder_with_a_run_of_another_recipe_is_not_taken_for_done(place, capsys):
    finish(STUDY, FIGURES)
    cell = read_study(Path("study.yaml")).cells[0]
    cell.recipe.model_copy(update={"seed": 7}).save(cell.folder.recipe)
    err = study(capsys, STUDY)[2]
    assert "stale runs of the arms 'balanced' (1 runs; seed: 7 -> 0)" in err


def test_nobody_is_asked_about_a_failed_run_that_has_saved_nothing(place, capsys):
    """It is begun anew, with a word. Arms that are not to be trained are not looked at."""
    finish(STUDY, FIGURES | {"silenced": ()})
    cells = [cell for cell in read_study(Path("study.yaml")).cells if cell.arm == "silenced"]
    made_by = {"commit": COMMIT, "data_digest": cells[0].data_digest, "ranks": 1}
    for cell in cells:
        cell.recipe.save(cell.folder.recipe)
        (cell.folder.path / "study.json").write_text(json.dumps(made_by | {"failed": "it rained"}))
    empty, with_checkpoint, with_weights = (cell.folder for cell in cells)
    with_checkpoint.checkpoint(16).mkdir(parents=True)
    with_weights.weights("last").touch()
    unlearned = STUDY.replace("{loss.lambda_s: 0.1}", "{loss.lambda_s: 0.1, checkpoint.keep: 9}")
    code, out, err = study(capsys, unlearned, "--only", "balanced")
    assert (code, err) == (0, "")
    assert "stale" not in out, "that key changes nothing of what is learned"

    changed = STUDY.replace("lambda_s: 0.1}", "lambda_s: 0.2}")
    code, out, err = study(capsys, changed, "--only", "balanced")
    assert (code, err) == (0, "")
    assert "3 stale runs of other arms are left out of the tables: silenced\n" in out
    assert empty.is_begun
    code, out, err = study(capsys, changed)
    assert "stale runs of the arms 'silenced' (2 runs; loss.lambda_s: 0.1 -> 0.2)" in err, "hours may be in them"
    assert (out, empty.is_begun) == ("", True), "nothing is deleted before all is clear"
    shutil.rmtree(with_checkpoint.checkpoints)
    (with_checkpoint.path / "study.json").write_text(json.dumps(made_by))
    assert "'silenced' (2 runs;" in study(capsys, changed)[2], "it was killed, and may be saving"
    shutil.rmtree(with_checkpoint.path)
    shutil.rmtree(with_weights.path)
    do_not_train()
    _, out, _ = study(capsys, changed)
    assert out.startswith("deleted study/runs/species/silenced/seed0: loss.lambda_s: 0.1 -> 0.2\n9 runs in study")
    assert not empty.path.exists()


def do_not_train() -> None:
    """Lets a study end where it writes its tables first: it deletes, and trains nothing."""
    Path("study/table.md").unlink(missing_ok=True)
    Path("study/table.md").mkdir()


def test_what_redo_deletes(place, capsys):
    finish(STUDY, FIGURES)
    folders = [cell.folder for cell in read_study(Path("study.yaml")).cells if cell.arm == "silenced"]
    for folder in folders[:2]:  # of one that was half deleted
        folder.checkpoint(16).mkdir(parents=True)
    (folders[0].path.with_name(".seed0.deleted")).mkdir()
    assert "stale runs of the arms 'silenced' (2 runs; it has no recipe.yaml)" in study(capsys, STUDY)[2]
    folders[1].path.rename("elsewhere")
    folders[1].path.symlink_to(Path("elsewhere").resolve())
    before = Path("study/runs.jsonl").read_text()
    _, out, err = study(capsys, STUDY, "--redo")
    assert err == (
        "fastlt: error: the stale run study/runs/species/silenced/seed1 is a link, behind which nothing is deleted: "
        "remove it first.\n"
    )
    assert (out, Path("study/runs.jsonl").read_text()) == ("", before)
    folders[1].path.unlink()
    do_not_train()
    _, out, _ = study(capsys, STUDY, "--redo")
    assert out.startswith("deleted study/runs/species/silenced/seed0: it has no recipe.yaml\n9 runs in study, 8 of")
    assert not list(Path("study/runs/species/silenced").iterdir())
    assert RunFolder(Path("elsewhere")).checkpoint(16).is_dir()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("all", "NaN"), ("few", "Infinity"), ("all", "1.7e308"), ("few", "9" * 400), ("hours", "null"),
        ("hours", "9" * 400), ("steps", "9" * 400), ("steps", "1.5"), ("all", '"x"'), ("device", "1"),
    ],
)  # fmt: skip
def test_a_record_that_was_edited_is_named(place, capsys, name, value):
    finish(STUDY, FIGURES)
    first, *others = Path("study/runs.jsonl").read_text().splitlines(keepends=True)
    edited = re.sub(rf'"{name}": ("[^"]*"|[^",]*),', f'"{name}": {value},', first)
    assert edited != first
    Path("study/runs.jsonl").write_text("".join([edited, *others]))
    code, _, err = study(capsys, STUDY)
    assert code == 1
    assert err.startswith("fastlt: error: line 1 of study/runs.jsonl is no record of a run: ")


def test_stale_figures_are_in_no_table(place, capsys):
    finish(STUDY, FIGURES)
    code, out, err = study(capsys, STUDY.replace("lambda_s: 0.1}", "lambda_s: 0.2}"), "--only", "+ auxiliary")
    assert (code, err) == (0, "")
    assert "3 stale runs of other arms are left out of the tables: silenced\n" in out
    table = Path("study/table.md").read_text()
    assert "| species | + auxiliary | 3 | **+1.37 ± 0.80** |" in table
    assert "| species | silenced | 0 | - |" in table
    assert "seed 0, 1, 5: stale: its recipe is another now |" in table
    assert Path("study/runs.jsonl").read_text().count("silenced") == 3


def test_equal_steps_are_whole_epochs_of_each_arm(place, capsys):
    """147 images of targets and 54 of auxiliaries, 16 a step; the targets' 9.2 steps an epoch make warm-up longer."""
    text = STUDY + "steps: 65\n"
    Path("recipe.yaml").write_text(
        Path("recipe.yaml").read_text().replace("epochs: 2,", "epochs: 2, warmup_epochs: 2,")
    )
    finish(text, FIGURES)
    code, out, err = study(capsys, text)
    assert (code, err) == (0, "")
    assert "optimizer steps on species: balanced 65, + auxiliary 63, silenced 63\n" in out
    assert "warning" not in out
    cells = {cell.arm: cell.recipe.optimizer for cell in read_study(Path("study.yaml")).cells}
    assert [cells[arm].epochs for arm in FIGURES] == [7, 5, 5]
    assert [cells[arm].warmup_epochs for arm in FIGURES] == pytest.approx([2, 2 * 147 / 201, 2 * 147 / 201], rel=1e-5)
    few = text.replace("steps: 65", "steps: 10")
    shutil.rmtree("study")
    finish(few, FIGURES)
    assert "whole epochs of + auxiliary, silenced do not come near 10 steps" in study(capsys, few)[1]
    text = STUDY.replace("loss.lambda_s=1\n", "loss.lambda_s=1 optimizer.epochs=14\n", 1) + "steps: baseline\n"
    Path("study.yaml").write_text(text)
    cells = {cell.arm: cell.recipe.optimizer for cell in read_study(Path("study.yaml")).cells}
    assert [cells[arm].epochs for arm in FIGURES] == [14, 10, 10]
    head_only = STUDY.replace("lambda_s: 0.1}", "lambda_s: 0.1, optimizer.head_only_epochs: 1}")
    Path("study.yaml").write_text(head_only + "baseline: + auxiliary\nsteps: 65\n")
    assert read_study(Path("study.yaml")), "epochs as long as the baseline's"


def test_two_studies_in_one_folder_are_one_too_many(place, capsys):
    finish(STUDY, FIGURES)
    held = hold(Path("study"))
    _, _, err = study(capsys, STUDY)
    os.close(held)
    assert err == ("fastlt: error: another study is running in study: wait, or name another folder with --out.\n")
    assert study(capsys, STUDY)[0] == 0


REAL = """
base: recipe.yaml
data: {species: encoded}
arms:
  balanced: data.auxiliary=false loss.lambda_s=1 optimizer.epochs=1
  diverges: optimizer.blr=1e30 log.steps=1
seeds: [3]
"""


ONE = REAL.replace("  diverges: optimizer.blr=1e30 log.steps=1\n", "")


def run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fastlt", "study", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.medium
def test_a_run_is_trained_and_judged_as_a_user_would(place, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    arm = "balanced: #1"
    Path("study.yaml").write_text(ONE.replace("balanced", f"'{arm}'"))
    folder = RunFolder(Path("study/runs/species") / arm / "seed3")
    folder.path.mkdir(parents=True)  # a folder is no run
    done = run("study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    (line,) = [json.loads(line) for line in Path("study/runs.jsonl").read_text().splitlines()]
    evaluation = json.loads(folder.evaluation("val").read_text())
    for name in ("all", "many", "medium", "few", "top1", "ece"):
        assert line[name] == evaluation[name]
    assert (line["arm"], line["seed"], line["data"], line["steps"]) == (arm, 3, "species", 10)
    assert line["commit"] == COMMIT
    assert line["versions"]["torch"]
    assert line["device"] == processor(), "whatever GPU there is"
    assert 0 < line["hours"] < 0.1
    assert line["command"].startswith("fastlt train recipe.yaml data.path=encoded seed=3 data.auxiliary=false")
    assert line["command"].endswith("output=runs/repeated --ranks 1")


@pytest.mark.slow
def test_a_failed_arm_stops_no_other_and_is_tried_again(place):
    arms = re.search(r"  balanced.*\n  diverges.*\n", REAL)[0]
    Path("study.yaml").write_text(REAL.replace(arms, "".join(reversed(arms.splitlines(keepends=True)))))
    for done_before in (0, 1):
        done = run("study.yaml")
        assert (done.returncode, done.stderr) == (1, "")
        assert f"2 runs in study, {done_before} of them done" in done.stdout
        assert "diverges, seed 3: failed: the loss is nan at step" in done.stdout
        assert "1 of 2 runs failed" in done.stdout
        table = Path("study/table.md").read_text()
        assert re.search(r"\| diverges \| 0 of 1 \|.*\| seed 3: the loss is nan at step .*: lower optimizer.blr", table)
        assert "| species | balanced | 1 of 1 |" in table


def start(out: str, *words: str) -> subprocess.Popen:
    with Path(out).open("w") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "fastlt", "study", *words], stdout=stream, stderr=stream, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def wait_for_step(folder: RunFolder, process: subprocess.Popen, out: str, step: int) -> None:
    deadline = time.monotonic() + 120
    while not folder.log.exists() or not any(record["step"] >= step for record in folder.records()):
        assert process.poll() is None, Path(out).read_text()
        assert time.monotonic() < deadline, Path(out).read_text()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_whose_folder_is_removed_meanwhile_stops_no_other(place):
    Path("study.yaml").write_text(ONE.replace("seeds: [3]", "  next: optimizer.epochs=1\nseeds: [3]"))
    folder = RunFolder(Path("study/runs/species/balanced/seed3"))
    process = start("said", "study.yaml")
    wait_for_step(folder, process, "said", 1)
    shutil.rmtree(folder.path)
    assert process.wait(300) == 1
    said = Path("said").read_text()
    assert f"balanced, seed 3: failed: {folder.path} was removed or emptied while it ran\n" in said
    assert "next, seed 3: all " in said
    assert "Errno" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_it_the_same_command_goes_on_and_ends_with_the_same_figures(place, number):
    text = REAL.replace("optimizer.blr=1e30 log.steps=1", "optimizer.epochs=40")
    Path("study.yaml").write_text(text)
    folder = RunFolder(Path("study/runs/species/diverges/seed3"))
    process = start("first.out", "study.yaml")
    wait_for_step(folder, process, "first.out", 60)
    second = run("study.yaml")
    assert second.stderr == (
        "fastlt: error: another study is running in study: wait, or name another folder with --out.\n"
    )
    os.kill(process.pid, number)  # to this process, not to its group
    assert process.wait(timeout=60) == (-9 if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert "stopped; the same command goes on" in Path("first.out").read_text()
        assert "seed 3: not trained yet" in Path("study/table.md").read_text()

    done = run("study.yaml")  # at once: after a kill its training is still saving
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs in study, 1 of them done" in done.stdout
    assert "resumed at step" in (folder.path / "output.txt").read_text()
    whole = run("study.yaml", "--only", "diverges", "--out", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    lines = [json.loads(line) for line in Path("study/runs.jsonl").read_text().splitlines()]
    (alone,) = [json.loads(line) for line in Path("whole/runs.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["balanced", "diverges"]
    for name in ("all", "few", "ece", "steps", "recipe", "command"):
        assert lines[1][name] == alone[name]
    assert run("study.yaml").stdout.startswith("2 runs in study, 2 of them done; ")


@pytest.mark.slow
def test_stale_runs_are_trained_again_when_asked(place):
    Path("study.yaml").write_text(REAL)
    assert run("study.yaml", "--only", "balanced").returncode == 0
    other = read_study(Path("study.yaml")).cells[1]
    other.recipe.model_copy(update={"seed": 7}).save(other.folder.recipe)
    Path("study.yaml").write_text(REAL.replace("optimizer.epochs=1", "optimizer.epochs=2"))
    refused = run("study.yaml", "--only", "balanced")
    assert "stale runs of the arms 'balanced' (1 runs; optimizer.epochs: 1 -> 2): undo" in refused.stderr
    done = run("study.yaml", "--redo", "--only", "balanced")
    assert done.returncode == 0, done.stdout + done.stderr
    assert other.folder.is_begun, "the other arm is not trained again, and so not deleted"
    assert "| seed 3: stale: seed: 7 -> 3 |" in Path("study/table.md").read_text()
    (line,) = [json.loads(line) for line in Path("study/runs.jsonl").read_text().splitlines()]
    assert line["steps"] == 19


@pytest.mark.slow
def test_a_trained_run_is_kept_and_gone_on_with_where_its_evaluation_failed(place, monkeypatch):
    Path("study.yaml").write_text(ONE)
    folder = RunFolder(Path("study/runs/species/balanced/seed3"))
    folder.evaluation("val").mkdir(parents=True)  # where a file should be written
    assert "seed 3: failed: " in run("study.yaml").stdout
    trained = folder.weights("last").stat().st_ino
    monkeypatch.setenv("FASTLT_COMMIT", "decade")
    assert "'balanced' (1 runs; commit: c0ffee -> decade)" in run("study.yaml").stderr
    assert "seed 3: failed: " in run("study.yaml", "--other-commits").stdout
    folder.evaluation("val").rmdir()
    done = run("study.yaml", "--other-commits")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [json.loads(line) for line in Path("study/runs.jsonl").read_text().splitlines()]
    assert line["commit"] == "c0ffee, decade"
    assert folder.weights("last").stat().st_ino == trained


@pytest.mark.slow
def test_an_evaluation_ends_with_its_study(place):
    Path("study.yaml").write_text(ONE)
    folder = RunFolder(Path("study/runs/species/balanced/seed3"))
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = start("study.out", "study.yaml")
        evaluation = wait_for_evaluation(process, "study.out")
        os.kill(process.pid, number)  # to this process, not to its group
        assert process.wait(timeout=60) == status
        deadline = time.monotonic() + 60
        while not is_over(evaluation):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not folder.evaluation("val").exists(), "an orphan went on"
        if number == signal.SIGTERM:
            assert "stopped; the same command goes on" in Path("study.out").read_text()
            assert "failed" not in json.loads((folder.path / "study.json").read_text())


def wait_for_evaluation(process: subprocess.Popen, out: str) -> psutil.Process:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, Path(out).read_text()
        assert time.monotonic() < deadline, Path(out).read_text()
        for child in psutil.Process(process.pid).children():
            if not is_over(child) and "evaluate" in child.cmdline() and catches_sigterm(process.pid):
                return child
        time.sleep(0.02)


def catches_sigterm(process: int) -> bool:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def is_over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_the_data_of_tin_wide_are_whole_though_their_extraction_was_cut_off(workshop, tmp_path):
    species = workshop.folder / "species"
    pairs = json.loads((species / "neighbors.json").read_text())
    unrelated = sorted(path.name for path in (species / "auxiliary").iterdir())[:2]
    pairs = {target: [name for name in names if name not in unrelated] for target, names in pairs.items()}
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("neighbors.json", json.dumps(pairs))
        for part, inside in (("train", "target/train"), ("val", "target/val"), ("auxiliary", "auxiliary")):
            for image in sorted((species / part).glob("*/*")):
                archive.write(image, Path(inside, image.relative_to(species / part)))
    whole = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut_off.zip").write_bytes(whole.replace(image.read_bytes(), image.read_bytes()[::-1]))

    def make(archive: str) -> str:
        command = [sys.executable, str(ROOT / "studies/tin_wide_data.py"), archive]
        return subprocess.run(command, cwd=tmp_path, env=with_support(), capture_output=True, text=True).stderr

    assert "BadZipFile: Bad CRC-32" in make("cut_off.zip")
    assert make("whole.zip") == ""
    assert make("whole.zip") == "", "finished data sets are not made again"
    neighbors = sorted({name for names in pairs.values() for name in names})
    for name, auxiliary in (("tin_wide", neighbors), ("tin_wide_unrelated24", unrelated)):
        space = EncodedDataset.open(tmp_path / "data" / name).label_space
        assert [*space.target_names] == sorted(pairs)
        assert [*space.auxiliary_names] == auxiliary
        assert [*space.counts][-1] == 9
    space = EncodedDataset.open(tmp_path / "data/tin_wide_neighbors24").label_space
    assert len(space.auxiliary_names) == 2
    assert {*space.auxiliary_names} < {*neighbors}


def test_the_commit_is_the_newest_that_changed_the_code(monkeypatch):
    monkeypatch.delenv("FASTLT_COMMIT", raising=False)
    assert commit("no-such-folder") == fastlt.__version__, "where it is installed, or copied without git"
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    command = ["git", "-C", str(ROOT), "log", "-1", "--abbrev=10", "--format=%h", "--", "fastlt", "kernels"]
    newest = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    assert re.fullmatch(rf"{newest}(-dirty-[0-9a-f]{{6}})?", commit("fastlt", "kernels"))


@pytest.mark.medium
def test_links_and_folders_that_git_does_not_have_change_the_commit_as_any_file(tmp_path):
    shutil.copytree(ROOT / "fastlt", tmp_path / "fastlt", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "sources"]):
        subprocess.run([*git, *words], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "FASTLT_COMMIT"}

    def told() -> str:
        command = [sys.executable, "-Bc", "from fastlt.provenance import commit; print(commit('fastlt'))"]
        environment["PYTHONPATH"] = str(tmp_path)
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = [told()]
    for name, target in (("to-a-folder", tmp_path), ("to-nothing", tmp_path / "absent")):
        (tmp_path / "fastlt" / name).symlink_to(target)
        found.append(told())
    subprocess.run(["git", "init", "-q", str(tmp_path / "fastlt" / "repository")], check=True)
    found.append(told())
    assert len(set(found)) == 4
    assert "-dirty-" not in found[0]


def test_our_studies_name_recipes_and_keys_that_are_known():
    files = sorted((ROOT / "studies").glob("*.yaml"))
    assert files
    for file in files:
        keys = validated(Study, read_mapping(file, "study"), str(file))
        beside = file.parent / keys.base
        for arm in keys.arms:
            load_recipe(
                str(beside) if beside.is_file() else keys.base, ["data.path=x", "output=y", *keys.words(arm, "x")]
            )


def test_runs_of_tin_wide_are_those_of_the_study_of_silencing_where_it_says_so():
    """So that the same trainings need not be done twice."""
    text = (ROOT / "studies" / "tin_wide" / "runs.jsonl").read_text()
    lines = {(line["arm"], line["seed"]): line for line in map(json.loads, text.splitlines())}
    file = ROOT / "studies" / "tin_wide_silencing.yaml"
    keys = validated(Study, read_mapping(file, "study"), str(file))
    for arm in list(keys.arms)[:2]:
        line = lines[arm, 0]
        words = ["data.path=x", "output=y", *keys.words(arm, "x"), f"optimizer.epochs={line['epochs']}"]
        recipe = load_recipe(keys.base, words)
        cell = Cell("tin_wide", arm, 0, keys.base, tuple(words), recipe, line["data_digest"], line["steps"], "val")
        assert cell.recipe_digest() == line["recipe"], arm
