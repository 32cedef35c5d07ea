"""img2dataset as its users have it: in an environment of its own, which is made where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.inputs.image_sets import BUILD

PACKAGE = "img2dataset==1.47.0"
PYTHON = BUILD / "img2dataset" / "bin" / "python"
_INSTALLED = BUILD / "img2dataset" / "installed.txt"
_RUN = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], input_format="csv", url_col="url", output_folder=sys.argv[2],
             output_format="webdataset", image_size=int(sys.argv[3]), resize_mode="keep_ratio",
             resize_only_if_bigger=True, encode_quality=int(sys.argv[4]), processes_count=int(sys.argv[5]),
             thread_count=16, number_sample_per_shard=1000, extract_exif=False, enable_wandb=False)
"""


def is_there() -> bool:
    """Whether the environment was made, all of it."""
    return _INSTALLED.is_file() and _INSTALLED.read_text() == PACKAGE


def make() -> None:
    """Makes the environment, of 0.7 GB, where it is not there.

    Raises:
        RuntimeError: that is not possible here; the message is pip's last line.
    """
    if is_there():
        return
    print(f"installing {PACKAGE} into {PYTHON.parents[1]}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(PYTHON.parents[1])],
        [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", PACKAGE],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise RuntimeError(said[-1] if said else f"{command[0]} ended with {done.returncode}")
    _INSTALLED.write_text(PACKAGE)


def command(listed: Path, out: Path, size: int, quality: int, processes: int) -> list[str]:
    """A crawl of the URLs of a CSV, shrunk to `size` on the shorter side."""
    script = listed.with_name("img2dataset_run.py")
    script.write_text(_RUN)
    return [str(PYTHON), str(script), str(listed), str(out), str(size), str(quality), str(processes)]
