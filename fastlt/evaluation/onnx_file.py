"""The exported classifier as an ONNX file, compared with torch image by image before anybody gets it."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastlt.dataset.staging import copy_of
from fastlt.evaluation.finished_run import FinishedRun

OPSET = 18
_IMAGES = 64  # that are compared, half of them alone
_IN_ONE_FILE = 1_900_000_000  # bytes of weights; ONNX's own limit is 2 GiB


def require_onnx() -> None:
    """Raises ValueError where a package is missing."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise ValueError(f"--onnx needs {', '.join(missing)}: pip install 'fastlt[onnx]'.")


def write_onnx(folder: Path, model: nn.Module, run: FinishedRun) -> str:
    """Writes `model.onnx`: `images` float32 [batch, 3, H, W], normalized, to `logits` [batch, T]; any batch.

    Args:
        folder: to write into.
        model: as plain timm has it, in evaluation mode.
        run: where it comes from, and images to compare with.

    Returns:
        What was compared, in a sentence.

    Raises:
        ValueError: the model cannot be written so, or another class comes first for an image.
    """
    size = run.recipe.data.image_size
    images, what = _images(run, size)
    file = folder / "model.onnx"
    model = model.cpu()
    large = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values()) > _IN_ONE_FILE
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                model,
                (images[:2],),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            assert program is not None, "dynamo gives a program"
            program.model.metadata_props["labels"] = json.dumps(list(run.label_space.target_names))
            program.save(file, external_data=large)
    except Exception as error:  # of many kinds, and long
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(f"torch cannot write {run.recipe.model.name} as ONNX: {said}.") from error
    return _compared(file, model, images, what)


def _compared(file: Path, model: nn.Module, images: Tensor, what: str) -> str:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(images).numpy()
    half = len(images) // 2
    parts = [images[:half], *images[half:].split(1)]  # together and alone
    found = np.concatenate([session.run(None, {"images": part.numpy()})[0] for part in parts if len(part)])
    differ = int((found.argmax(1) != expected.argmax(1)).sum())
    most = float(np.abs(found - expected).max())
    if differ:
        raise ValueError(
            f"ONNX has another class first for {differ} of {len(images)} {what} (logits differ by up to {most:.2g}): "
            "nothing was written."
        )
    return (
        f"model.onnx: opset {OPSET}, any batch; of {len(images)} {what} onnxruntime {onnxruntime.__version__} has the "
        f"same class first as torch, logits differ by up to {most:.2g}"
    )


def _images(run: FinishedRun, size: int) -> tuple[Tensor, str]:
    """Images float32 [N, 3, size, size] to compare with, and what they are: of the run's data set, if it is there."""
    try:
        data = copy_of(run.recipe.data.path, run.recipe.data.stage_to)
        split = data.judged_on
        batches = islice(run.batches(split), -(-_IMAGES // 16))
        images = torch.cat([batch.float().cpu() for batch in batches])[:_IMAGES].contiguous()
        if len(images) > 1:
            return images, f"{split} images"
    except ValueError:
        pass
    return torch.randn(_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)), "images of noise"
