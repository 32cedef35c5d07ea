"""Lists of image URLs that users bring: CSV, TSV, Parquet, JSON lines, plain text, and folders of them.

A folder may be the output of img2dataset, whose NNNNN.parquet files have the list that it was made from.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fastlt.data_prep.catalog import Candidate, Catalog
from fastlt.data_prep.crawl.addresses import host_of, parse_url
from fastlt.data_prep.crawl.sources.answers import http_url
from fastlt.data_prep.crawl.sources.licenses import normalize
from fastlt.data_prep.names import clean_title, normalized

BATCH = 4096  # rows
_NO_LABEL = "all"  # the category of URLs in a list without labels
# Columns that are taken for what they are called, in any case of letters, the first one first.
COLUMNS = {
    "url": ("url",),
    "label": ("label", "class", "category"),
    "license": ("license",),
    "attribution": ("attribution", "creator", "author"),
    "page": ("page", "page_url"),
}

Row = tuple[int, dict[str, Any]]
"""The number of a line or row, and what it has: a value for each of `COLUMNS` that the list has."""
Choose = Callable[[list[str]], dict[str, str]]
"""From the names of a file's columns to {one of `COLUMNS`: its name there}."""


@dataclass(frozen=True)
class ListedUrl:
    """One row. The license is as `licenses.normalize` has it, or else as the list says."""

    url: str
    label: str = ""
    license: str = ""
    attribution: str = ""
    page: str = ""


class UrlList:
    """An iterable over batches of rows, in memory that does not grow with the list.

    `skipped` counts the rows, so far in this iteration, whose URL is empty or is none of http(s). Iterating raises
    ValueError for a file that cannot be read, a column that is not there and a list without any URL.
    """

    def __init__(self, path: Path, files: list[Path], url_column: str | None, label_column: str | None) -> None:
        self.path = path
        self.files = files
        self.skipped = 0
        self._asked_for = {"url": url_column, "label": label_column}

    def __iter__(self) -> Iterator[list[ListedUrl]]:
        self.skipped = 0
        first_skipped = ""
        found = 0
        batch = []
        for file in self.files:
            for number, row in self._rows(file):
                url = http_url(row.get("url"))
                if not url:
                    self.skipped += 1
                    first_skipped = first_skipped or f"; line {number} of {file.name} has {str(row.get('url'))[:200]!r}"
                    continue
                rest = {name: _as_text(row.get(name)) for name in COLUMNS if name != "url"}
                rest["license"] = normalize(rest["license"]) or rest["license"]
                batch.append(ListedUrl(url, **rest))
                found += 1
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if not found:
            raise ValueError(f"{self.path} has no URL of an image (http or https) in it{first_skipped}.")
        if batch:
            yield batch

    def _rows(self, file: Path) -> Iterator[Row]:
        try:
            yield from _READERS[_kind(file)](file, lambda names: self._choose(file, names))
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            raise ValueError(f"{file} cannot be read: {error}.") from None

    def _choose(self, file: Path, names: list[str]) -> dict[str, str]:
        by_lower_case = {name.lower(): name for name in reversed(names)}
        chosen = {}
        for column, usual in COLUMNS.items():
            asked_for = self._asked_for.get(column)
            if asked_for is not None:
                if asked_for not in names:
                    raise ValueError(f"{file} has no column {asked_for!r}, only {', '.join(names)}.")
                chosen[column] = asked_for
            elif name := next((by_lower_case[n] for n in usual if n in by_lower_case), None):
                chosen[column] = name
        if "url" not in chosen:
            raise ValueError(f"{file} has no column 'url', only {', '.join(names)}: say which one with --url-column.")
        return chosen


