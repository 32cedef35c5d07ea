"""`fastlt class-embeddings` with a small text encoder of open_clip, whose weights are as drawn."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from support.command import run_here

open_clip = pytest.importorskip("open_clip")
pytestmark = pytest.mark.medium
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A model that open_clip knows by its name, and a file of its weights."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "small-clip.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("small-clip").eval()
    torch.save(model.state_dict(), folder / "small.pt")
    return model, folder / "small.pt"


def test_rows_are_the_mean_over_templates(workshop, trained, clip, tmp_path):
    model, weights = clip
    (tmp_path / "templates.txt").write_text("a photo of a {}.\n\n{}, a species\n")
    (tmp_path / "titles.json").write_text(json.dumps({"genus00_species0": "sparrow"}))
    words = ["class-embeddings", "encoded", "--out", tmp_path / "rows.safetensors", "--model", "small-clip"]
    words += ["--weights", weights, "--templates", tmp_path / "templates.txt", "--titles", tmp_path / "titles.json"]
    done = run_here([str(word) for word in words], workshop.folder)
    assert done.returncode == 0, done.stderr
    rows = load_file(tmp_path / "rows.safetensors")
    assert "24 numbers each; for example 'sparrow'" in done.stdout
    tokens = open_clip.get_tokenizer("small-clip")(["a photo of a sparrow.", "sparrow, a species"])
    with torch.no_grad():
        expected = F.normalize(F.normalize(model.encode_text(tokens), dim=1).mean(0), dim=0)
    torch.testing.assert_close(rows["genus00_species0"], expected, rtol=1e-4, atol=1e-5)
    names = set((workshop.folder / "species" / "train").iterdir()) | set(
        (workshop.folder / "species" / "auxiliary").iterdir()
    )
    assert rows.keys() == {folder.name for folder in names}
    assert all(abs(row.norm() - 1) < 1e-5 for row in rows.values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "smal-clip"], "open_clip has no model smal-clip; did you mean small-clip?"),
        (["--model", "small-clip", "--weights", "openai"], "openai is no file and no weights of small-clip, which has"),
        (["--model", "small-clip", "--weights", "nothing.txt"], "cannot load small-clip with nothing.txt"),
        (["--templates", "nothing.txt"], "'a photo' has no {}, where the name of the class goes"),
        (["--titles", "list.json"], "has to be JSON {class: title}"),
    ],
)
def test_what_cannot_be_is_a_sentence(words, sentence, workshop, trained, clip):
    (workshop.folder / "nothing.txt").write_text("a photo\n")
    (workshop.folder / "list.json").write_text("[]")
    done = run_here(["class-embeddings", "encoded", "--out", "rows", *words], workshop.folder)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not (workshop.folder / "rows").exists()
