"""What an encoded data set tells of the catalog that its images came from: whom to credit, and how they were chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.encode.inputs import EncodeInputs, Inputs, refused_licenses
from fastlt.dataset.attribution import Credit, write_credits
from fastlt.licenses import normalize


def credit(folder: Path, kept: Inputs, sources: EncodeInputs) -> dict[str, Any]:
    """Writes ATTRIBUTION.csv into the folder of a data set with these images; what its manifest says of the catalog.

    Raises:
        ValueError: the catalog does not have the images any more.
    """
    assert sources.catalog, "the images are of one"
    with Catalog(sources.catalog) as catalog:
        write_credits(folder, _credits(catalog, kept, sources))
        about: dict[str, Any] = {"name": catalog.path.name, "unfiltered": sources.unfiltered}
        if not sources.unfiltered:
            about["filter"] = catalog.json_setting("filter")
        times = [catalog.shard_path(row["id"]).stat().st_mtime for row in catalog.shards("done")]
    dates = (time.strftime("%Y-%m-%d", time.gmtime(told)) for told in (min(times), max(times)))
    return about | {"licenses": [*sources.licenses], "crawled": [*dates]}


def _credits(catalog: Catalog, kept: Inputs, sources: EncodeInputs) -> Iterator[Credit]:
    """Walks along the catalog's images and along those that are kept, which come in the same order."""
    classes = list(kept.splits["train"].items())
    index = sum(len(images) for _, images in classes[: kept.num_targets])
    rows = catalog.credits(sources.unfiltered, refused_licenses(catalog, sources))
    for name, images in classes[kept.num_targets :]:
        for image in images:
            for place, row in rows:
                if place == image and row["name"] == name:
                    break
            else:
                raise ValueError(
                    f"{catalog.path} has changed since the encoding began, it has no {image} of {name!r} any more: "
                    "remove what is unfinished, and encode again."
                )
            license = normalize(row["license"]) or row["license"]
            yield Credit(name, index, row["url"], row["page"], row["attribution"], license, row["source"])
            index += 1
