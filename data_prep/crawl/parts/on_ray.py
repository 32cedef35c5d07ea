"""`fastlt crawl --ray`: the parts of a catalog on the machines of a Ray cluster, run again where a machine died.

Who may ask which host is settled by the leases, not by Ray.
"""

from __future__ import annotations

import sys

from tqdm import tqdm

from fastlt.data_prep.crawl.parts.one_part import Fetch, fetch_part, require_none_failed
from fastlt.data_prep.crawl.parts.shares import Share
from fastlt.data_prep.ray_cluster import ray_cluster


def crawl_on_ray(fetch: Fetch, parts: int, address: str) -> None:
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
        run = ray.remote(num_cpus=1, max_retries=-1, scheduling_strategy="SPREAD")(fetch_part)
        tasks = {run.remote(fetch, share): share for share in (Share(n + 1, parts) for n in range(parts))}
        waiting, failed = list(tasks), []
        with tqdm(total=parts, unit="part", disable=not sys.stderr.isatty()) as bar:
            while waiting:
                (done,), waiting = ray.wait(waiting, num_returns=1)
                said, wrong = ray.get(done)
                tqdm.write(said, end="")
                failed += [f"{tasks[done]}: {wrong}"] if wrong else []
                bar.update()
    require_none_failed(failed, parts)
