"""The limit of encoding: a bare process pool reads, decodes, shrinks and compresses images, and keeps nothing.

Run as `recompress.py jpg|raw LONGEST CORES FOLDER...`; with Pillow, as `fastlt encode` does it.
"""

import io
import multiprocessing
import sys
from functools import partial
from pathlib import Path

from PIL import Image

QUALITY = 90  # as `fastlt encode` has it


def size_stored(path: Path, mode: str, longest: int) -> int:
    """Bytes that would be stored of an image: of a JPEG, or of RGB pixels."""
    with Image.open(io.BytesIO(path.read_bytes()), formats=["JPEG", "PNG"]) as opened:
        opened.thumbnail((longest, longest), Image.Resampling.BICUBIC)  # a JPEG decodes to a half or less on the way
        image = opened.convert("RGB")
    if mode == "raw":
        return len(image.tobytes())
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return len(stream.getvalue())


if __name__ == "__main__":
    mode, longest, cores, *folders = sys.argv[1:]
    images = [path for folder in folders for path in sorted(Path(folder).glob("*/*"))]
    with multiprocessing.Pool(int(cores)) as pool:
        work = partial(size_stored, mode=mode, longest=int(longest))
        print(sum(pool.imap_unordered(work, images, chunksize=32)))
