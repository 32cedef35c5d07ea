"""Measures fastlt against the alternatives, on this machine, and compares what was measured.

Each suite appends one JSON line per measurement to <results>/<suite>-<device>.jsonl (median, p20, p80 in ms or
images/s, peak bytes, device, versions, commit), prints a table, and answers its targets; kernels, loaders and train
also draw <results>/<suite>-<device>.png. What is measured with changes that are not committed is of no commit: it goes
to build/results, unless --results says where. `history` shows how the headline figures went from commit to commit.
Peers that are not installed are skipped with a line: pip install -e .[bench] gets those of the kernels.

examples:
  python bench/run.py kernels                  on the GPU where there is one
  python bench/run.py kernels --device cpu --quick
  python bench/run.py sass                     needs Triton and no GPU: what is predicted for some
  python bench/run.py counts                   what CI compares with the last record
  python bench/run.py crawl                    needs shared/data beside the checkout; installs img2dataset in build/
  python bench/run.py hostile                  needs root or user namespaces; --hosts 1000 for a smaller one
  python bench/run.py dump --rows 200000       a hundredth of the whole
  python bench/run.py captions
  python bench/run.py scale                    simulates crawls on up to 256 machines from the other records
  python bench/run.py review                   opens a page in Chromium; --quick for 20,000 images
  python bench/run.py filter                   needs shared/data; --run RUN adds a run's backbone
  python bench/run.py embed                    the same
  python bench/run.py predict                  the same
  python bench/run.py loaders                  the same; DALI where it is installed
  python bench/run.py train                    the same; on the GPU where there is one
  python bench/run.py tuning                   the same, needs peft
  python bench/run.py history                  draws bench/results/history.png; measures nothing
  python bench/run.py --compare OLD.jsonl NEW.jsonl
  python bench/run.py --compare bench/results/loaders-CPU.jsonl@COMMIT bench/results/loaders-CPU.jsonl
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this checkout, not what happens to be installed
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))  # commands, too

RESULTS = Path(__file__).resolve().parent / "results"

# One module of bench/suites each: what it measures, and on which devices.
SUITES = {
    "kernels": ("the loss against other implementations", ("cpu", "cuda")),
    "shapes": ("the kernels in every shape worth trying, on a GPU: their own tuning", ("cuda",)),
    "sass": ("the kernels' machine code, and what is predicted of it for GPUs that need not be there", ("cpu",)),
    "counts": ("operators, bytes and page faults of a loss call and a step, which no busy machine changes", ("cpu",)),
    "crawl": ("the crawler beside img2dataset, on the CPU", ("cpu",)),
    "hostile": ("a crawl of 10,000 hosts, a tenth of them hostile, beside one without these", ("cpu",)),
    "dump": ("a made dump of iNaturalist's form, joined to categories out of core", ("cpu",)),
    "captions": ("names in captions of web images, sought by `crawl --captions`", ("cpu",)),
    "scale": ("a crawl on machines that are not there, simulated from the records of those that are", ("cpu",)),
    "review": ("the page of `fastlt review` on a catalog of 1.2 million images, in Chromium", ("cpu",)),
    "filter": ("what filter keeps of mislabeled images, by default", ("cpu", "cuda")),
    "embed": ("filter's embedding beside its bare model", ("cpu", "cuda")),
    "predict": ("predictions from files beside the loader of a data set", ("cpu", "cuda")),
    "loaders": ("data pipelines and encoding beside their peers, on the CPU", ("cpu",)),
    "train": ("the trainer beside its bare model", ("cpu", "cuda")),
    "tuning": ("the trainer by what of the network is trained", ("cpu", "cuda")),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="records before and after: FILE.jsonl, FILE@COMMIT or a folder"
    )
    suites = parser.add_subparsers(dest="suite", metavar="suite")
    for name, (what, devices) in SUITES.items():
        _add(suites, name, what, devices)
    history = suites.add_parser("history", help="how the headline figures went from commit to commit")
    history.add_argument("--results", type=Path, default=RESULTS, help="folder of records (default: bench/results)")
    arguments = parser.parse_args()
    if bool(arguments.compare) == bool(arguments.suite):
        parser.error("give a suite, or --compare A B.")
    if arguments.compare:
        from bench.harness.compare import compare

        try:
            return 0 if compare(*arguments.compare) else 1
        except ValueError as error:
            parser.error(str(error))
    if arguments.suite == "history":
        from bench.harness.history import show

        try:
            return 0 if show(arguments.results) else parser.error(f"{arguments.results} has no headline figures.")
        except ValueError as error:
            parser.error(str(error))
    from bench.harness.records import code_commit

    code_commit()  # asked before anything is measured, and kept
    results = arguments.results or _results()

    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; use --device cpu.")
    os.environ.setdefault("DS_ACCELERATOR", device)
    suite = importlib.import_module(f"bench.suites.{arguments.suite}")
    names = {
        "kernels": ("cases", "without", "seconds"),
        "loaders": ("cases", "seconds"),
        "filter": ("data", "weights", "trained"),
        "hostile": ("hosts",),
        "dump": ("rows",),
        "scale": ("hosts", "exponent", "rate", "gbits", "transfer"),
        "train": ("ranks",),
    }
    chosen = {name: value for name in names.get(arguments.suite, ()) if (value := getattr(arguments, name)) is not None}
    suite.run(torch.device(device), arguments.quick, results, **chosen)
    return 0


def _results() -> Path:
    """bench/results, unless the tree has changes that no commit has."""
    from bench.harness.records import CODE
    from fastlt.messages import listed
    from fastlt.provenance import changed_files

    if not (changed := changed_files(*CODE)):
        return RESULTS
    aside = RESULTS.parents[1] / "build" / "results"
    print(
        f"Not committed: {listed(changed)}. What is measured now is of no commit, so its records go to {aside}; "
        "commit first, or say --results bench/results to have them there, marked -dirty.",
        file=sys.stderr,
    )
    return aside


def _add(suites: argparse._SubParsersAction, name: str, what: str, devices: tuple[str, ...]) -> None:
    suite = suites.add_parser(name, help=what, description=f"Measures {what}.")
    only = devices[0] if len(devices) == 1 else None
    suite.add_argument("--device", choices=devices, default=only, help=f"default: {only or 'cuda where there is one'}")
    suite.add_argument("--quick", action="store_true", help="small cases only, ends within a minute")
    if name in ("kernels", "loaders"):
        example = "131k, D=768" if name == "kernels" else "crop, tin_lt, encode"
        suite.add_argument("--cases", nargs="+", default=[""], metavar="TEXT", help=f"only cases named so: {example}")
        suite.add_argument("--seconds", type=float, metavar="S", help="for a pass or a pipeline (default 3 or 4)")
    if name == "kernels":
        suite.add_argument("--without", nargs="+", default=[], metavar="IMPL", help="what to leave out: compiled")
    if name == "filter":
        suite.add_argument("--data", type=Path, metavar="ZIP", help="tin_wide.zip (default: in shared/data)")
        suite.add_argument("--weights", type=Path, metavar="FILE", help="of tf_efficientnet_lite0 (default: the same)")
        suite.add_argument("--run", dest="trained", type=Path, metavar="RUN", help="a run of tin_wide's targets too")
    if name == "hostile":
        suite.add_argument("--hosts", type=int, metavar="N", help="default: 10,000; two good images for each")
    if name == "dump":
        suite.add_argument(
            "--rows", type=int, metavar="N", help="photos (default: 20,000,000), and the rest in proportion"
        )
    if name == "scale":
        suite.add_argument("--hosts", type=int, metavar="N", help="among which URLs are divided (default: 70,000)")
        suite.add_argument("--exponent", type=float, metavar="S", help="of their Zipf distribution (default: 1)")
        suite.add_argument("--rate", type=float, metavar="R", help="requests a second to one host (default: 10)")
        suite.add_argument("--gbits", type=float, metavar="G", help="of a machine's network (default: 1)")
        suite.add_argument("--transfer", type=float, metavar="S", help="seconds of one transfer (default: 0.2)")
    if name == "train":
        suite.add_argument("--ranks", type=int, nargs="+", metavar="N", help="default: 1, 2, 4, ... up to the GPUs")
    what = "folder of records (default: bench/results; build/results where changes are not committed)"
    suite.add_argument("--results", type=Path, help=what)


if __name__ == "__main__":
    sys.exit(main())