def read_url_list(path: Path, url_column: str | None = None, label_column: str | None = None) -> UrlList:
    """The rows of a list of URLs, to iterate over in batches.

    Args:
        path: a file (.csv, .tsv, .txt, .jsonl or .ndjson, each of them also .gz, or .parquet) or a folder with such
            files in it; folders in the folder are not looked at.
        url_column: default: the column called url in any case of letters.
        label_column: the category of the image; default: label, class or category, or none.

    Raises:
        ValueError: there is no such file or folder, or nothing in it that is known.
    """
    kinds = ", ".join(sorted(_READERS))
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if _kind(f) in _READERS and f.is_file())
        if not files:
            raise ValueError(f"{path} has no list of URLs in it, that is, no file that ends with {kinds}.")
    elif not path.is_file():
        raise ValueError(f"there is no list of URLs at {path}.")
    elif _kind(path) not in _READERS:
        raise ValueError(f"{path} is not a list that fastlt reads: its name must end with {kinds}.")
    else:
        files = [path]
    return UrlList(path, files, url_column, label_column)


def add_urls(catalog: Catalog, path: Path, url_column: str | None = None, label_column: str | None = None) -> int:
    """Adds a list of URLs to the catalog, each under the category of its label; returns how many were new.

    A list that was added before and has not changed is not read again.

    Raises:
        ValueError: as `read_url_list`.
    """
    urls, new = read_url_list(path, url_column, label_column), 0
    stamps = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in urls.files]
    as_added = json.dumps([stamps, url_column, label_column])
    if catalog.setting(f"list {path.absolute()}") == as_added:
        return 0
    categories: dict[str, int] = {}
    for batch in urls:
        with catalog.transaction():
            rows = []
            for listed in batch:
                url = parse_url(listed.url)
                if url is None:
                    continue
                if listed.label not in categories:
                    label = listed.label or _NO_LABEL
                    categories[listed.label] = catalog.add_category(
                        normalized(label) or label,
                        clean_title(label) or label,  # some labels have no letters
                    )
                about = (host_of(url), "list", listed.page, listed.license, listed.attribution)
                rows.append(Candidate(categories[listed.label], str(url), *about))
            new += catalog.add_candidates(rows)
    catalog.remember(f"list {path.absolute()}", as_added)
    if urls.skipped:
        print(f"{path}: {urls.skipped:,} rows without an http(s) URL were left out.", file=sys.stderr)
    return new


def _kind(file: Path) -> str:
    """What `_READERS` calls it."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _open(file: Path) -> IO[str]:
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    # A stray byte in somebody's name is no reason to lose the list.
    return opener(file, "rt", encoding="utf-8-sig", errors="replace", newline="")


def _as_text(value: Any) -> str:
    """On one line; "" for nothing, which pandas writes as NaN, and for what is no text."""
    return " ".join(str(value).split()) if isinstance(value, str | int | float) and value == value else ""


def _csv(file: Path, choose: Choose, delimiter: str = ",") -> Iterator[Row]:
    with _open(file) as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        if not reader.fieldnames:
            return
        columns = choose(list(reader.fieldnames))
        for row in reader:
            yield reader.line_num, {column: row[name] for column, name in columns.items()}


def _tsv(file: Path, choose: Choose) -> Iterator[Row]:
    return _csv(file, choose, delimiter="\t")


def _plain_text(file: Path, choose: Choose) -> Iterator[Row]:
    columns = choose(["url"])
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, dict.fromkeys(columns, line.strip())


def _json_lines(file: Path, choose: Choose) -> Iterator[Row]:
    columns = None
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {file} is not a JSON object, as every line must be.")
            columns = columns or choose(list(row))
            yield number, {column: row.get(name) for column, name in columns.items()}


def _parquet(file: Path, choose: Choose) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Buffered, a row group of any size is read piece by piece.
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            columns = choose(table.schema_arrow.names)
            for batch in table.iter_batches(BATCH, columns=list(columns.values())):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {column: row[name] for column, name in columns.items()}
    except pa.ArrowException as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


_READERS: dict[str, Callable[[Path, Choose], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _plain_text,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
