"""URLs of images from lists that people bring, entered in the catalog: what is taken, what is left out, and why."""

from __future__ import annotations

import json
import lzma
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.addresses import host_of
from fastlt.data_prep.crawl.lists.cells import as_text, image_urls, page_of
from fastlt.data_prep.crawl.lists.columns import NONE, Asked, Columns, choose, label_of
from fastlt.data_prep.crawl.lists.opening import open_table
from fastlt.data_prep.crawl.lists.table import NoListError, Table
from fastlt.data_prep.crawl.sources.inaturalist import as_inaturalist_has_it
from fastlt.data_prep.names import clean_title, normalized
from fastlt.licenses import normalize
from fastlt.messages import listed, one_line

BATCH = 4096  # URLs
ONE_CATEGORY = "all"  # of a list without labels
_ENDINGS = {".parquet", ".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".txt"}
_PACKED = {".gz", ".bz2", ".xz"}
_MAX_NAMED = 5
_READ_AS = 4  # raised when lists are read otherwise, so that they are read again
_NO_LABEL = f"without a label, which stand under {ONE_CATEGORY!r}"
_SEVERAL_LABELS = "with several labels, of which the first counts"


@dataclass(frozen=True)
class ListedUrl:
    """One URL. The license is as `licenses.normalize` has it, or else as the list says; None where it has no column."""

    url: str
    label: str = ""
    license: str | None = None
    attribution: str | None = None
    page: str | None = None


class UrlList:
    """An iterable over batches of URLs, in memory that does not grow with the list, but for JSON that is one value.

    Args:
        path: a file, or a folder whose Parquet files, or else whose other lists, are one list.
        asked: columns that people named.
        before: those that they named for an earlier state of the list; what it has no more is not meant.

    Attributes:
        rows: how many were read, so far in this iteration.
        columns: of each file read.
        left_out: rows, and things in them, that gave no URL: {what: number}.

    Raises:
        ValueError: there is no such file or folder; iterating: a file that is no list, a column that is not there or
            not clear, and a list without any URL.
    """

    def __init__(self, path: Path, asked: Asked | None = None, before: Asked | None = None) -> None:
        self.path, self.asked, self._asked_before = path, asked or Asked(), before or Asked()
        self.files, self._other_files = files_of_list(path)
        self._begin()

    def _begin(self) -> None:
        self.rows = self._resized = 0
        self.columns: dict[Path, Columns] = {}
        self.left_out: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._no_lists: list[str] = []
        self._first: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[ListedUrl]]:
        self._begin()
        batch: list[ListedUrl] = []
        found = 0
        tables = self._tables()  # questions come before anything is taken
        for table in tables:
            for url in self._urls(table):
                batch.append(url)
                found += 1
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if not found:
            why = "".join(f"; {line}" for line in self.remarks()[:1])
            raise ValueError(f"{self.path} has no URL of an image (http or https) in it{why}.")
        if batch:
            yield batch

    def _tables(self) -> list[Table]:
        """The files opened, but for those in a folder that are no lists, while others are."""
        tables, refused = [], []
        for file in self.files:
            try:
                tables.append(self._open(file))
            except NoListError as error:
                refused.append(error)
        if refused and not tables:
            raise refused[0]
        self._no_lists = list(map(str, refused))
        self._ask_for_labels(tables)
        return tables

    def _ask_for_labels(self, tables: Sequence[Table]) -> None:
        """A folder of lists without labels, each called otherwise, may have its labels in their names."""
        chosen = [self.columns[table.file] for table in tables if table.file in self.columns]
        files = [table.file for table in tables]
        names = [file.parent.name if len({f.stem for f in files}) == 1 else file.stem for file in files]
        several = len(names) > 1 and len({re.sub(r"[\W\d_]+", "", name) for name in names}) == len(names)
        several &= not all(re.match(r"train|val|test|dev", name) for name in names)  # splits, and no labels
        if (
            self.asked.label is None
            and self._asked_before.label is None
            and several
            and not any(c.label for c in chosen)
        ):
            raise ValueError(
                f"{self.path}: are the names of these lists the labels, {' or '.join(names[:2])}? Then write them "
                "into a column; or say with --label-column none that all images are of one category."
            )

    def _open(self, file: Path) -> Table:
        with _readable(file):
            table = open_table(file)
            if table.names:
                self.columns[file] = choose(table, self._meant(table))
            return table

    def _meant(self, table: Table) -> Asked:
        known = {*table.names, NONE}
        before = {what: name for what, name in asdict(self._asked_before).items() if name in known}
        return Asked(**before | {what: name for what, name in asdict(self.asked).items() if name is not None})

    def _urls(self, table: Table) -> Iterator[ListedUrl]:
        if table.file not in self.columns:
            return
        columns = self.columns[table.file]
        with _readable(table.file):
            for number, row in table.rows(columns.needed()):
                self.rows += 1
                yield from self._of_row(table, columns, number, row)
        self._note_odd(table)

    def _of_row(self, table: Table, columns: Columns, number: int, row: dict[str, Any]) -> Iterator[ListedUrl]:
        urls, others = image_urls(columns.url_cell(row))
        if urls:
            others = [other for other in others if other != "without a URL"]
        for other in others:
            self.left_out[other] += 1
            self._first.setdefault(other, f"{_place(table, number)}: {_short(columns.url_cell(row))}")
        license, attribution, page = (
            as_text(row.get(name)) if name else None for name in (columns.license, columns.attribution, columns.page)
        )
        about = (label_of(columns.label_cell(row)), license and (normalize(license) or license), attribution)
        labels = row.get(columns.label)
        if urls and columns.label and not about[0]:
            self._odd[_NO_LABEL] += 1
            self._first.setdefault(_NO_LABEL, _place(table, number))
        if isinstance(labels, list) and len(labels) > 1:
            self._odd[_SEVERAL_LABELS] += 1
            self._first.setdefault(_SEVERAL_LABELS, _place(table, number))
        for url in urls:
            usual = as_inaturalist_has_it(url)
            self._resized += usual != url
            yield ListedUrl(usual, *about, page or page_of(url) or page)

    def _note_odd(self, table: Table) -> None:
        for what, number in table.told.items():
            self._odd[what] += number
            self._first.setdefault(what, f"line {table.first[what]} of {table.file.name}")

    def summary(self) -> list[str]:
        """What was read, by columns: a line for each choice of them."""
        choices = Counter(map(str, self.columns.values()))
        if len(choices) == 1:
            return [f"{self.path}: {_number(self.rows, 'row')}; {next(iter(choices))}"]
        shown = [f"{self.path}: {number:,} files; {choice}" for choice, number in choices.most_common(_MAX_NAMED)]
        return [f"{self.path}: {self.rows:,} rows", *shown]

    def remarks(self) -> list[str]:
        """What was left out and what was odd, each with its number and where it is first."""
        lines = [
            f"left out: {_number(n, 'row')} {what} ({self._first[what]})" for what, n in self.left_out.most_common()
        ]
        lines += [f"{_number(n, 'line')} {what} ({self._first[what]})" for what, n in self._odd.most_common()]
        if self._no_lists:
            shown = "; ".join(sentence.rstrip(".") for sentence in self._no_lists[:_MAX_NAMED])
            lines.append(f"left out: {_number(len(self._no_lists), 'file')}: {shown}")
        if self._other_files:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in self._other_files.most_common(_MAX_NAMED))
            lines.append(f"left out: files that are not part of the list: {kinds}")
        if self._resized:
            lines.append(f"{_number(self._resized, 'photo')} of iNaturalist, fetched at medium size")
        return lines


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{file} cannot be read: {one_line(error)}.") from None


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _place(table: Table, number: int) -> str:
    return f"{table.unit} {number} of {table.file.name}"


