"""Measures fastlt against the alternatives, on this machine.

Each suite appends one JSON line per measurement to <results>/<suite>-<device>.jsonl (median, p20, p80 in ms or
images/s, peak bytes, device, versions, commit) and prints a table; kernels also draws <results>/kernels-<device>.png.
Peers that are not installed are skipped with a line: pip install -e .[bench] gets them.

examples:
  python bench/run.py kernels                  on the GPU where there is one
  python bench/run.py kernels --device cpu --quick
  python bench/run.py encodings
  python bench/run.py crawl                    needs shared/data beside the checkout
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this checkout, not what happens to be installed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suites = parser.add_subparsers(dest="suite", required=True, metavar="suite")
    _add(suites, "kernels", "the loss against other implementations", ("cpu", "cuda"))
    _add(suites, "encodings", "encodings of silenced sets, on the CPU", ("cpu",))
    _add(suites, "crawl", "the crawler beside img2dataset, on the CPU", ("cpu",))
    arguments = parser.parse_args()

    import torch

    from bench import crawl_suite, encodings, kernel_suite

    suite = {"kernels": kernel_suite, "encodings": encodings, "crawl": crawl_suite}[arguments.suite]
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; use --device cpu.")
    suite.run(torch.device(device), arguments.quick, arguments.results)
    return 0


def _add(suites: argparse._SubParsersAction, name: str, what: str, devices: tuple[str, ...]) -> None:
    suite = suites.add_parser(name, help=what, description=f"Measures {what}.")
    only = devices[0] if len(devices) == 1 else None
    suite.add_argument("--device", choices=devices, default=only, help=f"default: {only or 'cuda where there is one'}")
    suite.add_argument("--quick", action="store_true", help="small cases only, ends within a minute")
    results = Path(__file__).parent / "results"
    suite.add_argument("--results", type=Path, default=results, help="folder of records (default: bench/results)")


if __name__ == "__main__":
    sys.exit(main())
