"""A run folder of somebody else's: its checkpoints are pickles, and nothing that these name is executed."""

import json
import os
import pickle
import re
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from fastlt.run_folder import RunFolder

pytestmark = pytest.mark.medium
WORDS = ["recipe.yaml", "data.path=encoded", "engine.zero_stage=0", "checkpoint.epochs=1"]
HEADS = {"whole": [], "sharded": ["engine.shard_classes=true"], "zero": ["engine.zero_stage=1"]}


class Harm:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def train(workshop, run: Path, head: str, *words: str):
    return workshop.fastlt("train", *WORDS, *HEADS[head], f"output={run}", "--ranks", "1", *words)


@pytest.fixture(scope="module")
def finished(workshop, tmp_path_factory):
    """Makes a copy of a run of one epoch, as whose head is said."""
    runs = {}

    def copied(head: str, to: Path) -> RunFolder:
        if head not in runs:
            runs[head] = tmp_path_factory.mktemp("run") / head
            done = train(workshop, runs[head], head, "optimizer.epochs=1")
            assert done.returncode == 0, done.stderr
        shutil.copytree(runs[head], to)
        return RunFolder(to)

    return copied


def rewrite(file: Path, harm: Harm) -> None:
    content = torch.load(file, weights_only=False)
    torch.save(content | {"more": harm}, file)


def of_old(file: Path, harm: Harm) -> None:
    """A pickle without an archive around it."""
    torch.save({"module": harm}, file, _use_new_zipfile_serialization=False)


def in_table(table: Path, harm: Harm) -> None:
    found = FileSystemReader(table.parent).read_metadata()
    found.planner_data = harm
    table.write_bytes(pickle.dumps(found))


def behind_table(table: Path, harm: Harm) -> None:
    """The table says that a step count is no tensor, but bytes, which torch would unpickle."""
    found = FileSystemReader(table.parent).read_metadata()
    found.state_dict_metadata["weight.step"] = BytesStorageMetadata()
    (index,) = (index for index in found.storage_data if index.fqn == "weight.step")
    place = found.storage_data[MetadataIndex("weight.step")] = found.storage_data.pop(index)
    with (table.parent / place.relative_path).open("r+b") as shard:
        place.offset = shard.seek(0, os.SEEK_END)
        torch.save(harm, shard)
        place.length = shard.tell() - place.offset
    table.write_bytes(pickle.dumps(found))


def seal(checkpoint: Path) -> None:
    """Has the checksums of its files say what is there now."""
    progress = json.loads((checkpoint / "progress.json").read_text())
    for name in progress["files"]:
        content = (checkpoint / name).read_bytes()
        progress["files"][name] = [len(content), zlib.crc32(content)]
    (checkpoint / "progress.json").write_text(json.dumps(progress))


@pytest.mark.parametrize(
    ("head", "name", "plant", "named"),
    [
        ("whole", "mp_rank_00_model_states.pt", rewrite, "names posix.mkdir"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sharded", "classes/.metadata", in_table, "names posix.mkdir"),
                ("whole", "mp_rank_00_model_states.pt", of_old, "is not a file that DeepSpeed has written"),
                ("zero", "zero_pp_rank_0_mp_rank_00_optim_states.pt", rewrite, "names posix.mkdir"),
                ("sharded", "classes/.metadata", behind_table, r"names torch\.[\w.]+\.BytesStorageMetadata"),
            )
        ),
    ],
)
def test_what_a_checkpoint_names_is_not_executed(workshop, finished, tmp_path, head, name, plant, named):
    run, marker = finished(head, tmp_path / "run"), tmp_path / "harm"
    (checkpoint,) = run.all_checkpoints()
    plant(checkpoint / name, Harm(marker))
    seal(checkpoint)
    done = train(workshop, run.path, head, "optimizer.epochs=2", "--resume")
    assert not marker.exists(), "the checkpoint had code run"
    assert done.returncode == 1
    assert re.search(
        rf"fastlt: error: {re.escape(str(checkpoint / name))} {named}.*remove this checkpoint", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert run.all_checkpoints() == [checkpoint]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_run_of_another_owner_is_told(workshop, finished, tmp_path):
    run = finished("whole", tmp_path / "run")
    os.chown(run.all_checkpoints()[0], 12345, -1)
    done = train(workshop, run.path, "whole", "optimizer.epochs=2", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"warning: {run.all_checkpoints()[0].parent}" in done.stdout
    assert "belongs to user 12345, not to you" in done.stdout
    assert "resumed at step" in done.stdout


@pytest.mark.slow
def test_torchs_switch_for_old_files_changes_nothing(workshop, finished, tmp_path, monkeypatch):
    """Torch refuses to be told both, which is no damage of the checkpoint."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    run = finished("whole", tmp_path / "run")
    done = train(workshop, run.path, "whole", "optimizer.epochs=2", "--resume")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stdout
