"""Darwin Core archives: a zip or a folder, where meta.xml says which file has which columns.

https://dwc.tdwg.org/text/ and https://techdocs.gbif.org/en/data-use/download-formats
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from fastlt.data_prep.dumps.text_tables import TextTable
from fastlt.messages import one_line

META = "meta.xml"
_MOST_META = 2**20  # bytes
_DIGITS = 9  # of the number of a line or column
_TEXT = "{http://rs.tdwg.org/dwc/text/}"
_SIGNS = {r"\t": "\t", r"\n": "\n", r"\r": "\r", r"\\": "\\"}
Open = Callable[[str], BinaryIO]


def files_of(where: str) -> dict[str, Path]:
    """The archive, or the files in its folder.

    Raises:
        ValueError: there is none.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return {"": path}
    if not (path / META).is_file():
        raise ValueError(f"{path} is no Darwin Core archive: give the zip, or its folder with {META}.")
    return {file.name: file for file in sorted(path.iterdir()) if file.is_file()}


@contextmanager
def open_archive(files: dict[str, Path]) -> Iterator[Open]:
    """Opens the archive's files by name.

    Raises:
        ValueError: it is no archive; opening: it has no such file.
    """
    if "" not in files:

        def of_folder(name: str) -> BinaryIO:
            if name not in files:
                raise ValueError(f"{files[META].parent} has no {one_line(name)}, which its {META} names.")
            return files[name].open("rb")

        yield of_folder
        return
    path = files[""]
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no Darwin Core archive: {one_line(error)}.") from None

    def of_archive(name: str) -> BinaryIO:
        try:
            return archive.open(name)  # type: ignore[return-value]
        except KeyError:
            raise ValueError(f"{path} has no {one_line(name)}: it is no whole Darwin Core archive.") from None
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read: {one_line(error)}.") from None

    with archive:
        yield of_archive


def tables_of(place: str, opened: Open, kinds: Collection[str]) -> list[tuple[str, TextTable]]:
    """(kind, table) of the core and its extensions, as meta.xml describes them.

    Args:
        place: the archive, for messages.
        opened: opens its files.
        kinds: of rows, in lower case, such as "taxon"; others are not looked at.

    Raises:
        ValueError: it is no such description.
    """
    with opened(META) as stream:
        text = stream.read(_MOST_META + 1)
    if len(text) > _MOST_META or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError(f"the {META} of {place} is none of a Darwin Core archive.")
    try:
        return list(_described(place, ElementTree.fromstring(text), opened, kinds))
    except (ElementTree.ParseError, TypeError, AttributeError, LookupError, UnicodeError) as error:
        raise ValueError(f"the {META} of {place} cannot be read: {one_line(error)}.") from None


def _described(
    place: str, root: ElementTree.Element, opened: Open, kinds: Collection[str]
) -> Iterator[tuple[str, TextTable]]:
    for part in (*root.findall(f"{_TEXT}core"), *root.findall(f"{_TEXT}extension")):
        location = (part.findtext(f"{_TEXT}files/{_TEXT}location") or "").strip()
        identity = part.find(f"{_TEXT}id")
        identity = part.find(f"{_TEXT}coreid") if identity is None else identity
        kind = part.get("rowType", "").rpartition("/")[2].lower()
        if identity is None or kind not in kinds:
            continue
        fields = {
            field.get("term", "").rpartition("/")[2]: field.get("index") for field in part.findall(f"{_TEXT}field")
        }
        places = {name: int(index) for name, index in fields.items() if index is not None and index.isdecimal()}
        separator = _sign(part.get("fieldsTerminatedBy", ","))
        quote = _sign(part.get("fieldsEnclosedBy", '"'))
        if len(separator) != 1 or len(quote) > 1 or not (separator + quote).isascii():
            raise ValueError(f"the {META} of {place} has columns of {one_line(location)} separated as nobody can read.")
        encoding = part.get("encoding") or "UTF-8"
        "a".encode(encoding)  # raises LookupError where it is none of text
        skip = _number(part.get("ignoreHeaderLines") or "0")
        yield (
            kind,
            TextTable(
                f"{location} of {place}",
                partial(opened, location),
                {"id": _number(identity.get("index", "0"))} | {name: at for name, at in places.items() if name != "id"},
                skip,
                separator,
                quote,
                encoding,
            ),
        )


def _sign(text: str) -> str:
    return _SIGNS.get(text, text)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > _DIGITS:
        raise LookupError(f"{one_line(text)!r} is no number of a line or column")
    return int(text)