def _short(cell: Any) -> str:
    return one_line(repr(cell))


def files_of_list(path: Path) -> tuple[list[Path], Counter[str]]:
    """(the files of a list, in order; others in its folder, by kind)."""
    if path.is_file():
        return [path], Counter()
    if not path.is_dir():
        is_url = re.match(r"https?:/", str(path))
        raise ValueError(f"there is no list of URLs at {path}{': download it first' if is_url else ''}.")
    below = sorted(_files_below(path))
    # Beside Parquet files lie those that say how they were made.
    files = [file for file in below if _ending(file) == ".parquet"]
    files = files or [file for file in below if _ending(file) in _ENDINGS and file.parent == path]
    files = files or [file for file in below if _ending(file) in _ENDINGS]
    if not files:
        raise ValueError(f"{path} has no list of URLs in it, that is, no file that ends with {', '.join(_ENDINGS)}.")
    taken = set(files)
    return files, Counter(_ending(file) or "without ending" for file in below if file not in taken)


def _files_below(path: Path) -> Iterator[Path]:
    """Files that are not hidden, through links, each folder once."""
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(place)
        files = (Path(folder, name) for name in names if not name.startswith("."))
        yield from (file for file in files if file.is_file())  # a pipe would be waited for


def _ending(file: Path) -> str:
    """Without packing, and without the number of a part: .tsv000 is .tsv."""
    name = file.name.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix.rstrip("0123456789")


@dataclass(frozen=True)
class Added:
    """What a list brought: URLs that are new, and those known before whose label, license or the like it changed."""

    new: int
    changed: int
    lines: Sequence[str] = ()


