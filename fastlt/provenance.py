"""Where a result comes from: commit, versions and device, found without torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fastlt import __version__

_ROOT = Path(__file__).resolve().parent.parent


def commit(*folders: str) -> str:
    """The newest commit that changed these folders of the checkout, with a mark of what was changed since.

    So a commit of documents or results leaves it as it is. FASTLT_COMMIT says it for a copy of a checkout; where
    fastlt is installed, it is the version.
    """
    if told := os.environ.get("FASTLT_COMMIT"):
        return told
    newest = _git("log", "-1", "--abbrev=10", "--format=%h", "--", *folders).strip()
    if not newest:
        return __version__
    changed = _git("diff", "HEAD", "--", *folders)
    for name in _new_files(folders):
        file = _ROOT / name  # or a link to a folder or to nothing, or a repository of its own
        changed += name + (file.read_text(errors="replace") if file.is_file() else "")
    return f"{newest}-dirty-{hashlib.sha256(changed.encode()).hexdigest()[:6]}" if changed else newest


def changed_files(*folders: str) -> list[str]:
    """Files of these folders with changes that no commit has; none of a copy, which FASTLT_COMMIT names."""
    if os.environ.get("FASTLT_COMMIT"):
        return []
    return _git("diff", "HEAD", "--name-only", "-z", "--", *folders).split("\0")[:-1] + _new_files(folders)


def _new_files(folders: Sequence[str]) -> list[str]:
    return _git("ls-files", "-z", "--others", "--exclude-standard", "--", *folders).split("\0")[:-1]


def _git(*words: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(_ROOT), *words], capture_output=True, text=True, errors="replace"
        ).stdout
    except OSError:
        return ""


def versions(packages: Sequence[str]) -> dict[str, str]:
    """{package: version} of Python and those of these packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    return model[1] if model else platform.machine()


def gpu() -> str:
    """The name of the first GPU, as its driver tells it; "" where there is none."""
    for told in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if model := re.search(r"Model:\s*(.+)", told.read_text()):
            return model[1]
    return ""
