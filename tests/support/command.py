"""A command of `fastlt` in the tests' own process, which has imported torch already and so saves seconds."""

import contextlib
import io
from pathlib import Path
from subprocess import CompletedProcess


def run_here(words: list[str], folder: Path | None = None) -> CompletedProcess[str]:
    """What `fastlt WORDS` returns and prints, typed in a folder."""
    from fastlt.cli import main  # imports what a machine for the kernels' tests alone may lack

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder or "."), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
