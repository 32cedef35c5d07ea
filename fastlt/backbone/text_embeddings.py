"""`fastlt class-embeddings`: the first rows of a cosine head, as CLIP's text encoder makes them of class names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from fastlt.atomic import new_file
from fastlt.messages import one_line

_NAMES_AT_ONCE = 256


def write_class_embeddings(
    titles: Mapping[str, str], out: Path, model: str, weights: str, templates: Sequence[str]
) -> tuple[int, int]:
    """Writes a vector for each class, as `model.class_embeddings` takes them; returns (classes, size of a vector).

    Each is the mean of the normalized embeddings of the class's title in every template, normalized again (CLIP,
    arXiv 2103.00020, section 3.1.4).

    Args:
        titles: of each class's name what stands in for `{}`.
        out: safetensors, float32.
        model, weights: of open_clip; weights are one of its tags or a file.
        templates: sentences with `{}`.

    Raises:
        ValueError: open_clip is not installed, or has no such model or weights.
    """
    try:
        import open_clip  # an extra
    except ImportError:
        raise ValueError("class-embeddings needs open_clip: pip install 'fastlt[clip]'.") from None
    if model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), 1)
        raise ValueError(f"open_clip has no model {model}{f'; did you mean {close[0]}?' if close else '.'}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not Path(weights).is_file() and weights not in tags:
        raise ValueError(f"{weights} is no file and no weights of {model}, which has {', '.join(tags) or 'none'}.")
    try:
        encoder = open_clip.create_model(model, pretrained=weights).eval()
    except Exception as error:  # a hub that is not reached, a file of something else: open_clip raises what it gets
        local = "" if Path(weights).is_file() else "; without its hub, name a file with --weights"
        raise ValueError(f"open_clip cannot load {model} with {weights}{local}: {one_line(error, 300)}") from None
    tokenize = open_clip.get_tokenizer(model)
    rows = _embed(lambda sentences: encoder.encode_text(tokenize(sentences)), list(titles.values()), templates)
    with new_file(out) as temporary:
        save_file({name: row.contiguous() for name, row in zip(titles, rows, strict=True)}, temporary)
    return len(rows), rows.shape[1]


@torch.no_grad()
def _embed(encode, titles: list[str], templates: Sequence[str]) -> Tensor:
    """The rows [C, D]."""
    rows = []
    for start in range(0, len(titles), _NAMES_AT_ONCE):
        some = titles[start : start + _NAMES_AT_ONCE]
        sentences = (encode([template.replace("{}", title) for title in some]) for template in templates)
        each = torch.stack([F.normalize(embedded.float(), dim=1) for embedded in sentences])  # [templates, some, D]
        rows.append(F.normalize(each.mean(0), dim=1))
    return torch.cat(rows)


def read_templates(file: Path) -> list[str]:
    """The templates of a file, one a line.

    Raises:
        ValueError: there is none, or one has no place for the name.
    """
    templates = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not templates:
        raise ValueError(f"{file} has no template: write sentences with {{}} for the name, one a line.")
    if lacking := [template for template in templates if "{}" not in template]:
        raise ValueError(f"{file}: {lacking[0]!r} has no {{}}, where the name of the class goes.")
    return templates


def titles_of(names: Sequence[str], given: Mapping[str, object]) -> dict[str, str]:
    """What each class is called: as given, else its name, with spaces for what stands between words in file names."""
    titles = {name: str(given.get(name) or name.replace("_", " ").replace("/", " ").strip()) for name in names}
    return {name: title or name for name, title in titles.items()}
