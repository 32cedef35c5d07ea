"""`fastlt crawl --ray`: the parts of a catalog on the machines of a Ray cluster, run again where a machine died.

Who may ask which host is settled by the leases, not by Ray.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

from tqdm import tqdm

from fastlt.data_prep.crawl.parts.lease import InUseError
from fastlt.data_prep.crawl.parts.shares import Share
from fastlt.data_prep.ray_cluster import ray_cluster
from fastlt.messages import one_line

_AGAIN = 5.0  # seconds until a part is tried again that another process works on, or seemed to


def crawl_on_ray(fetch: Callable[[Share], None], parts: int, address: str) -> None:
    """Fetches all parts, as many at once as the cluster has room for, and says what each said.

    Args:
        fetch: fetches one part, on any machine; can be pickled.
        parts: how many; 0 for one on each machine.
        address: see `ray_cluster`.

    Raises:
        ValueError: there is no Ray or no cluster, or parts failed; the others are done.
    """
    with ray_cluster(address) as ray:
        parts = parts or sum(node["Alive"] for node in ray.nodes())
        run = ray.remote(num_cpus=1, max_retries=-1, scheduling_strategy="SPREAD")(_run)
        tasks = {run.remote(fetch, share): share for share in (Share(n + 1, parts) for n in range(parts))}
        waiting, failed = list(tasks), []
        with tqdm(total=parts, unit="part", disable=not sys.stderr.isatty()) as bar:
            while waiting:
                (done,), waiting = ray.wait(waiting, num_returns=1)
                said, wrong = ray.get(done)
                tqdm.write(said, end="")
                failed += [f"{tasks[done]}: {wrong}"] if wrong else []
                bar.update()
    if failed:
        raise ValueError(f"{len(failed):,} of {parts:,} parts failed ({'; '.join(failed[:3])}); the others are done.")


def _run(fetch: Callable[[Share], None], share: Share) -> tuple[str, str]:
    """(what it said, what failed); on a worker."""
    with redirect_stdout(io.StringIO()) as said:
        while True:
            try:
                fetch(share)
            except InUseError:  # by a process whose machine is gone for Ray alone, or not yet for the others
                time.sleep(_AGAIN)
                continue
            except (ValueError, OSError) as error:
                return said.getvalue(), one_line(error, 300)
            return said.getvalue(), ""
