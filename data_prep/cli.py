"""The data stages of the `fastlt` command: discover, crawl, filter, status."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_status(commands) -> None:
    command = commands.add_parser("status", help="counts of every stage of a catalog")
    command.add_argument("catalog", type=Path, metavar="CATALOG", help="the catalog file")
    command.add_argument("--json", action="store_true", help="for scripts")
    command.set_defaults(run_command=_status)


def _status(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.catalog import Catalog
    from fastlt.data_prep.status import status_text

    with Catalog(arguments.catalog) as catalog:
        found = catalog.status()
    print(json.dumps(found, indent=1) if arguments.json else status_text(found))


# Each stage adds itself below: add_discover, add_crawl, add_filter.
COMMANDS = (add_status,)
