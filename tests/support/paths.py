"""Where things are that tests start or read."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SHARED = ROOT.parent / "shared"
"""Real data beside the checkout, which is not ours to publish; tests that read it skip where it is absent."""


def with_support() -> dict[str, str]:
    """The environment for a script that imports this package."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
