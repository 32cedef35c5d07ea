"""Files that appear whole or not at all, and what a full disk is called."""

import errno

import pytest
import torch
from safetensors import SafetensorError

from fastlt.atomic import full_disk_told, new_file


def test_a_full_disk_is_told_as_one_whoever_writes(tmp_path):
    with pytest.raises(OSError, match="checkpoint") as raised, full_disk_told(tmp_path / "checkpoint"):
        torch.save({"weight": torch.zeros(2**20)}, "/dev/full")
    assert raised.value.errno == errno.ENOSPC
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="weights") as raised, new_file(tmp_path / "weights"):
        raise SafetensorError(said)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="mat1"), full_disk_told(tmp_path / "x"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
