"""fastlt: long-tailed image classification by category extrapolation."""

from pathlib import Path

__version__ = "0.2.0"

# In a checkout, kernels/, configs/ and data_prep/ lie beside this folder and belong to this package; installed, they
# lie inside.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir():
    __path__.append(str(_root))
