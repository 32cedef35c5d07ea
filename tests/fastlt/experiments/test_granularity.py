"""`fastlt granularity`: cuts of taxonomies, who gets which images, figures computed by hand, bad input, real runs."""

import csv
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fastlt.cli import main
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.dataset.encoded import EncodedDataset
from fastlt.demo.species import DrawnSize, draw_dataset
from fastlt.experiments.granularity.clusters import _tree
from fastlt.experiments.granularity.design import read_design
from fastlt.experiments.granularity.findings import Findings
from fastlt.experiments.granularity.granularity import conclude, prepare
from fastlt.experiments.granularity.judging import Judged
from fastlt.experiments.granularity.options import GranularityOptions
from fastlt.experiments.granularity.taxonomy import cut, levels_of
from fastlt.experiments.study_file import read_study
from fastlt.run_folder import hold
from support.workshop import RECIPE

IMAGES = Path("species/train")
SMALL = RECIPE.replace("epochs: 2", "epochs: 1")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Twelve species of four genera, 20 images each, and what lies above them."""
    folder = tmp_path_factory.mktemp("granularity")
    size = DrawnSize(
        genera=4, targets=3, auxiliaries=1, most=20, fewest=20, auxiliary_images=1, val_images=1, pixels=32
    )
    draw_dataset(folder / "species", size)
    names = sorted(path.name for path in (folder / IMAGES).iterdir())
    above = {name: [name[:7], "round" if name < "genus02" else "pointed", "shape"] for name in names}
    (folder / "taxonomy.json").write_text(json.dumps(above))
    (folder / "recipe.yaml").write_text(SMALL)
    return folder


@pytest.fixture
def place(drawn, tmp_path, monkeypatch) -> Path:
    """A folder with them, where commands are typed."""
    for path in drawn.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTLT_COMMIT", "c0ffee")
    return tmp_path


def options(**changed) -> GranularityOptions:
    given = {"taxonomy": Path("taxonomy.json"), "levels": (4,), "base": "recipe.yaml", "ratios": (4.0,), "seeds": 2}
    return GranularityOptions(**given | {"out": Path("out")} | changed)


def words(*more: str) -> list[str]:
    given = ["granularity", str(IMAGES), "--taxonomy", "taxonomy.json", "--levels", "4", "--base", "recipe.yaml"]
    return [*given, "--ratios", "4", "--seeds", "1", "--out", "out", *more]


def write(taxonomy: object, file: str | Path = "other.json") -> Path:
    Path(file).write_text(json.dumps(taxonomy))
    return Path(file)


@pytest.mark.parametrize(
    ("asked", "found"),
    [([2], [2, 12]), ([4], [4, 12]), ([2, 4, 12], [2, 4, 12]), ([3], [3, 12]), ([5], [4, 12]), ([11], [10, 12])],
)
def test_a_level_is_the_cut_that_is_nearest(place, asked, found):
    levels = read_design(IMAGES, options(levels=tuple(asked))).levels
    assert [len(level) for level in levels] == found
    if found[0] == 2:
        assert set(levels[0].groups) == {"round", "pointed"}
    if found[0] == 4:
        assert levels[0].groups["genus02"] == tuple(f"genus02_species{i}" for i in range(3))


def test_small_branches_become_one_group(tmp_path):
    """As in WordNet, where single classes hang beside large branches at every height."""
    above = {f"dog{i}": ["dog", "mammal", "animal", "thing"] for i in range(8)}
    above |= {f"cat{i}": ["cat", "mammal", "animal", "thing"] for i in range(8)}
    above |= {"eel": ["fish", "animal", "thing"], "ant": ["insect", "animal", "thing"], "web": ["thing"]}
    above |= {f"cup{i}": ["vessel", "thing"] for i in range(6)} | {"hat": ["thing"]}
    file = tmp_path / "taxonomy.json"
    file.write_text(json.dumps(above))
    (coarse, fine) = levels_of(file, dict.fromkeys(above, 10), [4])
    assert {group: len(classes) for group, classes in coarse.groups.items()} == {
        "dog": 8, "cat": 8, "vessel": 6, "other thing": 4,
    }  # fmt: skip
    assert set(coarse.groups["other thing"]) == {"eel", "ant", "web", "hat"}
    assert len(fine) == len(above)


def test_levels_have_every_class_once_and_lie_inside_each_other(tmp_path):
    file, tried = tmp_path / "taxonomy.json", 0
    for seed in range(60):
        draw = random.Random(seed)
        names = {f"c{i}": [draw.randint(0, 3) for _ in range(draw.randint(0, 5))] for i in range(draw.randint(6, 60))}
        above = {name: ["".join(map(str, path[:n])) for n in range(len(path), 0, -1)] for name, path in names.items()}
        file.write_text(json.dumps(above))
        images = {name: draw.randint(1, 40) for name in names}
        try:
            levels = levels_of(file, images, [3, len(names) // 2])
        except ValueError as error:
            if re.search("both come out as|leads to one group only", str(error)):
                continue
            raise
        tried += 1
        for level in levels:
            assert sorted(name for classes in level.groups.values() for name in classes) == sorted(names)
        for coarse, fine in itertools.pairwise(levels):
            assert 1 < len(coarse) < len(fine)
            for classes in fine.groups.values():
                assert len({coarse.group_of[name] for name in classes}) == 1
    assert tried > 30


def test_as_many_classes_as_inaturalist_has_are_cut_in_seconds(tmp_path):
    above = {f"s{i}": [f"g{i // 2}", f"f{i // 8}", f"o{i // 40}", f"c{i // 400}", f"p{i // 2000}"] for i in range(8142)}
    started = time.process_time()
    levels = levels_of(write(above, tmp_path / "taxonomy.json"), dict.fromkeys(above, 10), [1500])
    assert abs(len(levels[0]) - 1500) < 10
    assert time.process_time() - started < 10, "it took a minute when each split was tried for each group"


def test_clusters_are_of_prototypes_that_are_alike():
    pytest.importorskip("sklearn")
    names = [f"c{i}" for i in range(12)]
    random = np.random.default_rng(0)
    middles = np.array([[1, 0, 0, 0.2], [1, 0, 0.2, 0], [0, 1, 0, 0.1], [0, 1, 0.3, 0]])  # two pairs of groups
    prototypes = middles[np.arange(12) % 4] + random.normal(0, 0.01, (12, 4))
    images = dict.fromkeys(names, 10)
    levels = cut(_tree(prototypes, images), images, [2, 4])
    found = [sorted(sorted(int(name[1:]) % 4 for name in of) for of in level.groups.values()) for level in levels]
    assert found == [[[0] * 3 + [1] * 3, [2] * 3 + [3] * 3], [[0] * 3, [1] * 3, [2] * 3, [3] * 3]]
    for group, classes in levels[1].groups.items():
        rows = prototypes[[int(name[1:]) for name in classes]]
        nearest = np.argmax(rows @ rows.mean(0))
        assert group == f"like {classes[nearest]}"


@pytest.mark.medium
def test_without_a_taxonomy_classes_are_clustered_and_the_page_says_that_this_is_second_best(place, capsys):
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), "weights.pth")
    clusters = ["--clusters", "test_resnet", "--cluster-weights", "weights.pth"]
    assert main([*without_taxonomy(), *clusters, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "clusters of classes whose images look alike to test_resnet at 160 px. That is second best: such" in said
    assert "level of 4, asked for 4: like genus0" in said
    assert [path.name for path in Path("out").iterdir()] == ["embeddings"]
    (kept,) = Path("out").rglob("*.rows")
    size, features = kept.stat().st_size, timm.create_model("test_resnet").num_features
    assert size == 12 * 16 * (2 * 8 + 2 * features), "those held out are not looked at"
    given = {"taxonomy": None, "clusters": "test_resnet", "cluster_weights": Path("weights.pth"), "seeds": 1}
    design = read_design(IMAGES, options(**given))
    assert kept.stat().st_size == size, "nothing is looked at twice"
    prepare(design, [], options(**given), EncodeOptions(format="plain"))
    conclude(design, options(**given))
    assert "test_resnet at 160 px. That is second best" in Path("out/granularity.html").read_text()


def without_taxonomy() -> list[str]:
    given = words()
    return [*given[:2], *given[4:]]


def test_what_cannot_be_clustered_is_one_sentence(place, capsys):
    pytest.importorskip("sklearn")
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text(SMALL)
    for more, sentence in (
        ([], "say what groups classes: --taxonomy FILE or, as second best, --clusters MODEL, one of the two."),
        (["--clusters", "test_resnet", "--taxonomy", "taxonomy.json"], "one of the two."),
        (["--taxonomy", "taxonomy.json", "--cluster-weights", "w"], "--cluster-weights are for --clusters MODEL"),
        (["--clusters", "resnet81"], "timm has no model 'resnet81'"),
        (["--clusters", "test_resnet", "--cluster-weights", "nowhere"], "nowhere"),
        (["--clusters", "run", "--cluster-weights", "w"], "--clusters run is a run with weights of its own"),
        (["--clusters", "test_resnet", "--levels", "13"], "--levels 13: there are only 12 classes."),
    ):
        assert main([*without_taxonomy(), *more]) == 1, more
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1
        assert not Path("out").exists()


def test_inaturalist_ranks_are_a_taxonomy(place):
    ranks = {"kingdom": "Plantae", "phylum": "Shape", "class": "Shape", "genus": ""}
    names = sorted(path.name for path in IMAGES.iterdir())
    categories = [
        {"id": i, "name": name, "order": "round" if i < 6 else "pointed", "family": name[:7]} | ranks
        for i, name in enumerate(names)
    ]
    file = write({"images": [], "categories": categories})
    assert [len(level) for level in read_design(IMAGES, options(taxonomy=file, levels=(2, 4))).levels] == [2, 4, 12]
    assert len(levels_of(file, {str(i): 9 for i in range(12)}, [2])[0]) == 2, "folders may be called after ids"


def test_every_version_has_as_many_images_and_every_level_the_same_ones(place):
    design = read_design(IMAGES, options(ratios=(1.0, 4.0, 10.0)))
    assert list(design.versions) == [1.0, 4.0, 10.0]
    assert {name: len(images) for name, images in design.held_out.items()} == dict.fromkeys(design.held_out, 4)
    # Four groups of 3 x 16 images; at a ratio of 10 the shares are 1, 0.464, 0.215, 0.1 of the largest: 85 in all.
    assert design.num_images == 85
    assert list(design.counts(design.common, 10.0).values()) == [48, 22, 10, 5]
    assert list(design.counts(design.common, 1.0).values()) == [22, 21, 21, 21]
    for ratio in design.versions:
        at_each = [{path for of in design.images(level, ratio).values() for path in of} for level in design.levels]
        assert at_each[0] == at_each[1]
        assert len(at_each[0]) == 85
        assert not at_each[0] & {path for of in design.held_out.values() for path in of}
        for classes in design.common.groups.values():
            numbers = [len(design.versions[ratio][name]) for name in classes]
            assert max(numbers) - min(numbers) <= 1
    assert design.shot_groups == {"many": [0], "medium": [1, 2], "few": [3]}
    again = read_design(IMAGES, options(ratios=(1.0, 4.0, 10.0)))
    assert again == design, "nothing is drawn anew"


def judged(accuracy: float) -> Judged:
    return Judged("x", [accuracy + 6, accuracy, accuracy, accuracy - 6], [accuracy] * 4, 2.0, 3.0)


def test_costs_are_those_computed_by_hand(place, tmp_path):
    design = read_design(IMAGES, options())
    figures = {(1.0, 4): (60, 62, 64), (4.0, 4): (48, 51, 51), (1.0, 12): (61, 63, 65), (4.0, 12): (56, 57, 58)}
    runs = {(*key, seed): judged(value) for key, of in figures.items() for seed, value in enumerate(of)}
    found = Findings(design, runs)
    # Costs 12, 11, 13 and 5, 6, 7: sd 1, and t of two degrees of freedom 4.30265. Differences 7, 5, 6.
    half = f"{4.30265 / 3**0.5:.1f}"
    assert found.sentence(4.0) == (
        f"At a ratio of 4, imbalance costs 12.0 ± {half} points with 4 classes and 6.0 ± {half} with 12: "
        f"6.0 ± {half} less."
    )
    found.write_csv(tmp_path / "found.csv")
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    assert [(row["ratio"], row["classes"], row["seeds"]) for row in rows] == [
        ("1", "4", "3"), ("1", "12", "3"), ("4", "4", "3"), ("4", "12", "3"),
    ]  # fmt: skip
    assert [float(rows[2][f"{name}_accuracy"]) for name in ("all", "many", "medium", "few")] == [50, 56, 50, 44]
    assert float(rows[2]["few_cost_half"]) == pytest.approx(4.30265 / 3**0.5, abs=1e-4)
    assert (rows[0]["all_cost"], rows[1]["all_saved"], rows[2]["all_saved"]) == ("", "", "")
    assert [float(rows[3][f"all_{part}"]) for part in ("saved", "saved_half")] == pytest.approx(
        [6, 4.30265 / 3**0.5], abs=1e-4
    )
    runs[4.0, 12, 2] = judged(40)
    assert ", which may be chance: 0 is within the interval." in found.sentence(4.0)
    for seed, value in enumerate((55, 58, 58)):  # costs 6, 5, 7: each 6 less
        runs[4.0, 12, seed] = judged(value)
    assert found.sentence(4.0).endswith(
        "6.0 ± 0.0 less, which may be chance: all seeds differ by the same, so there is no interval."
    )
    one = Findings(design, {key: value for key, value in runs.items() if key[2] == 0})
    assert one.sentence(4.0).endswith("6.0 with 12: 6.0 less (one seed: there are no intervals).")
    assert Findings(design, {}).sentence(4.0) == "At a ratio of 4, runs are missing: nothing can be said."


def finish(file: Path, seed: int) -> None:
    """Makes the runs of a study without training: models as they begin, judged by `fastlt evaluate`."""
    from fastlt.classifier import Classifier

    for cell in read_study(file, Path("out/study")).cells:
        if cell.seed == seed:
            folder, space = cell.folder, EncodedDataset.open(cell.recipe.data.path).label_space
            folder.path.mkdir(parents=True)
            cell.recipe.save(folder.recipe)
            space.save(folder.label_space)
            torch.manual_seed(len(space.names))
            model = Classifier(cell.recipe, space)
            torch.nn.init.normal_(model.head.weight)
            about = {"label_space": space.digest(), "epoch": 1, "step": 1}
            folder.save_weights(model.state_dict(), "last", about)
            assert main(["evaluate", str(folder.path)]) == 0


@pytest.mark.medium
def test_fine_predictions_are_judged_at_the_common_level_and_the_page_shows_them(place, capsys):
    from fastlt.evaluation.finished_run import FinishedRun

    given = options()
    design = read_design(IMAGES, given)
    file = prepare(design, [], given, EncodeOptions(format="plain"))
    for level in design.levels:  # what is encoded stands in the order in which the judge expects it
        names = EncodedDataset.open(Path(f"out/data/ratio4_{len(level)}")).image_names("train")
        images = [path for of in design.images(level, 4.0).values() for path in of]
        assert [Path(name).resolve() for name in names] == [path.resolve() for path in images]
    conclude(design, given)
    assert "At a ratio of 4, runs are missing: nothing can be said." in capsys.readouterr().out
    finish(file, seed=0)
    conclude(design, given)
    assert "(one seed: there are no intervals)" in capsys.readouterr().out

    folder = Path("out/study/runs/ratio4_4/trained/seed0")
    found = json.loads((folder / "common_level.json").read_text())
    evaluated = json.loads((folder / "evaluation_val.json").read_text())
    assert found["summed"] == found["top"] == evaluated["per_class"], "at the common level itself nothing is added up"

    folder = Path("out/study/runs/ratio4_12/trained/seed0")
    found = json.loads((folder / "common_level.json").read_text())
    features, logits = FinishedRun(folder).predict("val")
    assert features.shape == (48, 16)
    right = {group: [] for group in design.common.groups}
    top = {group: [] for group in design.common.groups}
    classes = list(design.levels[-1].groups)
    truths = [name for name in classes for _ in design.held_out[name]]
    for name, row in zip(truths, logits.double().softmax(1), strict=True):
        sums = dict.fromkeys(design.common.groups, 0.0)
        for other, probability in zip(classes, row.tolist(), strict=True):
            sums[design.common.group_of[other]] += probability
        truth = design.common.group_of[name]
        right[truth].append(max(sums, key=lambda group: sums[group]) == truth)
        top[truth].append(design.common.group_of[classes[int(row.argmax())]] == truth)
    assert found["summed"] == pytest.approx([100 * np.mean(of) for of in right.values()])
    assert found["top"] == pytest.approx([100 * np.mean(of) for of in top.values()])
    groups = np.array([design.common.group_of[name] for name in truths])
    rows = features.double().numpy()
    means = {group: rows[groups == group].mean(0) for group in design.common.groups}
    within = sum(((row - means[group]) ** 2).sum() for row, group in zip(rows, groups, strict=True))
    between = sum(((means[group] - rows.mean(0)) ** 2).sum() for group in groups)
    assert found["spread"] == pytest.approx(within / between)

    page = Path("out/granularity.html").read_text()
    assert page.count("<img src='data:image/png;base64,") == (4 if find_spec("sklearn") else 3)
    assert "src='http" not in page
    assert "/recipe.yaml. study/runs.jsonl has commit" in page
    assert ("pip install" in page) == (not find_spec("sklearn"))
    assert len(Path("out/granularity.csv").read_text().splitlines()) == 5
    runs = list(csv.DictReader(Path("out/runs.csv").read_text().splitlines()))
    assert [(run["ratio"], run["classes"], run["seed"]) for run in runs] == [
        (ratio, classes, "0") for ratio in ("1", "4") for classes in ("4", "12")
    ]
    last = [float(runs[-1][name]) for name in ("all_accuracy", "all_top_accuracy", "spread")]
    assert last == pytest.approx([np.mean(found["summed"]), np.mean(found["top"]), found["spread"]], abs=1e-4)


@pytest.mark.medium
def test_data_sets_of_another_command_are_not_taken(place):
    design = read_design(IMAGES, options())
    prepare(design, [], options(), EncodeOptions(format="plain"))
    before = Path("out/data/ratio1_4/manifest.json").stat().st_mtime_ns
    prepare(design, ["optimizer.epochs=3"], options(), EncodeOptions(format="plain", workers=1))
    assert Path("out/data/ratio1_4/manifest.json").stat().st_mtime_ns == before
    other = read_design(IMAGES, options(hold_out=5))
    with pytest.raises(ValueError, match="ratio1_4 was made of other images, labels or settings: repeat that command"):
        prepare(other, [], options(), EncodeOptions(format="plain"))
    prepare(other, [], options(), EncodeOptions(format="plain"), redo=True)
    assert EncodedDataset.open(Path("out/data/ratio1_4")).split("val").counts == [15] * 4


@pytest.mark.medium
def test_a_data_set_that_a_kill_left_half_deleted_is_not_taken(place, monkeypatch):
    prepare(read_design(IMAGES, options()), [], options(), EncodeOptions(format="plain"))
    other = read_design(IMAGES, options(hold_out=5))
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(other, [], options(), EncodeOptions(format="plain"), redo=True)
    with pytest.raises(ValueError, match="ratio1_4 was made of other images, labels or settings"):
        prepare(read_design(IMAGES, options()), [], options(), EncodeOptions(format="plain"))


def killed(folder: Path) -> None:
    next(folder.iterdir()).unlink()
    raise KeyboardInterrupt


def test_the_plan_says_what_would_be_done_and_does_nothing(place, capsys):
    assert main(words("optimizer.epochs=3", "--plan", "--levels", "2", "5")) == 0
    out = capsys.readouterr().out
    assert "level of 2, asked for 2: round (6 classes), pointed (6 classes)\n" in out
    assert "level of 4, asked for 5: genus00 (3 classes), " in out
    assert "level of 12, the classes themselves\n" in out
    # Two groups of 96 images, of which the smaller gets a quarter: 120, three epochs of which are 23 batches of 16.
    assert "120 training images in each version, 48 held out; judged as 2\n" in out
    assert "6 trainings (3 levels x 2 versions x 1 seeds) of 23 steps each, 138 in all\n" in out
    assert "warning: one seed gives no intervals" in out
    assert not Path("out").exists()


def test_two_studies_in_one_folder_are_one_too_many(place, capsys):
    held = hold(Path("out"))
    assert main(words()) == 1
    os.close(held)
    assert "another study is running in out: wait, or name another folder" in capsys.readouterr().err
    assert not Path("out/data").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--levels", "1"], "--levels 1: with fewer than two classes there is nothing to tell apart."),
        (["--levels", "13"], "--levels 13: there are only 12 classes."),
        (["--levels", "12"], "--levels names no level that is coarser than the 12 classes: give one."),
        (["--levels", "4", "5"], "--levels 5 and 4 both come out as 4 groups: leave one out."),
        (["--ratios", "0.5"], "--ratios 0.5: give numbers from 1 on."),
        (["--ratios", "4", "4.0000001"], "--ratios has two numbers that are 4 to six digits: leave one out."),
        (["--ratios", "1"], "--ratios names no imbalance: give a number above 1."),
        (["--ratios", "40"], "at a ratio of 40, 'genus03' gets 1 training images for its 3 classes: give smaller"),
        (
            ["--hold-out", "20"],
            "class 'genus00_species0' has 20 images: 20 held out to judge by leave none to train on.",
        ),
        (["--hold-out", "0"], "--hold-out is 0; nothing could be judged: give 1 or more."),
        (["--seeds", "0"], "--seeds is 0; give 1 or more, and 2 or more to have intervals."),
        (["--taxonomy", "nowhere.json"], "there is no taxonomy at nowhere.json."),
        (["--taxonomy", "recipe.yaml"], "the taxonomy recipe.yaml is no JSON"),
        (["--base", "nowhere.yaml"], "there is no recipe 'nowhere.yaml'"),
        (["--skip-broken"], "--skip-broken would take images from some labels alone"),
        (["seed=3"], "seed=3: data.path, output and seed are set for each training: leave them out."),
        (["optimizer.epoch=3"], "unknown key 'optimizer.epoch'; did you mean optimizer.epochs?"),
        (["model.name=resnet81"], "model.name=resnet81: timm has no such model"),
        (["model.tune=adaptformer"], "model.tune=adaptformer finds no transformer block"),
        (["optimizer.batch_size=2048", "--plan"], "images, fewer than one batch of 2048: lower optimizer.batch_size."),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(place, capsys, more, sentence):
    _refused(capsys, more, sentence)


def _refused(capsys, more: list[str], sentence: str) -> None:
    assert main(words(*more)) == 1
    err = capsys.readouterr().err
    assert sentence in err
    assert err.startswith("fastlt: error: ")
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_a_bad_taxonomy_is_one_sentence(place, capsys):
    above = json.loads(Path("taxonomy.json").read_text())
    one, *others = above
    for taxonomy, sentence in (
        ({name: above[name] for name in others}, "other.json lacks 1 of the 12 classes: genus00_species0."),
        (above | {one: ["genus00", "shape", "round"]}, "other.json goes in a circle: "),
        (above | {one: ["genus00", one]}, "other.json goes in a circle: "),
        ({name: ["living", "shape"] for name in above}, "other.json leads to one group only: it has nothing between"),
        ({name: [] for name in above}, "other.json leads to one group only"),
        (dict.fromkeys(above, "shape"), "other.json is no taxonomy: it must be"),
        ({name: [3] for name in above}, "other.json is no taxonomy: it must be"),
        (above | {one: [f"x{i}" for i in range(9999)]}, "with up to 100 names above a class, none of them empty."),
        ([1], "other.json is no taxonomy: it must be"),
        (above | {one: ["", "shape"]}, "other.json is no taxonomy: it must be"),
        ({"categories": [3]}, "other.json lacks 12 of the 12 classes"),
        (above | {one: ["\x1b[31mred"]}, "is no name of a class"),
    ):
        write(taxonomy)
        _refused(capsys, ["--taxonomy", "other.json"], sentence)
    assert main(["granularity", "nowhere", *words()[2:]]) == 1
    assert "nowhere, does not exist" in capsys.readouterr().err


def run(*more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fastlt", *words(*more)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_it_is_killed_and_goes_on_and_names_what_is_stale(place):
    with Path("first.out").open("w") as stream:
        command = [sys.executable, "-m", "fastlt", *words()]
        first = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    deadline = time.monotonic() + 300
    while "[2/4]" not in Path("first.out").read_text():
        assert first.poll() is None, Path("first.out").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 runs in out/study, 1 of them done" in done.stdout
    assert "At a ratio of 4, imbalance costs" in done.stdout
    assert "written: out/granularity.csv, out/runs.csv, out/granularity.html" in done.stdout
    table = Path("out/granularity.csv").read_text()
    steps = [json.loads(line)["steps"] for line in Path("out/study/runs.jsonl").read_text().splitlines()]
    assert len(set(steps)) == 1
    assert "4 runs in out/study, 4 of them done" in run().stdout
    assert Path("out/granularity.csv").read_text() == table
    stale = run("optimizer.epochs=2")
    assert stale.returncode == 1
    assert "stale runs of the arms 'trained' (4 runs; optimizer.epochs: 1 -> 2)" in stale.stderr
