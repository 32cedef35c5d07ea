"""A process that prepares images for the crawler, within the limits of a cage: see `decode_pool.py`.

Each crawl starts as many as there are cores, so this imports nothing but what prepares an image.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import warnings

import cv2

from fastlt.data_prep.crawl import reasons
from fastlt.data_prep.crawl.cage import Cage
from fastlt.data_prep.crawl.image_options import ImageOptions
from fastlt.data_prep.crawl.prepare import prepare
from fastlt.data_prep.crawl.prepared import READY, REQUEST_BYTES, Prepared, UnusableImageError, packed


def _work(shared: mmap.mmap, options: ImageOptions, max_pixels: int) -> None:
    """Answers requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the crawler's
    warnings.simplefilter("ignore")  # Pillow's, about odd metadata
    cv2.setNumThreads(1)  # there is a process for each core
    requests, answers, cage = sys.stdin.buffer, sys.stdout.buffer, Cage(max_pixels)
    answers.write(READY)
    answers.flush()
    while len(request := requests.read(REQUEST_BYTES)) == REQUEST_BYTES:
        number = int.from_bytes(request, "little")
        answer: Prepared | UnusableImageError
        try:
            with cage.one_image(number):
                answer = prepare(shared[:number], options, max_pixels, cage)
            if len(answer.jpeg) > len(shared):
                answer = UnusableImageError("too many bytes as JPEG")
        except UnusableImageError as error:
            answer = error
        except MemoryError:
            answer = UnusableImageError(reasons.TOO_LARGE_TO_DECODE)
        form, beside = packed(answer)
        shared[: len(beside)] = beside
        answers.write(form)
        answers.flush()


if __name__ == "__main__":
    _descriptor = int(sys.argv[1])
    _options, _max_pixels = json.loads(sys.argv[2])
    _work(mmap.mmap(_descriptor, os.fstat(_descriptor).st_size), ImageOptions(**_options), _max_pixels)
