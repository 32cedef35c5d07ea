"""What this machine has, what of fastlt works on it, and what to type where something does not."""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from fastlt import __version__
from fastlt.caches import own_folder, why_nothing_is_kept
from fastlt.cores import available_cores
from fastlt.doctor import attempts
from fastlt.launch import devices
from fastlt.messages import one_line
from fastlt.provenance import gpu, processor, versions

_PACKAGES = ("torch", "torchvision", "triton", "deepspeed", "timm", "numba", "numpy", "pillow", "nvidia-dali-cuda130")
_TIMEOUT = 600.0  # seconds an attempt may take: a first one compiles
_GIGABYTE = 2**30
_LEAST_FREE = {"disk": 5, "shm": 1, "memory": 4}  # GB
_LEAST_FILES = 1024
_NEEDED_ELSEWHERE = frozenset({"bench", "dev"})  # extras that are for who works on fastlt
_RECIPE = """
data: {image_size: 32, workers: 1}
model:
  name: resnet18
  arguments: {channels: [8, 8, 8, 8], layers: [1, 1, 1, 1], stem_type: deep, stem_width: 8}
optimizer: {epochs: 1, batch_size: 8, blr: 1.0e-2}
log: {trackers: []}
"""


@dataclass(frozen=True)
class Found:
    """One thing about this machine.

    Attributes:
        name: of the thing.
        said: how it is.
        works: None where it is neither good nor bad.
        needed: whether fastlt is of no use without it.
        advice: what to type.
    """

    name: str
    said: str
    works: bool | None = None
    needed: bool = False
    advice: str = ""

    def line(self) -> str:
        """For people."""
        mark = {True: "ok", None: "", False: "FAILS" if self.needed else "no"}[self.works]
        advice = f"\n{'':<28}-> {self.advice}" if self.advice else ""
        return f"{mark:<8}{self.name:<20}{self.said}{advice}"


def doctor(tell: Callable[[str], object], timeout: float = _TIMEOUT) -> bool:
    """Looks, tries and tells, a line at a time; whether all works that fastlt needs here.

    Args:
        tell: takes the lines.
        timeout: seconds an attempt may take.
    """
    sound = True
    with tempfile.TemporaryDirectory(prefix="fastlt-doctor-") as folder:
        for part, found in (
            ("versions", _versions()),
            ("this machine", _machine()),
            ("tried here, on tiny inputs (a first time takes minutes)", _tried(Path(folder), timeout)),
            ("extras", _extras()),
        ):
            tell(f"\n{part}:")
            for one in found:
                tell(one.line())
                sound = sound and (one.works is not False or not one.needed)
    tell(f"\n{'all' if sound else 'NOT all'} that fastlt needs works here{'.' if sound else ': see FAILS.'}")
    return sound


def _versions() -> Iterator[Found]:
    yield Found("fastlt", __version__)
    for name, version in versions(_PACKAGES).items():
        yield Found(name, version)
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists() and (found := re.search(r"\s(\d+\.\d+(\.\d+)?)\s", driver.read_text())):
        yield Found("NVIDIA driver", found[1])


def _machine() -> Iterator[Found]:
    yield Found("CPU", f"{processor()}, {available_cores()} cores to use")
    yield Found("GPU", f"{len(devices())} x {gpu() or 'unknown'}" if devices() else "none")
    memory = psutil.virtual_memory().available / _GIGABYTE
    yield _enough("memory", memory, "memory", "close what else takes memory, or lower optimizer.batch_size")
    yield _enough("disk, here", _free(Path.cwd()), "disk", "set output and encode's folder to another disk")
    yield _enough("disk, temporary", _free(Path(tempfile.gettempdir())), "disk", "export TMPDIR=/a/larger/disk")
    shm = Path("/dev/shm")
    if shm.is_dir():
        yield _enough("shared memory", _free(shm), "shm", "docker run --shm-size=8g ..., or data.workers=1")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    enough = files == resource.RLIM_INFINITY or files >= _LEAST_FILES
    said = "unlimited" if files == resource.RLIM_INFINITY else f"{files:,} at once"
    yield Found("open files", said, enough, advice="" if enough else f"ulimit -n {8 * _LEAST_FILES}")
    kept = own_folder()
    advice = "" if kept else "export NUMBA_CACHE_DIR=/a/folder/of/yours"
    yield Found("compiled code", f"kept in {kept}" if kept else why_nothing_is_kept(), kept is not None, advice=advice)


