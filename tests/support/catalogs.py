"""Catalogs as crawl leaves them, made in no time."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fastlt.data_prep.catalog import Candidate, Catalog, ImageRow


def make_catalog(
    path: Path,
    images: Sequence[tuple[str, bytes]],
    neighbors: dict[str, list[str]],
    hash_of: Callable[[bytes], int] = lambda content: 0,
    in_shard: int | None = None,
) -> Path:
    """(category, JPEG) images in finished shards of so many, or in one, and every target of `neighbors`."""
    with Catalog(path, create=True) as catalog, catalog.transaction():
        catalog.shards_folder.mkdir()
        catalog.enter_targets((target, target, "[]", 1) for target in neighbors)
        for target in catalog.targets():
            for name in neighbors[target["name"]]:
                catalog.add_neighbor(target["id"], catalog.add_category(name, name))
        rows, size = [], in_shard or max(1, len(images))
        for shard, start in enumerate(range(0, max(1, len(images)), size)):
            some = images[start : start + size]
            catalog.set_open_shard(shard, len(some), 0)
            with tarfile.open(catalog.shard_path(shard), "w", format=tarfile.USTAR_FORMAT) as tar:
                for number, (category, content) in enumerate(some, start):
                    category_id, url = catalog.add_category(category, category), f"http://images.test/{number}"
                    about = ("images.test", "test", "", "CC BY", f"artist {number}")
                    catalog.add_candidates([Candidate(category_id, url, *about)])
                    info = tarfile.TarInfo(f"{number + 1:09d}.jpg")
                    info.size = len(content)
                    offset = tar.offset + tarfile.BLOCKSIZE
                    tar.addfile(info, io.BytesIO(content))
                    digest = hashlib.sha256(content + url.encode()).digest()
                    row = (number + 1, category_id, shard, offset, len(content), 32, 32, digest, hash_of(content))
                    rows.append(ImageRow(*row))
            catalog.finish_shard(shard)
        catalog.add_images(rows)
        catalog.set_outcomes(("fetched", "", None, row.id) for row in rows)
    return path
