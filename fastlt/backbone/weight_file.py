"""What a file of weights holds: tensors by name, wherever they lie in it. Nothing that it says is executed."""

from __future__ import annotations

import argparse
import re
import string
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # slow to import, and not needed to see that a file is none of weights
    from torch import Tensor

_PLAIN = set(string.printable.encode())
_NOT_ALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global")


def require_weight_file(file: Path) -> None:
    """Raises ValueError where this cannot be a file of weights, as its first bytes tell."""
    if file.is_dir():
        inside = sorted(path.name for path in file.iterdir() if path.suffix in (".safetensors", ".pth", ".pt", ".tar"))
        meant = f"name one of its files: {', '.join(inside[:5])}" if inside else "it has no file of weights"
        raise ValueError(f"{file} is a folder, not a file of weights; {meant}.")
    if not file.is_file():
        raise ValueError(f"{file} is not a file: there are no weights to load.")
    with file.open("rb") as stream:
        start = stream.read(1024)
    what, do = "", "download the weights themselves"
    if not start:
        what = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        what, do = "is a Git LFS pointer, not the file that it points to", "`git lfs pull` fetches that"
    elif re.match(rb"\s*(<\?xml.*?)?<(!doctype\s+)?html", start.lstrip(b"\xef\xbb\xbf"), re.IGNORECASE | re.DOTALL):
        what = "is a web page, not weights"
    elif set(start) <= _PLAIN:
        what = f"is a text that begins with {start[:40].decode(errors='replace')!r}, not weights"
    if what:
        raise ValueError(f"{file} {what}: {do}.")


def read_weights(file: Path) -> dict[str, dict[str, Tensor]]:
    """{place: tensors by name} of every mapping in a file that has tensors, such as "state_dict" or "teacher".

    Safetensors, and what `torch.save` wrote, whatever the file is called.

    Raises:
        ValueError: it holds none, or cannot be read without executing what it says.
    """
    require_weight_file(file)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = _safetensors(file) if _is_safetensors(file) else _torch(file)
    except Exception as error:  # readers of damaged files raise many kinds
        raise ValueError(f"{file} {_why_not(error)}.") from None
    found = dict(_with_tensors(content))
    if not found:
        raise ValueError(
            f"{file} holds no tensors by name: torch.save(model.state_dict(), FILE) makes a file of weights."
        )
    return found


def _is_safetensors(file: Path) -> bool:
    """Their header is a JSON object after its length, and a pickle or an archive has no brace there."""
    with file.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def _safetensors(file: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(file)


def _torch(file: Path) -> Any:
    """What `torch.save` wrote, with `weights_only`; other objects beside the tensors are left empty, unexecuted."""
    import numpy as np
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    # A measure beside the weights is often a number of NumPy's.
    kept: list[Any] = [argparse.Namespace, np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"}]
    for made in (np.float64(0), np.zeros(1)):
        function: Any = made.__reduce__()[0]
        kept += [(function, f"numpy.{package}.multiarray.{function.__name__}") for package in ("core", "_core")]
    try:
        with safe_globals(kept):
            others = set(get_unsafe_globals_in_checkpoint(str(file)))
    except ValueError:  # a file of old, whose objects are met one by one
        others = set()
    while True:
        try:
            with safe_globals([*kept, *((_Empty, name) for name in others)]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            unknown = _NOT_ALLOWED.search(str(error))
            names = {unknown[1], f"builtins.{unknown[1]}"} if unknown else set()
            if names <= others:
                raise
            others |= names


class _Empty:
    """Stands in for a class or function that a file names: whatever it is given, it makes a mapping of nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _why_not(error: Exception) -> str:
    said = " ".join(str(error).split())
    if "TorchScript" in said:
        return "is a TorchScript archive: load it with torch.jit.load and torch.save its state_dict()"
    blocked = re.search(r"GLOBAL (\S+)", said)
    if blocked:
        return f"names {blocked[1].rstrip('.')}, which would have to be executed: save its state_dict alone"
    short = re.split(r"(?<=\w)\. |: ?$", said.removeprefix("Error while deserializing header: "))[0]
    return f"is damaged, cut short or not a file of weights ({type(error).__name__}: {short[:150].rstrip('.')})"


def _with_tensors(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    from torch import Tensor

    if not isinstance(content, Mapping) or depth > 6:
        return
    tensors = {
        name: _plain(value) for name, value in content.items() if isinstance(value, Tensor) and not value.is_meta
    }
    if tensors and all(isinstance(name, str) for name in tensors):
        yield place, tensors
    for name, value in content.items():
        if isinstance(name, str):
            yield from _with_tensors(value, f"{place}.{name}".lstrip("."), depth + 1)


def _plain(tensor: Tensor) -> Tensor:
    """With every value in its place: neither sparse nor quantized."""
    from torch import strided

    tensor = tensor.detach()
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return tensor if tensor.layout is strided else tensor.to_dense()