def add_urls(catalog: Catalog, path: Path, asked: Asked | None = None) -> Added:
    """Enters a list of URLs in the catalog, each under the category of its label.

    What the catalog knows of a URL becomes what the list says. Columns that were named once are remembered for the
    list; one that has not changed since is not read again.

    Raises:
        ValueError: as `UrlList`.
    """
    known = catalog.list_at(path)
    asked, before = asked or Asked(), Asked(**json.loads(known["columns"])) if known else Asked()
    urls = UrlList(path, asked, before)
    stamps = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in urls.files]
    named = {what: name if name is not None else getattr(before, what) for what, name in asdict(asked).items()}
    read_as = json.dumps([_READ_AS, stamps, named])
    if known and known["read_as"] == read_as:
        return Added(0, 0, [f"{path}: not changed since it was read{_said(named, ', with ')}"])
    entering: _Entering | None = None
    for batch in urls:
        with catalog.transaction():  # a list that is refused leaves nothing
            entering = entering or _Entering(catalog, catalog.begin_list(path))
            entering.add(batch)
    assert entering  # a list without any URL has raised
    with catalog.transaction():
        entering.leave_out_the_rest()
        catalog.remove_empty_categories()
        catalog.end_list(entering.number, json.dumps(named), read_as)
    lines = [*urls.summary(), *urls.remarks(), *entering.remarks()]
    if not any(columns.license for columns in urls.columns.values()):
        lines.append("no column says under which licenses the images are")
    if said := _said(asdict(before), "as before for this list: "):
        lines.append(said)
    return Added(entering.counts["new"], entering.counts["changed"], lines)


def _said(named: dict[str, str | None], introduction: str) -> str:
    """The options that named columns."""
    said = ", ".join(f"--{what}-column {name}" for what, name in named.items() if name is not None)
    return f"{introduction}{said}" if said else ""


class _Entering:
    """Entering the rows of one list in the catalog, with what there is to say of them."""

    def __init__(self, catalog: Catalog, number: int) -> None:
        self._catalog, self.number = catalog, number
        self._categories: dict[str, int] = {}  # by label
        self._labels: dict[int, list[str]] = {}
        self._reopened: list[str] = []
        self.counts: Counter[str] = Counter()
        self._entered = bytearray()  # by id, 1 for those of this list

    def add(self, batch: Sequence[ListedUrl]) -> None:
        first: dict[str, ListedUrl] = {}
        for row in batch:
            first.setdefault(row.url, row)
        self.counts["repeated"] += len(batch) - len(first)
        entered = []
        for row in first.values():
            known = self._catalog.candidate_of_url(row.url)
            if known is not None and known < len(self._entered) and self._entered[known]:
                self.counts["repeated"] += 1
                continue
            about = (host_of(URL(row.url)), "list", row.page, row.license, row.attribution)
            candidate = Candidate(self._category(row.label), row.url, *about)
            at, what = self._catalog.enter_candidate(candidate, self.number)
            self.counts[what] += 1
            self._entered.extend(bytes(max(0, at + 1 - len(self._entered))))
            self._entered[at] = 1
            entered.append(at)
        self._catalog.set_listed(self.number, entered)

    def leave_out_the_rest(self) -> None:
        """What the list had once and has no more, as when other columns were named, is dropped."""
        gone = [at for at in self._catalog.listed(self.number) if at >= len(self._entered) or not self._entered[at]]
        self.counts["gone"], self.counts["back"] = self._catalog.set_unlisted(self.number, gone)

    def _category(self, label: str) -> int:
        if label not in self._categories:
            title = clean_title(label) or label or ONE_CATEGORY  # some labels have no letters
            category = self._catalog.add_category(normalized(label) or title, title)
            if self._catalog.keep_category(category):
                self._reopened.append(title)
            self._categories[label] = category
            self._labels.setdefault(category, []).append(label)
        return self._categories[label]

    def remarks(self) -> list[str]:
        """Labels that were taken for the same, URLs that came twice, and those that the list has no more."""
        same = [labels for labels in self._labels.values() if len(labels) > 1]
        lines = []
        if same:
            shown = "; ".join(" = ".join(map(repr, labels[:_MAX_NAMED])) for labels in same[:_MAX_NAMED])
            number = "1 category stands" if len(same) == 1 else f"{len(same):,} categories stand"
            lines.append(f"{number} under several labels: {shown}")
        titles = list(dict.fromkeys(label or ONE_CATEGORY for label in self._categories))
        if titles == [ONE_CATEGORY]:
            lines.append(f"all of it is one category, {ONE_CATEGORY!r}: --label-column names a column of labels")
        else:
            lines.append(f"{'1 category' if len(titles) == 1 else f'{len(titles):,} categories'}: {listed(titles, 3)}")
        if repeated := self.counts["repeated"]:
            lines.append(f"{_number(repeated, 'row')} with a URL that stood before, whose first row counts")
        if self._reopened:
            lines.append(
                f"categories that were rejected before, taken in as the list has them: {listed(self._reopened)}"
            )
        if self.counts["changed"] and self._catalog.has_images():
            lines.append("shards keep what was said of their images when they were written; the catalog has what holds")
        if gone := self.counts["gone"]:
            lines.append(f"{_number(gone, 'URL')} that stood in this list once and no more, left out")
        if back := self.counts["back"]:
            lines.append(f"{_number(back, 'URL')} that had left this list, taken again")
        return lines
