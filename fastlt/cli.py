"""The `fastlt` command: everything but training itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(words: list[str] | None = None) -> int:
    """Runs one command; users' mistakes end it with one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="fastlt", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_encode(commands)
    arguments = parser.parse_args(words)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"fastlt: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _add_encode(commands) -> None:
    command = commands.add_parser("encode", help="class folders to an encoded data set")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    command.add_argument("--train", type=Path, required=True, metavar="DIR", help="class folders of the targets")
    command.add_argument("--val", type=Path, required=True, metavar="DIR", help="the same classes, for validation")
    command.add_argument("--test", type=Path, metavar="DIR", help="the same classes, for testing")
    command.add_argument("--auxiliary", type=Path, metavar="DIR", help="class folders of the auxiliary classes")
    command.add_argument("--neighbors", type=Path, metavar="FILE", help="JSON object {target: [auxiliary, ...]}")
    command.add_argument("--format", choices=["ffcv", "plain"], default="ffcv", help="plain: an index, without FFCV")
    command.add_argument("--mode", choices=["jpg", "raw", "smart"], default="jpg", help="how FFCV stores an image")
    command.add_argument("--max-resolution", type=int, metavar="PX", help="shrink longer sides to this")
    command.add_argument("--quality", type=int, default=90, metavar="Q", help="JPEG quality (default 90)")
    command.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: all cores)")
    command.add_argument("--skip-broken", action="store_true", help="leave broken images out instead of failing")
    command.set_defaults(run=_encode)


def _encode(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.encode import EncodeOptions, encode

    options = EncodeOptions(
        format=arguments.format,
        mode=arguments.mode,
        max_resolution=arguments.max_resolution,
        quality=arguments.quality,
        workers=arguments.workers,
        skip_broken=arguments.skip_broken,
    )
    space = encode(
        arguments.out, arguments.train, arguments.val, arguments.test, arguments.auxiliary, arguments.neighbors, options
    )
    print(
        f"{arguments.out}: {space.num_targets} target and {len(space.auxiliary_names)} auxiliary classes, "
        f"{len(space.neighbors)} neighbor pairs, {sum(space.counts):,} training images"
    )


if __name__ == "__main__":
    sys.exit(main())
