"""What `bench/run.py hostile` measures: a crawl of thousands of hosts, a tenth of them hostile, beside one without.

Every good image must be fetched in both; of the hostile hosts it is told what became of their URLs. Names are resolved
by a file of hosts that the crawl alone sees.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from bench.harness import records
from bench.harness.processes import FASTLT, running, timed
from bench.harness.records import Record
from bench.inputs.hostile_server import ADDRESSES
from bench.inputs.image_sets import BUILD
from fastlt.data_prep.catalog import Catalog

HOSTS, GOOD_IMAGES = 10_000, 20_000
_PER_HOSTILE = 2  # URLs of a hostile host
_SERVER = Path(__file__).parent.parent / "inputs" / "hostile_server.py"


def run(device: torch.device, quick: bool, results: Path, hosts: int = HOSTS) -> None:
    """Crawls both lists; appends two records and prints what they say."""
    hosts, limits = (300, ["--timeout", "5"]) if quick else (hosts, [])
    unshare = _own_files()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, running([sys.executable, str(_SERVER)]) as port:
        names = Path(folder, "hosts")
        names.write_text("".join(f"{ADDRESSES[i % len(ADDRESSES)]} h{i}.test\n" for i in range(hosts)))
        good, hostile = _urls(hosts, int(port))
        sound = _crawl(Path(folder, "sound"), [*unshare, *_resolving(names)], good, [], limits)
        mixed = _crawl(Path(folder, "mixed"), [*unshare, *_resolving(names)], good, hostile, limits)
    found = [record | {"hosts": hosts, "urls": len(good)} for record in (sound, mixed)]
    for record in found:
        print(
            f"{record['case']}: {record['median_ms'] / 1000:.0f} s, {record['peak_bytes'] / 1e6:,.0f} MB, "
            f"{record['good']:,} of {len(good):,} good images"
        )
    for outcome, number in sorted(mixed["hostile"].items(), key=lambda item: -item[1]):
        print(f"  {number:6,} {outcome}")
    print(f"appended {len(found)} records to {records.append(results, 'hostile', device, found)}")
    if any(record["good"] != len(good) for record in found):
        raise RuntimeError("a good image was not fetched.")


def _own_files() -> list[str]:
    """The words before a command that may mount a file for itself."""
    for words in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if shutil.which("unshare") and not subprocess.run([*words, "true"], capture_output=True).returncode:
            return words
    raise RuntimeError("hostile needs root or user namespaces, for names that are its own.")


def _urls(hosts: int, port: int) -> tuple[list[str], list[str]]:
    """URLs of good images, spread over the good hosts, and those of the hostile hosts."""
    good = [i for i in range(hosts) if i % 10 != 9]
    images = [f"http://h{good[i % len(good)]}.test:{port}/{i}.jpg" for i in range(hosts * GOOD_IMAGES // HOSTS)]
    traps = [f"http://h{i}.test:{port}/trap{j}.jpg" for i in range(9, hosts, 10) for j in range(_PER_HOSTILE)]
    return images, traps


def _resolving(names: Path) -> list[str]:
    """The words before a command that finds its hosts in this file."""
    return ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(names)]


def _crawl(folder: Path, before: list[str], good: list[str], hostile: list[str], limits: list[str]) -> Record:
    folder.mkdir()
    listed, catalog = folder / "list.csv", folder / "c.sqlite"
    listed.write_text("url\n" + "".join(f"{url}\n" for url in [*good, *hostile]))
    words = ["crawl", str(catalog), "--urls", str(listed), "--contact", "bench@example.org", "--allow-private"]
    # The few photographs are served again and again.
    seconds, peak = timed([*before, *FASTLT, *words, "--duplicates", "-1", *limits])
    outcomes: Counter[str] = Counter()
    with Catalog(catalog) as opened:
        rows = opened.connection.execute("SELECT url, state, reason FROM candidate").fetchall()
        images = sum(row["state"] == "fetched" and "/trap" not in row["url"] for row in rows)
        outcomes.update(f"{row['state']}: {row['reason']}" for row in rows if "/trap" in row["url"])
    case = "a tenth of the hosts hostile" if hostile else "without the hostile hosts"
    about = {"case": case, "impl": "fastlt", "good": images, "hostile": dict(outcomes)}
    return about | records.milliseconds([seconds]) | {"peak_bytes": peak}
