"""One split as a WebDataset tar with the index that DALI's reader takes (`fn.readers.webdataset`, index v1.2)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from fastlt.data_prep.storage import ImageName, Storage
from fastlt.data_prep.tar_members import TAR_END, append_member, member_bytes
from PIL import Image
from tqdm import tqdm

from fastlt.images import BrokenImageError, read_bytes, read_image


def write_indexed_tar(file: Path, images: Sequence[ImageName], labels: np.ndarray, storage: Storage) -> dict[str, str]:
    """Writes `file` and, beside it, its `.idx`; labels int64 [N]. Returns {image: reason} of broken ones, left out.

    A sample is `N.jpg` and `N.cls`. A JPEG that is upright, RGB and small enough is copied as it is.
    """
    broken, lines, position = {}, [], 0
    with file.open("wb") as tar, ProcessPoolExecutor(storage.num_workers) as pool:
        jpegs = pool.map(partial(_jpeg, storage=storage), images, chunksize=32)
        for i, (name, jpeg) in enumerate(tqdm(zip(images, jpegs, strict=True), total=len(images), disable=None)):
            if isinstance(jpeg, str):
                broken[str(name)] = jpeg
                continue
            parts = []
            for extension, content in (("jpg", jpeg), ("cls", str(labels[i]).encode())):
                member = f"{i:09d}.{extension}"
                position += append_member(tar, member, content)
                parts.append(f"{extension} {position} {len(content)} {member}")
                position += member_bytes(content)
            lines.append(" ".join(parts))
        tar.write(TAR_END)
    file.with_suffix(".idx").write_text("\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
    return broken


def _jpeg(name: ImageName, storage: Storage) -> bytes | str:
    """The image as JPEG, or why it is broken."""
    try:
        image = read_image(name)
        most = storage.max_resolution or max(image.size)
        original = read_bytes(name)
        with Image.open(io.BytesIO(original)) as opened:
            as_it_is = opened.format == "JPEG" and opened.mode == "RGB" and opened.size == image.size
            as_it_is = as_it_is and opened.getexif().get(274, 1) == 1 and max(image.size) <= most
        if as_it_is:
            return original
        image.thumbnail((most, most), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=storage.quality)
        return stream.getvalue()
    except BrokenImageError as error:
        return str(error)
