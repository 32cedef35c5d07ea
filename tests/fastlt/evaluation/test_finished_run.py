"""What users do with a run: evaluate, export to plain timm, report."""

import csv
import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms

from bench.inputs.hostile_images import eps_that_writes
from fastlt.data_prep.filter.embed import run_encoder
from fastlt.evaluation.export import export
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.run_folder import RunFolder

pytestmark = pytest.mark.medium

# As a colleague would use it, who has timm and not fastlt.
WITH_ITS_OWN_LINES = """
import json, sys
from pathlib import Path
import torch
from PIL import Image
sys.path.insert(0, sys.argv[1])
from load import about, model, transform
correct = total = 0
for label, name in enumerate(about["labels"]):
    for file in sorted(Path(sys.argv[2], name).iterdir()):
        with torch.no_grad():
            correct += int(model(transform(Image.open(file).convert("RGB"))[None]).argmax() == label)
        total += 1
print(json.dumps({"correct": correct, "total": total, "fastlt": "fastlt" in sys.modules}))
"""


def test_export_gives_the_same_top1_in_plain_timm(workshop, trained):
    done = workshop.fastlt("evaluate", "trained")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((trained / "evaluation_val.json").read_text())
    done = workshop.fastlt("export", "trained", "--out", "exported")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-c", WITH_ITS_OWN_LINES, "exported", "species/val"]
    found = json.loads(subprocess.run(command, cwd=workshop.folder, capture_output=True, text=True).stdout)
    assert found["total"] == evaluation["num_images"] == 45
    assert found["fastlt"] is False
    assert evaluation["top1"] == pytest.approx(100 * found["correct"] / found["total"], abs=1e-9)


@pytest.mark.slow
def test_five_crops_are_those_of_torchvision(workshop, trained):
    """Of an image that is square, as the drawn ones are: LIFT's Resize and FiveCrop, with the mean of their logits."""
    done = workshop.fastlt("evaluate", "trained", "--ensemble")
    assert done.returncode == 0, done.stderr
    assert ", 45 images, float32, five crops each" in done.stdout
    evaluation = json.loads((trained / "evaluation_val.json").read_text())
    assert evaluation["crops"] == 5
    run = FinishedRun(trained)
    size = run.recipe.data.image_size
    crops = transforms.Compose(
        [
            transforms.Resize(round(size * 31 / 28), transforms.InterpolationMode.BICUBIC),
            transforms.FiveCrop(size),
            transforms.Lambda(lambda images: torch.stack([transforms.functional.to_tensor(image) for image in images])),
            transforms.Normalize(*run.model.normalization),
        ]
    )
    correct = []
    for label, name in enumerate(run.label_space.target_names):
        for file in (workshop.folder / "species" / "val" / name).iterdir():
            with torch.no_grad():
                logits = run.model(crops(Image.open(file).convert("RGB"))).mean(0)
            correct.append(int(logits[: run.label_space.num_targets].argmax()) == label)
    assert evaluation["top1"] == pytest.approx(100 * sum(correct) / len(correct), abs=1e-9)
    assert workshop.fastlt("evaluate", "trained").returncode == 0  # what other tests read
    assert json.loads((trained / "evaluation_val.json").read_text())["crops"] == 1


