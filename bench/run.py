"""Measures: `python bench/run.py kernels [--device cpu|cuda] [--quick]`; appends to bench/results, prints a table."""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this checkout, not what happens to be installed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    suites = parser.add_subparsers(dest="suite", required=True)
    kernels = suites.add_parser("kernels", help="the loss against the authors' dense masks and eager torch")
    kernels.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    kernels.add_argument("--quick", action="store_true", help="small cases only, ends in a minute")
    kernels.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of records")
    arguments = parser.parse_args()

    import torch

    from bench import kernel_suite

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; use --device cpu.")
    kernel_suite.run(torch.device(device), arguments.quick, arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
