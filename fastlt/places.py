"""Where a data set is: a folder here, or a URL in an object store; as people write it, and as others may see it."""

from __future__ import annotations

import re
from pathlib import Path

Place = Path | str
"""A folder, or the URL of one; a URL stays text, as a Path would make one slash of two."""
_URL = re.compile(r"[a-zA-Z][\w+.-]*://")


def is_url(text: str) -> bool:
    """Whether a text begins as s3://, gs://, https:// and the like do."""
    return bool(_URL.match(text))


def as_place(text: Place) -> Place:
    """What a text names: a folder, with ~ for home, or a URL.

    Raises:
        ValueError: a URL has a user, a password or a query in it, or ~ is the home of nobody. It is not repeated in
            the sentence.
    """
    if not is_url(str(text)):
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise ValueError(f"{text} begins with the home of nobody here: {error}") from None
    scheme, _, rest = str(text).partition("://")
    if "@" in rest or "?" in rest or "#" in rest:
        raise ValueError(
            f"a URL {scheme}://... has a user, a password or a query in it, which would be kept with the run: leave it "
            "out, and give credentials as the store's own tools take them, in the environment or in a file at home"
        )
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def as_url(text: str) -> str:
    """The URL that a text is.

    Raises:
        ValueError: it is none, or as `as_place`.
    """
    place = as_place(text)
    if isinstance(place, Path):
        raise ValueError(f"{text} is no URL such as s3://bucket/birds.")
    return place
