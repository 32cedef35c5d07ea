"""What an export brings for others than us: timm's own loading, a card, ONNX."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image

from fastlt.evaluation.export import export
from fastlt.evaluation.finished_run import FinishedRun
from fastlt.evaluation.model_card import model_card
from fastlt.run_folder import RunFolder
from support.command import run_here
from support.crawling import photograph

pytestmark = pytest.mark.medium

SMALL_RESNET = {"channels": [8, 16, 16, 16], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 8}
# (model, its recipe's keys, size): a linear head, CLIP's, DINOv2's, position embeddings of another size.
CASES = {
    "resnet18": ({"arguments": SMALL_RESNET}, 32),
    "cosine": ({"name": "test_vit", "cosine_scale": 20.0}, 32),
    "norm": ({"name": "test_vit", "feature_norm": True, "arguments": {"global_pool": "avg"}}, 48),
    "test_efficientnet": ({}, 64),
}

# As a colleague would use it, who has timm and not fastlt.
WITH_TIMM = """
import json, sys
import timm, torch
sys.modules["fastlt"] = None
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}/exported", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    with torch.no_grad():
        torch.save(model(torch.load(f"{folder}/images")), f"{folder}/logits")
    print(json.dumps([data, model.pretrained_cfg["label_names"], model.num_classes]))
