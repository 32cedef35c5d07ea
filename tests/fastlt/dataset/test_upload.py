"""An encoded data set is uploaded: nothing looks like one before its last byte is there, and a kill costs one file."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlt.dataset.staging import described, staged
from fastlt.dataset.upload import Upload
from support.made_sets import made_set, with_split
from support.paths import ROOT

MB = 10**6
# A store in a folder that takes its time, as a network does.
SLOWLY = """
import sys, time
from pathlib import Path
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Slow(LocalFileSystem):
    protocol = "slow"

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("slow://")

    def put_file(self, path1, path2, callback=None, **kwargs):
        with open(path1, "rb") as here, open(path2, "wb", buffering=0) as there:
            while piece := here.read(2**16):
                there.write(piece)
                time.sleep(0.01)

fsspec.register_implementation("slow", Slow)
from fastlt.dataset.upload import Upload
Upload(Path(sys.argv[1]), sys.argv[2]).run()
"""


@pytest.fixture
def made(tmp_path) -> Path:
    return made_set(tmp_path / "birds", 3 * MB)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_who_is_killed_leaves_nothing_that_looks_whole(made, tmp_path, capsys):
    there = tmp_path / "store" / "birds"
    words = [sys.executable, "-c", SLOWLY, str(made), f"slow://{there}"]
    process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 100
    while not ((there / "val.beton").exists() and (there / "val.beton").stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (there / "val.beton").stat().st_size < 3 * MB
    with pytest.raises(ValueError, match="is not an encoded data set"):
        described(f"file://{there}")

    before = (there / "train.beton").stat().st_mtime_ns
    Upload(made, f"file://{there}").run()
    assert "6 MB, of which 3 MB are there" in capsys.readouterr().out
    assert (there / "train.beton").stat().st_mtime_ns == before
    assert contents(there) == contents(made)
    assert contents(staged(f"file://{there}", tmp_path / "disk").path) == contents(made)


def test_files_of_another_upload_are_not_taken_for_ours(made, tmp_path):
    """They may have as many bytes."""
    there = tmp_path / "store" / "birds"
    Upload(made_set(tmp_path / "others", 3 * MB), f"file://{there}").run()
    (there / "manifest.json").unlink()  # as if it had been killed just before
    (there / "upload.begun").write_text("another manifest's")
    Upload(made, f"file://{there}").run()
    assert contents(there) == contents(made)


def test_a_damaged_upload_is_repaired(made, tmp_path):
    there = tmp_path / "store" / "birds"
    Upload(made, f"file://{there}").run()
    os.truncate(there / "val.beton", MB)
    with pytest.raises(ValueError, match="has 1,000,000 bytes"):
        described(f"file://{there}")
    Upload(made, f"file://{there}").run()
    assert contents(there) == contents(made)


def test_what_cannot_be_uploaded_is_one_sentence(made, workshop, tmp_path):
    there = f"file://{tmp_path}/store"
    Upload(made, there).run()
    kept = contents(tmp_path / "store")
    with_split(made, sha256="0" * 64)
    with pytest.raises(ValueError, match="has another encoded data set: choose another place"):
        Upload(made, there).run()
    with pytest.raises(ValueError, match="has an encoded data set already"):  # before hours of encoding
        Upload(tmp_path / "yet to be made", there)
    assert contents(tmp_path / "store") == kept
    with pytest.raises(ValueError, match="only names its images"):
        Upload(workshop.folder / "plain", f"file://{tmp_path}/plain").run()
    for url, why in (("birds", "is no URL"), ("https://host/birds", "web servers are only read")):
        with pytest.raises(ValueError, match=why):
            Upload(made, url)
    with pytest.raises(ValueError, match="has a user") as said:
        Upload(made, "s3://key:secret@bucket/birds")
    assert "secret" not in str(said.value)


@pytest.mark.medium
def test_encode_uploads(workshop, tmp_path):
    there = tmp_path / "store" / "birds"
    done = workshop.encode("sent", "--format", "webdataset", "--upload", f"file://{there}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(there) == contents(workshop.folder / "sent")
    assert {"train.idx", "val.idx"} < contents(there).keys()
    assert contents(staged(f"file://{there}", tmp_path / "disk").path) == contents(there)
    again = workshop.fastlt("encode", "sent", "--upload", f"file://{tmp_path}/elsewhere")  # no inputs: it is there
    assert again.returncode == 0, again.stdout + again.stderr
    words = ["--train", "species/train", "--val", "species/val", "--upload", f"file://{there}"]
    other = workshop.fastlt("encode", "sent", *words, "--format", "webdataset")
    assert other.returncode == 1
    assert "sent was encoded from other images or with other settings" in other.stderr
    astray = workshop.encode("s3://bucket/birds")
    assert astray.returncode == 1
    assert "OUT is a folder on a disk here; --upload URL" in astray.stderr
    assert not (workshop.folder / "s3:").exists()


def test_whom_to_credit_goes_where_the_images_go(made, tmp_path, capsys):
    (made / "ATTRIBUTION.csv").write_text("class,index,url,page,attribution,license,source\n")
    (made / "README.md").write_text("# Images\n")
    (made / "notes.txt").write_text("of mine")
    Upload(made, f"file://{tmp_path}/store/birds").run()
    there = contents(tmp_path / "store" / "birds")
    assert there == {name: content for name, content in contents(made).items() if name != "notes.txt"}
    assert staged(f"file://{tmp_path}/store/birds", tmp_path / "copies").path.name.startswith("birds-")
