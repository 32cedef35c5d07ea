"""The `fastlt` command: everything but training itself."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path

from fastlt.data_prep.cli import COMMANDS as data_commands


def main(words: list[str] | None = None) -> int:
    """Runs one command; users' mistakes end it with one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="fastlt", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stages = (_add_encode, _add_evaluate, _add_export, _add_report, _add_draw, _add_demo)
    for add in (*data_commands, *stages):
        add(commands)
    arguments = parser.parse_args(words)
    try:
        arguments.run_command(arguments)
    except (ValueError, OSError, sqlite3.OperationalError) as error:  # the last one is a full disk, mostly
        print(f"fastlt: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _add_encode(commands) -> None:
    command = commands.add_parser("encode", help="images of classes to an encoded data set")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    command.add_argument("--check", action="store_true", help="read all of OUT, which is there, again")
    group = command.add_argument_group(
        "images", "SOURCE: class folders, or a split file: .json like COCO's and iNaturalist's, else `path label` lines"
    )
    group.add_argument("--train", type=Path, metavar="SOURCE", help="of the target classes")
    group.add_argument("--val", type=Path, metavar="SOURCE", help="of the same classes, for validation")
    group.add_argument("--test", type=Path, metavar="SOURCE", help="of the same classes, for testing")
    group.add_argument("--auxiliary", type=Path, metavar="SOURCE", help="of the auxiliary classes")
    group.add_argument("--images", type=Path, metavar="DIR", help="what the paths of split files are relative to")
    group.add_argument("--neighbors", type=Path, metavar="FILE", help="JSON object {target: [auxiliary, ...]}")
    group.add_argument("--catalog", type=Path, metavar="CATALOG", help="auxiliary images that `fastlt filter` kept")
    group.add_argument("--unfiltered", action="store_true", help="all images of the catalog")
    group.add_argument("--skip-broken", action="store_true", help="leave broken images out instead of failing")
    group = command.add_argument_group("how they are stored")
    group.add_argument(
        "--format",
        choices=["ffcv", "webdataset", "plain"],
        default="ffcv",
        help="webdataset: tars with DALI's index; plain: an index of the originals",
    )
    group.add_argument("--mode", choices=["jpg", "raw", "smart"], default="jpg", help="how FFCV stores an image")
    group.add_argument("--max-resolution", type=int, metavar="PX", help="shrink longer sides to this")
    group.add_argument(
        "--quality", type=int, default=90, metavar="Q", help="of JPEGs that are not copied as they are (default 90)"
    )
    command.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: all cores)")
    command.set_defaults(run_command=_encode)


def _encode(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.check_encoded import check_encoded
    from fastlt.data_prep.encode import encode
    from fastlt.data_prep.encode_inputs import Sources
    from fastlt.data_prep.storage import Storage

    if arguments.check:
        num_images = check_encoded(arguments.out, arguments.workers)
        print(f"{arguments.out}: all {num_images:,} images are whole, and files, index and labels agree")
        return
    if not arguments.train:
        raise ValueError("--train is missing: say where the training images are.")
    sources = Sources(
        train=arguments.train,
        val=arguments.val,
        test=arguments.test,
        auxiliary=arguments.auxiliary,
        neighbors=arguments.neighbors,
        images=arguments.images,
        catalog=arguments.catalog,
        unfiltered=arguments.unfiltered,
    )
    storage = Storage(
        format=arguments.format,
        mode=arguments.mode,
        max_resolution=arguments.max_resolution,
        quality=arguments.quality,
        workers=arguments.workers,
        skip_broken=arguments.skip_broken,
    )
    space = encode(arguments.out, sources, storage)
    print(
        f"{arguments.out}: {space.num_targets} target and {len(space.auxiliary_names)} auxiliary classes, "
        f"{len(space.neighbors)} neighbor pairs, {sum(space.counts):,} training images"
    )


def _add_evaluate(commands) -> None:
    command = commands.add_parser("evaluate", help="accuracy and calibration of a run on the target classes")
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--split", choices=["val", "test"], help="default: test where there is one, else val")
    command.add_argument("--weights", choices=["last", "best"], help="default: best (by val) on test, last on val")
    command.add_argument("--data", type=Path, metavar="DIR", help="another encoded data set of the same targets")
    command.set_defaults(run_command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from fastlt.encoded import EncodedDataset
    from fastlt.finished_run import BEST_WEIGHTS, FinishedRun

    run = FinishedRun(arguments.run, arguments.weights or "last")
    data = EncodedDataset.open(arguments.data or run.recipe.data.path)
    split = arguments.split or ("test" if "test" in data.splits else "val")
    # The best weights were chosen on val, so their accuracy there would be too good.
    chosen = split == "test" and (arguments.run / BEST_WEIGHTS).exists()
    weights = arguments.weights or ("best" if chosen else "last")
    if weights != run.weights:
        run = FinishedRun(arguments.run, weights)
    result = run.evaluate(split, arguments.data)
    result.save(arguments.run, run.label_space, split=split, weights=weights, epoch=run.about["epoch"])
    print(f"{arguments.run}, {weights} weights (epoch {run.about['epoch']}), {split}, {result.num_images:,} images")
    print(f"{result.row()}  MCE {result.mce:.1f}")
    print(f"written: {arguments.run / 'evaluation.json'}, {arguments.run / 'per_class.csv'}")


def _add_export(commands) -> None:
    command = commands.add_parser("export", help="target rows only, loadable by plain timm")
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder to make (default: RUN/export)")
    command.add_argument("--weights", choices=["last", "best"], default="last", help="default: last")
    command.set_defaults(run_command=_export)


def _export(arguments: argparse.Namespace) -> None:
    from fastlt.finished_run import FinishedRun

    out = arguments.out or arguments.run / "export"
    FinishedRun(arguments.run, arguments.weights).export(out)
    print(f"written: {out / 'model.safetensors'}, {out / 'model.json'}")


def _add_report(commands) -> None:
    command = commands.add_parser("report", help="an HTML page about one or several runs")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    command.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    command.add_argument("--sheet", type=Path, metavar="FILE", help="contact sheet of `fastlt filter`, to be shown too")
    command.set_defaults(run_command=_report)


def _report(arguments: argparse.Namespace) -> None:
    from fastlt.reporting import report, text_table

    report(arguments.runs, arguments.out, arguments.sheet)
    print(f"{text_table(arguments.runs)}\n\nwritten: {arguments.out}")


def _add_draw(commands) -> None:
    command = commands.add_parser("draw", help="a small fine-grained data set, drawn by code")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    command.add_argument("--seed", type=int, default=0, help="default: 0")
    command.set_defaults(run_command=_draw)


def _draw(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.drawn_species import draw_dataset

    draw_dataset(arguments.out, seed=arguments.seed)
    print(f"written: train, val, auxiliary and neighbors.json in {arguments.out}")


def _add_demo(commands) -> None:
    command = commands.add_parser("demo", help="the whole path on drawn species, in minutes")
    command.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    command.add_argument("--ranks", type=int, default=2, metavar="N", help="training processes (default: 2)")
    command.set_defaults(run_command=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    from fastlt.demo import demo

    demo(arguments.out, arguments.ranks)


if __name__ == "__main__":
    sys.exit(main())