def test_export_names_what_an_image_shows(workshop, trained):
    """The command that `fastlt export` prints; its files may be read by whoever may read others of the same user."""
    done = workshop.fastlt("export", "trained", "--out", "for_colleagues")
    assert "try it:  python for_colleagues/load.py IMAGE" in done.stdout
    image = next((workshop.folder / "species" / "val" / "genus00_species0").iterdir())
    command = [sys.executable, "for_colleagues/load.py", str(image)]
    named = subprocess.run(command, cwd=workshop.folder, capture_output=True, text=True)
    assert named.returncode == 0, named.stderr
    scores = [float(line.split()[0]) for line in named.stdout.splitlines()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    named = subprocess.run(command[:2], cwd=workshop.folder, capture_output=True, text=True)
    assert named.stderr == "usage: python for_colleagues/load.py IMAGE\n"
    (workshop.folder / "gs").write_text("#!/bin/sh\ntouch started\n")
    (workshop.folder / "gs").chmod(0o755)
    (workshop.folder / "eps.jpg").write_bytes(eps_that_writes(workshop.folder / "started"))
    path = os.environ | {"PATH": f"{workshop.folder}{os.pathsep}{os.environ['PATH']}"}
    named = subprocess.run([*command[:2], "eps.jpg"], cwd=workshop.folder, capture_output=True, text=True, env=path)
    assert "cannot identify image file" in named.stderr
    assert not (workshop.folder / "started").exists()
    ordinary = workshop.folder / "ordinary"
    ordinary.write_text("")
    files = {path.name: path for path in (workshop.folder / "for_colleagues").iterdir()}
    assert set(files) >= {"model.safetensors", "model.json", "load.py"}
    for name in ("model.safetensors", "model.json", "load.py"):
        assert stat.S_IMODE(files[name].stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_several_runs_are_evaluated_at_once(workshop, trained):
    done = workshop.fastlt("evaluate", "trained", "trained")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained, last weights (epoch 2), val, 45 images, float32") == 2
    done = workshop.fastlt("evaluate", "trained", "nowhere")
    assert "nowhere is not a run" in done.stderr
    assert done.stdout == ""
    assert "name a run" in workshop.fastlt("evaluate").stderr


def test_per_class_csv_and_report(workshop, trained):
    assert workshop.fastlt("evaluate", "trained").returncode == 0
    rows = list(csv.DictReader((trained / "per_class_val.csv").open()))
    evaluation = json.loads((trained / "evaluation_val.json").read_text())
    assert len(rows) == 9
    assert sum(float(r["accuracy"]) for r in rows) / 9 == pytest.approx(evaluation["all"], abs=0.01)
    done = workshop.fastlt("report", "trained", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    page = (workshop.folder / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 8
    assert "waiting for data, %" in page
    assert "Not here" not in page
    assert page.count("data:image/jpeg;base64,") == page.count("<figcaption>") > 4
    assert len(page) < 1_500_000
    (workshop.folder / "sheet.html").write_text('<script>alert("from the web")</script>')
    done = workshop.fastlt("report", "trained", "--out", "page.html", "--sheet", "sheet.html")
    assert done.returncode == 0, done.stderr
    page = (workshop.folder / "page.html").read_text()
    assert "<iframe sandbox srcdoc=" in page
    assert "<script>" not in page
    assert "no contact sheet at" in workshop.fastlt("report", "trained", "--sheet", "nowhere.html").stderr


def test_a_report_says_what_an_older_evaluation_lacks(workshop, trained):
    """One from before mistakes and bins were kept, then no evaluation at all, then one of other weights."""
    assert workshop.fastlt("evaluate", "trained").returncode == 0
    old = workshop.folder / "old"
    shutil.copytree(trained, old)
    found = json.loads((old / "evaluation_val.json").read_text())
    mistakes = (old / "mistakes_val.json").read_text()

    def page() -> str:
        done = workshop.fastlt("report", "old", "trained", "old", "--out", "page.html")
        assert done.returncode == 0, done.stderr
        return (workshop.folder / "page.html").read_text()

    (old / "mistakes_val.json").unlink()
    (old / "evaluation_val.json").write_text(json.dumps({n: v for n, v in found.items() if n != "bins"}))
    said = page()
    assert said.count("<code>fastlt evaluate old") == 3, "mistakes, calibration, worst classes"
    assert "tells accuracies class by class" not in said
    (old / "evaluation_val.json").write_text(json.dumps(found | {"per_class": [100.0] * 9}))
    (old / "mistakes_val.json").write_text(mistakes)
    assert page().count("<code>fastlt evaluate old") == 2, "mistakes, worst classes"
    (old / "evaluation_val.json").unlink()
    assert page().count("<code>fastlt evaluate old") == 4
    log = [json.loads(line) for line in (old / "log.jsonl").read_text().splitlines()]
    for record in log:
        record.pop("silenced_mass", None)
    (old / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    assert workshop.fastlt("report", "old", "--out", "page.html").returncode == 0
    assert "No log tells it" in (workshop.folder / "page.html").read_text()


def test_a_report_without_the_data_set_has_no_pictures_and_says_so(workshop, trained):
    assert workshop.fastlt("evaluate", "trained").returncode == 0
    shutil.copytree(trained, workshop.folder / "moved")
    file = workshop.folder / "moved" / "mistakes_val.json"
    written = json.loads(file.read_text())
    twice = [2 * number for number in written["images"]]
    beyond = [[place + 45, label, other] for place, label, other in written["mistakes"]]
    for changed, sentence in (
        ({"images": twice, "mistakes": [*written["mistakes"], *beyond]}, "encoded was encoded again since moved was"),
        ({"data": "gone/<b>"}, "the data set of moved is not at gone/&lt;b&gt; any more"),
        ({"sha256": "0"}, "encoded was encoded again since moved was evaluated: evaluate again."),
    ):
        file.write_text(json.dumps(written | changed))
        done = workshop.fastlt("report", "moved", "--out", "page.html")
        assert done.returncode == 0, done.stderr
        page = (workshop.folder / "page.html").read_text()
        assert sentence in page
        assert "taken most for" in page
        assert "image/jpeg" not in page


def test_runs_of_one_name_are_told_apart(workshop, trained):
    for folder in ("a", "b"):
        shutil.copytree(trained, workshop.folder / folder / "run")
    done = workshop.fastlt("report", "a/run", "b/run", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["a/run", "b/run"]
    page = (workshop.folder / "page.html").read_text()
    assert page.count("<th>a/run") == page.count("<th>b/run") == 2, "a row of accuracy, and one of speed"
    assert page.count(", a/run<td>") == page.count(", b/run<td>") > 0, "rows of mistakes"


def test_damaged_weights_and_checkpoints_are_a_sentence(workshop, trained):
    copy = workshop.folder / "damaged-run"
    shutil.copytree(trained, copy)
    for name in ("last", "best"):
        with (copy / f"{name}.safetensors").open("r+b") as file:
            file.truncate(1000)
    for command in ("evaluate", "export"):
        done = workshop.fastlt(command, "damaged-run")
        assert done.returncode == 1
        assert "last.safetensors is damaged" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(workshop, trained):
    """What kinds of damage there are stands in tests/fastlt/training/test_checkpoints.py."""
    copy = workshop.folder / "damaged checkpoint"
    shutil.copytree(trained, copy)
    older, newest = sorted((copy / "checkpoints").iterdir())
    weights = next(newest.glob("mp_rank_00*"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    again = ["train", "recipe.yaml", "data.path=encoded", f"output={copy.name}", "--resume", "--ranks", "2"]
    done = workshop.fastlt(*again)
    assert done.returncode == 0, done.stderr
    assert f"{newest.name} is damaged (" in done.stdout
    assert f"from {copy.name}/checkpoints/{older.name}" in done.stdout
    weights, expected = (load_file(run / "last.safetensors") for run in (copy, trained))
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(expected[name]) for name in expected)
    assert [path.name for path in sorted((copy / "checkpoints").glob("step-*"))] == [older.name, newest.name]

    for checkpoint in (copy / "checkpoints").glob("step-*"):
        (checkpoint / "progress.json").unlink()
    done = workshop.fastlt(*again)
    assert done.returncode == 1
    assert f"no checkpoint of {copy.name} is whole" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_data_set_that_was_encoded_again_is_told(workshop, trained):
    shutil.copytree(trained, workshop.folder / "data-changed")
    assert workshop.encode("encoded_smaller", "--max-resolution", "24").returncode == 0
    again = ["train", "recipe.yaml", "output=data-changed", "--resume", "--ranks", "1"]
    sentence = "the data set was encoded again since, from other images or with other settings"
    assert sentence not in workshop.fastlt(*again, "data.path=encoded").stdout
    assert sentence in workshop.fastlt(*again, "data.path=encoded_smaller").stdout


def test_log_has_what_people_look_for(trained):
    records = RunFolder(trained).records()
    train = [r for r in records if r["kind"] == "train"]
    assert [r["step"] for r in train] == list(range(1, len(train) + 1))
    speed = {"images_per_s", "data_wait", "step_ms", "step_ms_p95", "memory_gb"}
    assert {"loss", "lr", "epoch"} | speed <= set(train[0])
    masses = [r["silenced_mass"] for r in train if "silenced_mass" in r]
    assert len(masses) > len(train) / 2, "a batch may have no target"
    assert all(0 < mass < 1 for mass in masses)
    assert [set(r) for r in records if r["kind"] == "summary"] == [{"kind", "step"} | speed]
    assert [r["epoch"] for r in records if r["kind"] == "eval"] == [1, 2]


def test_wrong_runs_end_with_one_sentence(workshop, trained):
    (workshop.folder / "empty").mkdir(exist_ok=True)
    for words, sentence in {
        ("evaluate", "empty"): "is not a run",
        ("report", "empty"): "is not a run",
        ("export", "nowhere"): "is not a run",
        ("evaluate", "trained", "--split", "test"): "has no 'test' split, only train, val",
    }.items():
        done = workshop.fastlt(*words)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def write_run(folder, recipe_model: str):
    """A run of an untrained classifier of two targets and one auxiliary class; returns the classifier."""
    from fastlt.classifier import Classifier
    from fastlt.label_space import LabelSpace
    from fastlt.recipe import load_recipe

    recipe_file = folder / "r.yaml"
    recipe_file.write_text(
        f"output: {folder / 'run'}\ndata: {{path: none, image_size: 28}}\n"
        f"optimizer: {{epochs: 1, batch_size: 1, blr: 1}}\nmodel: {recipe_model}\n"
    )
    recipe = load_recipe(recipe_file)
    space = LabelSpace.build({"a": 3, "b": 2}, {"x": 4}, {"a": ["x"]})
    model = Classifier(recipe, space).eval()
    if isinstance(model.head.norm, torch.nn.BatchNorm1d):
        model.head.norm.running_mean.normal_()
        model.head.norm.running_var.uniform_(0.5, 2.0)
    run = RunFolder(folder / "run")
    recipe.save(run.recipe)
    space.save(run.label_space)
    about = {"label_space": space.digest(), "epoch": 1}
    run.save_weights({n: w.contiguous() for n, w in model.state_dict().items()}, "last", about)
    return model


def logits_of_export(folder, images: torch.Tensor) -> torch.Tensor:
    """What plain timm makes of the exported run."""
    export(FinishedRun(folder / "run"), folder / "export")
    described = json.loads((folder / "export" / "model.json").read_text())
    plain = timm.create_model(described["name"], num_classes=2, **described["arguments"]).eval()
    plain.load_state_dict(load_file(folder / "export" / "model.safetensors"))
    with torch.no_grad():
        return plain(images)


def test_export_folds_the_feature_norm(tmp_path):
    """The parameter-free BatchNorm of the DINOv2 head leaves no trace in the exported linear layer."""
    arguments = "{patch_size: 14, depth: 1, global_pool: avg, fc_norm: false}"
    model = write_run(tmp_path, f"{{name: vit_tiny_patch16_224, feature_norm: true, arguments: {arguments}}}")
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        expected = model(images)[:, :2]
    torch.testing.assert_close(logits_of_export(tmp_path, images), expected, rtol=1e-4, atol=1e-5)


def test_rows_from_text_embeddings_and_their_export(tmp_path):
    """The CLIP head: rows begin as the embeddings of the class names; exported, projection and cosine are linear."""
    embeddings = {name: torch.randn(512) for name in ("x", "b", "a")}
    save_file(embeddings, tmp_path / "names.safetensors")
    clip = "name: vit_base_patch16_clip_224.openai, cosine_scale: 100, arguments: {patch_size: 14, depth: 1}"
    model = write_run(tmp_path, f"{{{clip}, class_embeddings: {tmp_path / 'names.safetensors'}}}")
    assert model.head.weight.equal(torch.stack([embeddings[name] for name in ("a", "b", "x")]))
    save_file({name: torch.ones(3) for name in embeddings}, tmp_path / "names.safetensors")  # of another model now
    assert FinishedRun(tmp_path / "run").model.head.weight.equal(model.head.weight)
    (tmp_path / "names.safetensors").unlink()  # rows are in the run's weights
    encoder = run_encoder(tmp_path / "run")
    assert encoder(torch.zeros(1, 3, 28, 28, dtype=torch.uint8)).shape == (1, encoder.dimension), "as filter keeps them"
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        features = model.backbone(images)  # [3, 512]
        logits = model(images)
    cosine = torch.nn.functional.cosine_similarity(features[:, None], model.head.weight[None], dim=2)
    torch.testing.assert_close(logits, 100 * cosine)
    exported = logits_of_export(tmp_path, images)
    torch.testing.assert_close(exported / features.norm(dim=1, keepdim=True), logits[:, :2], rtol=1e-3, atol=1e-3)


def test_text_embeddings_that_do_not_fit(tmp_path):
    clip = f"name: vit_base_patch16_clip_224.openai, cosine_scale: 100, class_embeddings: {tmp_path / 'e'}"
    for embeddings, sentence in (
        ({"a": torch.randn(512), "b": torch.randn(512)}, "has no embedding of 1 of 3 classes, for example 'x'"),
        (
            dict.fromkeys("abx", torch.randn(7)),
            "has embeddings of 7 numbers, but vit_base_patch16_clip_224.openai gives 768",
        ),
    ):
        save_file({name: vector.clone() for name, vector in embeddings.items()}, tmp_path / "e")
        with pytest.raises(ValueError, match=sentence):
            write_run(tmp_path, f"{{{clip}, arguments: {{patch_size: 14, depth: 1}}}}")
    (tmp_path / "e").write_text("no safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        write_run(tmp_path, f"{{{clip}}}")