"""


def finished(folder: Path, name: str, model: dict, size: int) -> FinishedRun:
    """A run with weights as if it had been trained, of which each class is the first one of some images."""
    from fastlt.classifier import Classifier
    from fastlt.label_space import LabelSpace
    from fastlt.recipe import Recipe

    torch.manual_seed(0)
    space = LabelSpace.build({"a|b": 300, "[c](http://evil.test)": 4}, {"x": 4}, {"a|b": ["x"]})
    recipe = Recipe.model_validate(
        {
            "output": str(folder),
            "data": {"path": "/home/somebody/secret/data", "image_size": size},
            "model": {"name": name} | model,
            "augment": {"crop_pct": 0.9},
            "optimizer": {"epochs": 3, "batch_size": 1, "blr": 1},
        }
    )
    classifier = Classifier(recipe, space)
    for tensor in classifier.state_dict().values():
        if tensor.dtype.is_floating_point:
            torch.nn.init.uniform_(tensor, 0.1, 0.3) if tensor.ndim < 2 else torch.nn.init.normal_(tensor, std=0.1)
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    recipe.save(run.recipe)
    space.save(run.label_space)
    run.save_weights(classifier.state_dict(), "last", {"label_space": space.digest(), "epoch": 3})
    return FinishedRun(folder)


def test_plain_timm_loads_the_folder_with_the_same_top1(tmp_path):
    expected = {}
    for case, (model, size) in CASES.items():
        run = finished(tmp_path / case / "run", case, model, size)
        images = torch.randn(16, 3, size, size)
        torch.save(images, tmp_path / case / "images")
        with torch.no_grad():
            expected[case] = run.model(images)[:, :2]
        files = export(run, tmp_path / case / "exported", license="cc-by-4.0")
        assert {file.name for file in files} == {file.name for file in (tmp_path / case / "exported").iterdir()}
    words = [sys.executable, "-c", WITH_TIMM, *(str(tmp_path / case) for case in CASES)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, line in zip(CASES, done.stdout.splitlines(), strict=True):
        data, labels, num_classes = json.loads(line)
        size = CASES[case][1]
        assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ([3, size, size], 0.9, "bicubic")
        assert (labels, num_classes) == (["a|b", "[c](http://evil.test)"], 2)
        logits = torch.load(tmp_path / case / "logits")
        assert logits.argmax(1).equal(expected[case].argmax(1)), case
        if case != "cosine":  # whose scores are not divided by the norm of the features
            torch.testing.assert_close(logits, expected[case], rtol=1e-3, atol=1e-4)


def test_the_transform_that_timm_makes_of_it_is_that_of_the_export(tmp_path):
    export(finished(tmp_path / "run", "resnet18", CASES["resnet18"][0], 32), tmp_path / "exported")
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    about = json.loads((tmp_path / "exported" / "model.json").read_text())
    how = {key: about[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    ours = timm.data.create_transform((3, 32, 32), **how)
    image: Image.Image = photograph(1)
    assert transform(image).equal(ours(image))


def test_the_card_tells_what_is_known_and_nothing_of_the_disk(tmp_path):
    run = finished(tmp_path / "run", "resnet18", CASES["resnet18"][0], 32)
    evaluation = {"weights": "last", "epoch": 3, "num_images": 45, "all": 61.25, "many": 80.0, "medium": None}
    evaluation |= {"few": 42.5, "top1": 70.0, "ece": 4.0, "mce": 9.0, "crops": 1}
    run.folder.evaluation("val").write_text(json.dumps(evaluation))
    run.folder.evaluation("test").write_text(json.dumps(evaluation | {"epoch": 2, "num_images": 99}))
    export(run, tmp_path / "exported", license="apache-2.0")
    card = (tmp_path / "exported" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert yaml.safe_load(head)["library_name"] == "timm"
    assert "| val | 45 | 61.2 | 80.0 | - | 42.5 | 70.0 | 4.0 | 9.0 |" in body
    assert "| test |" not in body, "that was of other weights"
    assert "[c](http" not in body
    assert "1 classes had fewer than 20 training images" in body
    assert "Licenses of the images: not known where" in body
    assert "secret" not in card
    assert str(tmp_path) not in card
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["optimizer"]["epochs"] == 3
    assert "path" not in recipe["data"]


def test_the_card_says_which_accuracies_are_of_another_data_set(tmp_path):
    run = finished(tmp_path / "run", "resnet18", CASES["resnet18"][0], 32)
    evaluation = {"weights": "last", "epoch": 3, "num_images": 45, "all": 61.25, "crops": 1}
    run.folder.evaluation("val").write_text(json.dumps(evaluation | {"data": str(run.recipe.data.path)}))
    run.folder.evaluation("test").write_text(json.dumps(evaluation | {"data": "/home/somebody/secret/easier"}))
    export(run, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| val | 45 | 61.2 |" in card
    assert "| test of another data set | 45 | 61.2 |" in card
    assert "secret" not in card


def test_the_card_says_how_to_calibrate(tmp_path):
    run = finished(tmp_path / "run", "resnet18", CASES["resnet18"][0], 32)
    description = {"image_size": 32, "epoch": 3, "weights": "last"}
    assert "divided by 1.25 before the softmax" in model_card(run, description | {"temperature": 1.25}, "")
    assert "divided by" not in model_card(run, description | {"temperature": None}, "")


def test_adaptformer_is_left_to_its_own_lines(tmp_path):
    run = finished(tmp_path / "run", "test_vit", {"tune": "adaptformer"}, 32)
    export(run, tmp_path / "exported")
    assert not (tmp_path / "exported" / "config.json").exists()
    assert "timm alone cannot load it" in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.parametrize("case", ["resnet18", "cosine"])
def test_onnx_has_the_same_class_first_for_any_batch(tmp_path, case):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, size = CASES[case]
    run = finished(tmp_path / "run", case, model, size)
    done = run_here(["export", "run", "--onnx"], tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "export"
    assert "model.onnx: opset 18, any batch; of 64 images of noise onnxruntime" in done.stdout
    assert "same class first as torch, logits differ by up to" in (folder / "README.md").read_text()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == list(run.label_space.target_names)
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for batch in (1, 5):
        images = torch.randn(batch, 3, size, size)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), plain(images), rtol=1e-3, atol=1e-4)
    assert len(list(folder.glob("model.onnx*"))) == 1


def test_an_onnx_file_that_does_otherwise_is_not_written(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from fastlt.evaluation.onnx_file import _compared, write_onnx

    run = finished(tmp_path / "run", "resnet18", CASES["resnet18"][0], 32)
    export(run, tmp_path / "exported")
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True).eval()
    write_onnx(tmp_path, model, run)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        model.fc.weight.neg_()
        model.fc.bias.neg_()
    with pytest.raises(ValueError, match="ONNX has another class first for 8 of 8 images"):
        _compared(tmp_path / "model.onnx", model, images, "images")


def test_onnx_without_its_packages_is_told_before_anything(tmp_path):
    run = finished(tmp_path / "run", "resnet18", CASES["resnet18"][0], 32)
    words = [sys.executable, "-c", "import sys; sys.modules['onnxruntime'] = None\n" + _EXPORT, str(run.folder.path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert "pip install 'fastlt[onnx]'" in done.stderr, done.stderr
    assert not (run.folder.path / "export").exists()


_EXPORT = "from fastlt.cli import main; sys.exit(main(['export', sys.argv[1], '--onnx']))"
