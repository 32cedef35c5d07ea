"""Loads this model with plain timm, and names what an image shows: `python load.py IMAGE`."""

import json
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform

folder = Path(__file__).parent
about = json.loads((folder / "model.json").read_text())
model = timm.create_model(about["name"], num_classes=len(about["labels"]), **about["arguments"])
if "adaptformer" in about:
    from adaptformer import insert  # the file beside this one

    insert(model, **about["adaptformer"])
model.load_state_dict(load_file(folder / "model.safetensors"))
model.eval()
how = {key: about[key] for key in ("crop_pct", "interpolation", "mean", "std")}
Image.init()
# Pillow knows others too, one of which starts Ghostscript.
formats = tuple(sorted({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"}.intersection(Image.OPEN)))
transform = create_transform((3, about["image_size"], about["image_size"]), **how)

if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f"usage: python {sys.argv[0]} IMAGE")
    with torch.inference_mode():
        scores = model(transform(Image.open(sys.argv[1], formats=formats).convert("RGB"))[None])[0]
        probabilities = (scores / (about.get("temperature") or 1)).softmax(0)
    for label in probabilities.argsort(descending=True)[:5].tolist():
        print(f"{probabilities[label]:.3f}  {about['labels'][label]}")
