"""fastlt: long-tailed image classification by category extrapolation."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, kernels/ and data_prep/ lie beside this folder and belong to this package; installed, they lie inside.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.py").is_file() and (_root / "kernels").is_dir():
    __path__.append(str(_root))
