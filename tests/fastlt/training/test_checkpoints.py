"""Checkpoints that are not as they were written: which one a run goes on from, and what is said of the others."""

import json
import shutil

import pytest
import torch.distributed as dist

from fastlt.run_folder import RunFolder
from fastlt.training.checkpointing import Progress, newest_whole, save


@pytest.fixture(scope="module", autouse=True)
def ranks(tmp_path_factory):
    """One rank, in this process."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path_factory.mktemp('group') / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


class Counted:
    """A part whose state is a file in a folder of its own."""

    def __init__(self, step: int) -> None:
        self.step = step

    def save(self, folder):
        (folder / "part").mkdir()
        (folder / "part" / "state").write_bytes(bytes([self.step]) * 5000)

    def load(self, folder):
        pass


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """With checkpoints of steps 1 and 2."""
    run = RunFolder(tmp_path / "run")
    for step in (1, 2):
        save(run, Progress(step, 4, {}, "labels", "data", 1, 0, False), 2, [Counted(step)])
    return run


def change(file, content: bytes) -> None:
    file.write_bytes(content)


def fields_of(checkpoint, **changed: object) -> bytes:
    return json.dumps(json.loads((checkpoint / "progress.json").read_text()) | changed).encode()


DAMAGES = {
    "cut": (lambda c: change(c / "part" / "state", bytes([2]) * 1000), "part/state is not as it was written"),
    "empty": (lambda c: change(c / "part" / "state", b""), "part/state is not as it was written"),
    "one bit": (lambda c: change(c / "part" / "state", bytes([2]) * 4999 + b"\3"), "part/state is not as it was"),
    "missing": (lambda c: (c / "part" / "state").unlink(), "part/state is missing"),
    "without a folder": (lambda c: shutil.rmtree(c / "part"), "part/state is missing"),
    "without progress": (lambda c: (c / "progress.json").unlink(), "it has no progress.json"),
    "progress cut": (
        lambda c: change(c / "progress.json", fields_of(c)[:-9]),
        "progress.json is not as it was written",
    ),
    "progress empty": (lambda c: change(c / "progress.json", b""), "progress.json is not as it was written"),
    "progress of bytes": (lambda c: change(c / "progress.json", b"\xff\xfe{"), "progress.json is not as it was"),
    "progress a list": (lambda c: change(c / "progress.json", b"[]"), "progress.json is not as it was written"),
    "no list of files": (lambda c: change(c / "progress.json", fields_of(c, files=None)), "progress.json is not as it"),
    "another field": (lambda c: change(c / "progress.json", fields_of(c, x=1)), "progress.json is not as it was"),
    "progress a folder": (
        lambda c: [(c / "progress.json").unlink(), (c / "progress.json").mkdir()],
        "progress.json cannot be read",
    ),
    "empty folder": (lambda c: [shutil.rmtree(c), c.mkdir()], "it has no progress.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_a_damaged_one_is_taken(run, damage):
    older, newest = run.all_checkpoints()
    harm, why = DAMAGES[damage]
    harm(newest)
    taken, said = newest_whole(run)
    assert taken == older
    (line,) = said
    assert line.startswith(f"warning: {newest} is damaged ({why}")
    assert run.all_checkpoints() == [older]
    assert newest.with_name(f"damaged-{newest.name}").is_dir()


def test_where_none_is_whole_all_stay(run):
    older, newest = run.all_checkpoints()
    for checkpoint in (older, newest):
        change(checkpoint / "part" / "state", b"")
    for _ in range(2):  # a second try must not start over
        with pytest.raises(ValueError, match=f"no checkpoint of {run.path} is whole"):
            newest_whole(run)
    assert run.all_checkpoints() == [older, newest]


def test_a_file_is_no_checkpoint(run):
    newest = run.all_checkpoints()[-1]
    newest.with_name("step-000000003").write_text("")
    run.log.write_bytes(b'{"step": 1}\n\xff\xfe\n')  # and what a torn disk leaves in the log is none of its records
    assert newest_whole(run) == (newest, [])
    assert run.records() == [{"step": 1}]


def test_a_copy_that_somebody_made_is_none_of_a_runs(run):
    newest = run.all_checkpoints()[-1]
    shutil.copytree(newest, newest.with_name(f"{newest.name}.bak"))
    assert newest_whole(run) == (newest, [])
