"""A cluster of Ray, where a stage runs on several machines: met, or one sentence why not."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from fastlt.dataset.images import ImageName, file_of
from fastlt.messages import listed, one_line

_SECONDS = 10.0  # until a cluster's head must have taken a connection


@contextmanager
def ray_cluster(address: str) -> Iterator[Any]:
    """Ray, as a client of a cluster until the block ends; what runs there for it ends with it.

    SIGTERM is KeyboardInterrupt in it, as elsewhere in a crawl: Ray would dump its stack and end with 1.

    Args:
        address: of the cluster, "auto" for the one that this machine belongs to, or "local" for a new one here.

    Raises:
        ValueError: there is no Ray or no cluster, or the two are of other versions.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'fastlt[ray]' on each machine.") from None
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: no cluster, another version of Ray or Python
        raise ValueError(f"there is no Ray cluster at {address}: {one_line(error, 300)}") from None
    try:
        with suppress(ValueError):  # outside of the main thread
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield ray
    finally:
        ray.shutdown()
        with suppress(ValueError, TypeError):  # None where Python did not set it
            signal.signal(signal.SIGTERM, terminated)


def _require_listener(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself takes a quarter of an hour to say so, of a cluster that ended."""
    if "://" in address:
        return
    with suppress(ImportError, AttributeError):  # Ray promises neither
        from ray._private.services import canonicalize_bootstrap_address

        if place := canonicalize_bootstrap_address(address):
            host, _, port = place.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()


def unseen(images: Sequence[ImageName]) -> list[ImageName]:
    """Those whose files this machine does not have."""
    return [image for image in images if not file_of(image).exists()]


def require_shared(host: str, lacking: Sequence[ImageName]) -> None:
    """Takes an image that a machine found broken for broken only where no machine has it.

    Args:
        host: the machine.
        lacking: what is `unseen` there.

    Raises:
        ValueError: this machine has some of these images.
    """
    if here := [str(image) for image in lacking if file_of(image).exists()]:
        raise ValueError(
            f"{host} does not see {listed(here, 1)}, which {socket.gethostname()} has: with --ray all machines share a "
            "file system with the images and the folder of the results, under the same paths."
        )


def with_whole_paths(images: Sequence[ImageName]) -> list[str]:
    """The same, for processes that work in other folders."""
    return [os.path.abspath(image) for image in images]