def _enough(name: str, free: float, kind: str, advice: str) -> Found:
    enough = free >= _LEAST_FREE[kind]
    return Found(name, f"{free:,.1f} GB free", enough, advice="" if enough else advice)


def _free(folder: Path) -> float:
    return shutil.disk_usage(folder).free / _GIGABYTE


def _tried(folder: Path, timeout: float) -> Iterator[Found]:
    has_gpu = bool(devices())

    def attempt(name: str, called: str, needed: bool, advice: str) -> Found:
        return run_attempt(
            [sys.executable, str(Path(attempts.__file__)), name, str(folder)], called, needed, advice, timeout
        )

    fastlt = [sys.executable, "-m", "fastlt"]
    again = "pip install --force-reinstall fastlt"
    cuda = "see https://pytorch.org/get-started for a torch that fits the driver, or export DS_ACCELERATOR=cpu"
    yield attempt("devices", "torch", True, cuda if has_gpu else again)
    yield attempt("loss_on_cpu", "loss, numba", True, again)
    if has_gpu:
        yield attempt("loss_on_gpu", "loss, Triton", True, cuda)
    else:
        yield Found("loss, Triton", "not tried, as there is no GPU")
    _draw(folder / "images")
    pictures = str(folder / "images")
    for form, loader, needed, advice in (
        ("ffcv", "ffcv", True, again),
        ("plain", "plain", True, "if it hangs or is killed: data.workers=1, or more shared memory"),
        ("webdataset", "dali", False, "pip install 'fastlt[dali]', or data.loader=plain"),
    ):
        words = ["encode", str(folder / form), "--train", pictures, "--val", pictures, "--format", form]
        encoded = run_attempt([*fastlt, *words], f"encode --format {form}", needed, again, timeout)
        if encoded.works:
            yield attempt(loader, f"loader, {loader}", needed, advice)
        else:
            yield encoded
    (folder / "recipe.yaml").write_text(_RECIPE)
    words = ["train", str(folder / "recipe.yaml"), f"data.path={folder / 'ffcv'}", f"output={folder / 'run'}"]
    trained = run_attempt([*fastlt, *words, "--ranks", "1"], "training", True, again, timeout)
    yield Found("training", "an epoch of 8 images, DeepSpeed, one rank", True) if trained.works else trained
    compiler = "Debian: apt-get install g++ python3-dev, or leave engine.compile as it is"
    yield attempt("compile", "torch.compile", False, compiler)


def _draw(folder: Path) -> None:
    """Two classes of noise."""
    drawn = np.random.default_rng(0)
    for i in range(attempts.IMAGES):
        file = folder / f"class{i % 2}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(file)


def run_attempt(command: list[str], name: str, needed: bool, advice: str, timeout: float) -> Found:
    """What a process made of an attempt: it may raise, crash or hang, and this one goes on."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException as error:  # Ctrl-C, too, which reaches this process alone
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Found(name, f"hangs: nothing came of it in {timeout:.0f} s", False, needed, advice)
    lines = [line for line in (out if process.returncode == 0 else err or out).splitlines() if line.strip()]
    last = one_line(lines[-1], 300) if lines else ""
    if process.returncode == 0:
        return Found(name, last, True, needed)
    if process.returncode < 0:
        last = f"crashes ({signal.Signals(-process.returncode).name})"
    return Found(name, last or f"ends with status {process.returncode}", False, needed, advice)


def _extras() -> Iterator[Found]:
    for extra, packages in sorted(_packages_of_extras().items()):
        if extra in _NEEDED_ELSEWHERE:
            continue
        there = versions(packages)
        missing = [name for name in packages if name not in there]
        said = ", ".join(f"{name} {there[name]}" for name in packages if name in there)
        advice = f"pip install 'fastlt[{extra}]'" if missing else ""
        yield Found(extra, said if not missing else f"without {', '.join(missing)}", not missing, advice=advice)


def _packages_of_extras() -> dict[str, list[str]]:
    """{extra: packages}, of the checkout, or as fastlt was installed."""
    project = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"
    if project.is_file():
        listed = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
        return {extra: [_name(word) for word in words] for extra, words in listed.items()}
    found: dict[str, list[str]] = {}
    for word in importlib.metadata.requires("fastlt") or []:
        if extra := re.search(r"extra\s*==\s*['\"]([\w.-]+)", word):
            found.setdefault(extra[1], []).append(_name(word))
    return found


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None, "a requirement begins with a name"
    return match[0]
