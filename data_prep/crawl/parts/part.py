"""One part of a catalog: a catalog beside it with the candidates of its hosts, for one process at a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import DatabaseError, IntegrityError
from typing import NamedTuple

from fastlt.atomic import publish_file
from fastlt.data_prep.catalog import Catalog, held_catalog, require_catalog
from fastlt.data_prep.catalog.database import Database
from fastlt.data_prep.crawl.parts import lease
from fastlt.data_prep.crawl.parts.lease import Lease, LeaseLostError
from fastlt.data_prep.crawl.parts.shares import Share, part_of
from fastlt.messages import listed, one_line
from fastlt.ownership import make_own

_OWNER = "part owner"
_SETTINGS = ("crawl options", "crawl policy")


class Claim(NamedTuple):
    """What a process may ask: hosts of its share, for as long as it has the lease."""

    share: Share
    lease: Lease

    def owns(self, host: str) -> bool:
        """Whether the host belongs to this part."""
        return self.share.owns(host)

    def check(self) -> None:
        """Raises LeaseLostError when another process may ask by now."""
        self.lease.check()


def parts_folder(catalog: Path) -> Path:
    """Where the parts of a catalog are: beside it."""
    return catalog.with_name(f"{catalog.stem}_parts")


def part_path(catalog: Path, share: Share) -> Path:
    """The catalog of a part."""
    return parts_folder(catalog) / f"{share.number:04d}-of-{share.parts:04d}.sqlite"


def parts_of(catalog: Path) -> dict[Share, Path]:
    """The parts that there are, by number."""
    found = {}
    for path in sorted(parts_folder(catalog).glob("[0-9]*-of-[0-9]*.sqlite")):
        number, _, parts = path.stem.partition("-of-")
        if number.isdecimal() and parts.isdecimal():
            found[Share(int(number), int(parts))] = path
    return found


def require_no_parts(catalog: Path, but: int = 0) -> None:
    """Raises ValueError where hosts of a catalog may have owners already: it is in parts, not so many as `but`."""
    if others := sorted({share.parts for share in parts_of(catalog)} - {but}):
        raise ValueError(
            f"{catalog} is in {others[0]} parts: give --part K/{others[0]}, or join them first with `fastlt merge "
            f"{catalog}`."
        )


@contextmanager
def open_part(catalog: Path, share: Share, seconds: float) -> Iterator[tuple[Catalog, Claim]]:
    """A part, made if there is none, with the candidates of its hosts that have come to the catalog since.

    Args:
        catalog: the whole, which is read only.
        share: which part.
        seconds: without a sign of life after which a process that works on a part is taken for dead.

    Raises:
        ValueError: there is no catalog, another process works on the part, or the catalog is in other parts.
    """
    require_catalog(catalog)  # before anything is made beside it
    path = part_path(catalog, share)
    with held_catalog(catalog, f"making {share}", wait=True):
        require_no_parts(catalog, but=share.parts)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            _make(path)
    with owned_part(path, seconds) as (part, holding):
        with held_catalog(catalog, f"filling {share}", wait=True), Catalog(catalog) as whole:
            _copy(whole, part, share)
        yield part, Claim(share, holding)


@contextmanager
def owned_part(path: Path, seconds: float) -> Iterator[tuple[Catalog, Lease]]:
    """A part in which nobody else commits anything from now on, however late they wake up."""
    with lease.held(path, seconds) as holding, Catalog(path) as part:
        _own(part, holding)
        yield part, holding


def _make(path: Path) -> None:
    """An empty catalog, whole at once.

    Raises:
        ValueError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.partial")
    make_own(temporary)
    try:
        with Catalog(temporary, create=True) as made:
            # All of it into the one file. Closing does so too, but does not say where there is no room for it.
            made.connection.execute("PRAGMA journal_mode = DELETE")
    except DatabaseError as error:
        raise ValueError(f"{path} cannot be made: {one_line(error)}. Make room, then run the same command.") from None
    finally:
        for ending in ("-wal", "-shm"):
            Path(f"{temporary}{ending}").unlink(missing_ok=True)
    publish_file(temporary, path)


def _own(part: Catalog, holding: Lease) -> None:
    token = uuid.uuid4().hex
    part.remember(_OWNER, token)

    def require_owner(writing: Database) -> None:
        holding.check()
        if writing.setting(_OWNER) != token:
            raise LeaseLostError(f"another process works on {part.path} by now: nothing more is written here.")

    part.fence = require_owner


def _copy(whole: Catalog, part: Catalog, share: Share) -> None:
    """Categories, options, and the candidates without an outcome that are new to the part, under the same numbers."""
    hosts = share.of(whole.waiting_hosts())
    try:
        with part.transaction():
            for name in _SETTINGS:
                if value := whole.setting(name):
                    part.remember(name, value)
            part.copy_categories(tuple(row) for row in whole.category_rows())
            for host in hosts:
                part.copy_candidates(tuple(row) for row in whole.unfetched_of_host(host))
            part.copy_used(tuple(row) for row in whole.all_used() if share.owns(row["host"]))
    except IntegrityError:
        raise ValueError(of_another(part.path, whole.path)) from None


def of_another(part: Path, whole: Path) -> str:
    """What is said of a part whose candidates are not the catalog's."""
    return (
        f"{part} is a part of another catalog than {whole}, which has other URLs under the same numbers: bring that "
        f"catalog back and merge it, or move {part.parent} away."
    )


def unfinished(catalog: Path) -> list[str]:
    """What there is to do before the parts can be joined, in sentences."""
    found = parts_of(catalog)
    said = []
    for share, path in found.items():
        with Catalog(path) as part:
            if waiting := part.num_waiting():
                said.append(f"{share} has {waiting:,} URLs without an outcome")
    (parts,) = {share.parts for share in found}
    with Catalog(catalog) as whole:
        needed = {part_of(host, parts) for host in whole.waiting_hosts()}
    missing = [share for share in (Share(number, parts) for number in sorted(needed)) if share not in found]
    if missing:
        said.append(f"{listed([str(share) for share in missing])} {'is' if len(missing) == 1 else 'are'} not begun")
    return said
