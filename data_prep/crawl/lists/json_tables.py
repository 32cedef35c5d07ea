"""Records that somebody wrote as JSON: an object a line, or one value in any of the forms that programs write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastlt.data_prep.crawl.lists.cells import is_url
from fastlt.data_prep.crawl.lists.table import NO_OBJECT, NoListError, Row, Table
from fastlt.data_prep.crawl.lists.text_file import as_unicode, decoded, text_lines, unpacked
from fastlt.foreign import parse_json

_MAX_JSON_BYTES = 2**30
_MOST_MARKS = 10_000_000  # lists and objects: COCO's largest file has 4 million, and 50 million need 3 GB
_MOST_COMMAS = 100_000_000  # of iNaturalist 2021's largest file, an estimate: 45 million; as many floats need 3 GB


class JsonLinesTable(Table):
    """An object a line; not all of them need all names."""

    def __init__(self, file: Path, encoding: str) -> None:
        super().__init__(file)
        self._encoding = encoding
        # A name may come first in the last line, and its values are not to be lost.
        self.names = list(dict.fromkeys(name for _, row in self.rows() for name in row))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        with text_lines(self.file, self._encoding) as lines:
            for number, line in enumerate(as_unicode(lines, self.tell), 1):
                if not line.strip():
                    continue
                try:
                    row = parse_json(line)
                except ValueError:
                    row = None
                if isinstance(row, list) and row:
                    row = {str(i + 1): cell for i, cell in enumerate(row)}
                if isinstance(row, dict):
                    yield number, row
                else:
                    self.tell(NO_OBJECT, number)


class JsonTable(Table):
    """One JSON value: records, columns as pandas writes them, or an object with one of these in it."""

    unit = "record"

    def __init__(self, file: Path, encoding: str) -> None:
        super().__init__(file)
        with unpacked(file) as stream:
            raw = stream.read(_MAX_JSON_BYTES + 1)
        marks = raw.count(b"[") + raw.count(b"{")
        if len(raw) > _MAX_JSON_BYTES or marks > _MOST_MARKS or raw.count(b",") > _MOST_COMMAS:
            raise ValueError(f"{file} is too long for one JSON value: write a record a line, as .jsonl.")
        try:
            lines = decoded(raw, encoding).splitlines(keepends=True)
            value = parse_json("".join(as_unicode(lines, self.tell)))
            self._odd = Counter(self.told), dict(self.first)
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}.") from None
        self._records = _records_in(value)
        if not self._records and value:
            raise NoListError(f"{file} has no list of records in it.")
        self.names = list(dict.fromkeys(name for row in self._records if isinstance(row, dict) for name in row))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        self.told.update(self._odd[0])
        self.first |= self._odd[1]
        for number, row in enumerate(self._records, 1):
            if isinstance(row, dict):
                yield number, row
            else:
                self.tell(NO_OBJECT, number)


def _records_in(value: Any) -> list[Any]:
    """The records that a JSON value is or holds."""
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            return [{"url": item} for item in value]
        if value and all(isinstance(item, list) for item in value):
            return [{str(i + 1): cell for i, cell in enumerate(item)} for item in value]
        return value
    if not isinstance(value, dict) or not value:
        return []
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas' "split"
        names, rows = [*map(str, value["columns"])], value["data"]
        return [dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in rows]
    if records := _of_coco(value):
        return records
    inner = list(value.values())
    of_urls = any(inner) and all(isinstance(item, list) and all(map(is_url, item)) for item in inner)
    if of_urls and not any(_COLUMN_OF_URLS.search(name) for name in value):
        return [{"label": label, "url": url} for label, urls in value.items() for url in urls]
    if all(isinstance(item, dict) for item in inner):
        with_url = [item for item in inner if any(map(is_url, item.values()))]
        all_urls = all(all(map(is_url, item.values())) for item in with_url)
        if 2 * len(with_url) > len(inner) and (not all_urls or all(map(str.isdecimal, value))):
            return inner  # {row: {column: value}}
        if not with_url:
            return max(map(_records_in, inner), key=len)  # {"data": {"items": [...]}}
        keys = dict.fromkeys(key for item in inner for key in item)
        return [{name: column.get(key) for name, column in value.items()} for key in keys]  # {column: {row: value}}
    if (
        all(isinstance(item, list) for item in inner)
        and len({len(item) for item in inner}) == 1
        and not any(isinstance(item[0], dict) for item in inner if item)
    ):
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]  # {column: [value, ...]}
    if all(is_url(key) for key in value):
        return [{"url": key, "label": item} for key, item in value.items()]
    if all(is_url(item) for item in inner):
        return [{"label": key, "url": item} for key, item in value.items()]
    lists = {name: item for name, item in value.items() if isinstance(item, list) and item}
    holding = {name: item for name, item in lists.items() if any(map(_has_url, item))}
    if len(holding) > 1:
        what = "split" if all(name.lower() in _SPLITS for name in holding) else "category"
        return [{what: name} | row if isinstance(row, dict) else row for name, rows in holding.items() for row in rows]
    found = [*(holding or lists).values(), *(_records_in(item) for item in inner if isinstance(item, dict))]
    return max(found, key=len, default=[])


def _has_url(record: Any) -> bool:
    return isinstance(record, dict) and any(map(is_url, record.values()))


def _of_coco(value: dict[str, Any]) -> list[Any]:
    """The images of COCO's format, each with the names of its categories."""
    images, annotations, categories = (value.get(name) for name in ("images", "annotations", "categories"))
    if not (isinstance(images, list) and isinstance(annotations, list) and isinstance(categories, list)):
        return []
    names = {str(item.get("id")): item.get("name") for item in categories if isinstance(item, dict)}
    labels: dict[str, dict[Any, None]] = {}
    for item in annotations:
        if isinstance(item, dict) and isinstance(name := names.get(str(item.get("category_id"))), str):
            labels.setdefault(str(item.get("image_id")), {})[name] = None
    found = []
    for image in images:
        if not isinstance(image, dict):
            found.append(image)
            continue
        urls = [image[key] for key in _COCO_URLS if is_url(image.get(key))]
        found.append({"url": urls[0] if urls else None, "label": list(labels.get(str(image.get("id")), {}))})
    return found


# Lists of URLs with such a name are columns, others those of labels.
_COLUMN_OF_URLS = re.compile(
    r"ur[li]|link|href|src|^(images?|img|photos?|pictures?|page|thumbnails?|source)$", re.IGNORECASE
)
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_COCO_URLS = ("coco_url", "url", "image_url", "flickr_url")
