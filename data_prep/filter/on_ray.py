"""`fastlt filter --ray`: shards are embedded on the machines of a Ray cluster, and judged here.

Each GPU holds an encoder, or each machine where no machine has a GPU. An encoder leaves the rows of a shard in a file,
whole or not at all, which says that the shard is done; this process alone adds them to the store.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastlt.data_prep.filter.embed import Batch, Embedded, Encoder
from fastlt.data_prep.filter.embedding_store import RowStore, write_rows
from fastlt.data_prep.ray_cluster import ray_cluster, require_shared, unseen, with_whole_paths
from fastlt.messages import one_line

_LOOK = 2.0  # seconds between looks for machines that came or went
_PATIENCE = 30  # looks at nothing but encoders that start
_TRIES = 5  # of a shard, each of which cost an encoder its life
_STARTS = 2  # of an encoder in one place


class _Place(NamedTuple):
    """Room for an encoder: which machine of the cluster, and which of its encoders."""

    machine: str
    number: int


class _Answer(NamedTuple):
    """What became of a shard: why each image was not embedded, or "", and what of it the machine does not see."""

    host: str
    why: list[str]
    lacking: list[Any]
    failed: str


@contextmanager
def encoder_on_ray(encoder: Encoder, address: str) -> Iterator[EncodersOnRay]:
    """An embedder that has copies of an encoder on a cluster.

    Raises:
        ValueError: there is no cluster, or no machine of it can hold the encoder.
    """
    with ray_cluster(address) as ray:
        yield EncodersOnRay(ray, encoder)


class EncodersOnRay:
    """Encoders on machines, which are replaced as machines come and go; see `Embedder`.

    Attributes:
        digest: of the first encoder that was there; others have the same, or are left out.
    """

    def __init__(self, ray: Any, encoder: Encoder) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._on = ray, NodeAffinitySchedulingStrategy
        self.title, self.dimension, self.device = encoder.title, encoder.dimension, encoder.device
        self.digest = ""
        self._encoder, self._holder = ray.put(encoder), ray.remote(_Holder)
        self._held: dict[_Place, Any] = {}  # an actor in each place
        self._starting: dict[Any, _Place] = {}
        self._idle: list[_Place] = []
        self._embedding: dict[Any, tuple[_Place, list[Batch]]] = {}
        self._failed: Counter[_Place] = Counter()
        self._why, self._looked = "", -_LOOK
        self._waits, self._told = 0, ""
        while not self.digest:
            self._look()

    def embedded(self, shards: list[list[Batch]], store: RowStore, workers: int | None) -> Iterator[Embedded]:
        """See `Embedder`; yields shard by shard, in the order in which they are done."""
        waiting, tries = deque(shards), Counter[str]()
        while waiting or self._embedding:
            while waiting and self._idle:
                place, shard = self._idle.pop(), waiting.popleft()
                paths = [batch._replace(names=with_whole_paths(batch.names)) for batch in shard]
                ended = self._held[place].embed.remote(paths, workers, _file(store, shard).absolute())
                self._embedding[ended] = place, shard
            for ended in self._look():
                place, shard = self._embedding.pop(ended)
                try:
                    answer = _Answer(*self._ray.get(ended))
                except self._ray.exceptions.RayError as error:  # the machine is gone, most often
                    name = _file(store, shard).name
                    tries[name] += 1
                    if tries[name] == _TRIES:
                        raise ValueError(
                            f"{_TRIES} encoders ended over the same shard, with {shard[0].names[0]}: {_said(error)}. "
                            "What is done is kept."
                        ) from None
                    waiting.appendleft(shard)
                    self._drop(place)
                    continue
                self._idle.append(place)
                if answer.failed:
                    raise ValueError(f"{answer.host}: {answer.failed}")
                require_shared(answer.host, answer.lacking)
                if not all(answer.why):
                    _add(store, _file(store, shard), answer.host)
                yield [name for batch in shard for name in batch.names], answer.why

    def _look(self) -> list[Any]:
        """Waits for something to end; returns which shard did, if one did."""
        if time.monotonic() - self._looked >= _LOOK:
            self._start()
            self._looked = time.monotonic()
        running = [*self._starting, *self._embedding]
        if not running:
            time.sleep(_LOOK)
            return []
        ended, _ = self._ray.wait(running, num_returns=1, timeout=_LOOK)
        self._waits = 0 if ended or self._embedding else self._waits + 1
        if self._waits == _PATIENCE:
            self._tell("waiting for an encoder to start: perhaps other work holds the cluster's processors")
        for ready in [one for one in ended if one in self._starting]:
            self._welcome(ready)
            ended.remove(ready)
        return ended

    def _start(self) -> None:
        """Encoders where there is room for them.

        Raises:
            ValueError: none could be started anywhere.
        """
        places = _places([node for node in self._ray.nodes() if node["Alive"]])
        for place, room in places.items():
            if place not in self._held and self._failed[place] < _STARTS:
                strategy = self._on(place.machine, soft=False)
                actor = self._holder.options(**room, scheduling_strategy=strategy)
                self._held[place] = actor.remote(self._encoder, room["num_cpus"])
                self._starting[self._held[place].about.remote()] = place
        if self._held:
            return
        if places:
            raise ValueError(f"no machine of the cluster can embed: {self._why}")
        self._tell("waiting for a machine with processors to join the cluster")

    def _tell(self, what: str) -> None:
        if what != self._told:
            print(what, file=sys.stderr, flush=True)
        self._told = what

    def _welcome(self, ready: Any) -> None:
        """Takes an encoder that has started, or leaves it out."""
        place = self._starting.pop(ready)
        try:
            host, digest = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            self._drop(place)
            self._failed[place] += 1
            self._why = _said(error)
            return
        self.digest = self.digest or digest
        if digest == self.digest:
            self._idle.append(place)
            return
        print(f"left out: {host}, which computes in another precision than the first machine", flush=True)
        self._drop(place)
        self._failed[place] = _STARTS

    def _drop(self, place: _Place) -> None:
        self._ray.kill(self._held.pop(place))


def _places(nodes: list[dict[str, Any]]) -> dict[_Place, dict[str, int]]:
    """Where encoders may be, and what Ray is to keep for each of them."""
    places: dict[_Place, dict[str, int]] = {}
    any_gpu = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    for node in nodes:
        cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        number = gpus if any_gpu else min(cpus, 1)
        for i in range(number):
            places[_Place(node["NodeID"], i)] = {"num_cpus": cpus // number, "num_gpus": int(any_gpu)}
    return places


def _file(store: RowStore, shard: list[Batch]) -> Path:
    """Where the rows of a shard come to lie."""
    keys = np.concatenate([batch.keys for batch in shard])
    return store.left / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:32]}.npy"


def _add(store: RowStore, path: Path, host: str) -> None:
    try:
        store.add_file(path)
    except FileNotFoundError:
        raise ValueError(
            f"{path}, which {host} has written, is not on {socket.gethostname()}: with --ray all machines share a file "
            "system with the catalog's folder, under the same path."
        ) from None


def _said(error: Exception) -> str:
    """What an error of Ray says without the stack of another machine."""
    cause = getattr(error, "cause", None)
    return one_line(cause if isinstance(cause, Exception) else error, 300)


class _Holder:
    """An encoder on a machine of the cluster, which Ray has start there."""

    def __init__(self, encoder: Encoder, cores: int) -> None:
        self._encoder, self._cores = encoder, cores

    def about(self) -> tuple[str, str]:
        """The machine's name, and the encoder's digest there."""
        return socket.gethostname(), self._encoder.digest

    def embed(self, shard: list[Batch], workers: int | None, path: Path) -> tuple[Any, ...]:
        """Writes the rows of a shard; returns an `_Answer`."""
        host = socket.gethostname()
        workers = self._cores if workers is None else workers
        rows, keys, why = [], [], []
        try:
            for batch, (whole, reasons) in zip(
                shard, self._encoder.rows([batch.names for batch in shard], workers), strict=True
            ):
                rows.append(whole)
                keys.append(batch.keys[np.array([not reason for reason in reasons])])
                why += reasons
            names = [name for batch in shard for name in batch.names]
            lacking = unseen([name for name, reason in zip(names, why, strict=True) if reason])
            if not lacking and not all(why):
                write_rows(path, np.concatenate(keys), np.concatenate(rows))
        except (ValueError, OSError) as error:
            return host, [], [], one_line(error, 300)
        return host, why, lacking, ""
