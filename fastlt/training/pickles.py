"""The pickles of a checkpoint, which DeepSpeed and torch would run whatever they name: here they name what is known."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.serialization import safe_globals

# What DeepSpeed's optimizer states hold beside tensors and numbers: fields and no deeds.
_OF_ENGINE: list[Any] = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
_ABOUT_SHARDS = "torch.distributed.checkpoint.metadata"
_OF_SHARDS = {
    *((_ABOUT_SHARDS, name) for name in ("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta")),
    *((_ABOUT_SHARDS, name) for name in ("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}
_NAMED = re.compile(r"(?:GLOBAL|global|class|function) `?([\w.]+\.\w+)")
_ADVICE = (
    "no checkpoint of fastlt has that, and to resume would run it; remove this checkpoint, or take the run from "
    "somebody you trust"
)


def require_harmless(checkpoint: Path) -> None:
    """Looks through every file that DeepSpeed may open, without reading tensors; called by all ranks, each a part.

    Raises:
        ValueError: a file names what would be executed.
    """
    files = sorted(checkpoint.rglob("*.pt"))[dist.get_rank() :: dist.get_world_size()]
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, next(filter(None, map(_harm, files)), ""))
    if harm := next(filter(None, found), ""):
        raise ValueError(harm)


def _harm(file: Path) -> str:
    try:
        with only_known():
            torch.load(file, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:
        return f"{file} {_what(error)}: {_ADVICE}."
    except Exception as error:  # readers of damaged files raise many kinds
        return f"{file} is not a file that DeepSpeed has written ({type(error).__name__}): remove this checkpoint."
    return ""


def _what(error: Exception) -> str:
    said = str(error)
    named = _NAMED.search(said)
    return f"names {named[1]}" if named else "holds a pickle with more in it than values"


@contextmanager
def only_known() -> Iterator[None]:
    """Inside, `torch.load` reads values and what a checkpoint of ours has, whoever calls it and however."""
    with safe_globals(_OF_ENGINE), patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
        os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch takes no two orders
        yield


class ShardReader(FileSystemReader):
    """Reads what `torch.distributed.checkpoint` saved of tensors; of its table only what is known is made."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """As torch's, which runs whatever the table names.

        Raises:
            ValueError: it names anything else, or is damaged.
        """
        table = Path(self.path) / ".metadata"
        try:
            with table.open("rb") as stream:
                found = _KnownAlone(stream).load()
            if not isinstance(found, Metadata):
                raise TypeError("it is no table")
        except _NamesOthersError as error:
            raise ValueError(f"{table} names {error}: {_ADVICE}.") from None
        except OSError:
            raise
        except Exception as error:  # damaged pickles raise many kinds
            raise ValueError(f"{table} is damaged ({type(error).__name__}): remove this checkpoint.") from None
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _NamesOthersError(Exception):
    """A pickle names what no table has; says what."""


class _KnownAlone(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OF_SHARDS:
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise _NamesOthersError(f"{module}.{name}")
