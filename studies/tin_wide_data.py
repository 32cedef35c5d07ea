"""Encodes what the studies of tin_wide train on, into data/: `python studies/tin_wide_data.py tin_wide.zip`.

Data sets with the same targets: data/tin_wide has all classes that neighbor one of them, _neighbors24 some of these,
drawn at random, and _unrelated24 those that neighbor none. They are cut by links; no image is copied. _tail and
_by_count have the classes of data/tin_wide: the one has pairs of few-shot targets alone, the other silences pairs the
more, the fewer images the target has.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import zipfile
from pathlib import Path

from fastlt.atomic import empty_folder
from fastlt.label_space import FEW_SHOT_BELOW, Neighbors

DATA = Path("data")


def main(archive: Path) -> None:
    """Unpacks the archive beside the data sets, and encodes each of them."""
    images = DATA / "tin_wide_images"
    if not images.exists():
        partial = images.with_name(f".{images.name}.partial")  # what a kill leaves is not taken for whole
        empty_folder(partial)
        zipfile.ZipFile(archive).extractall(partial)
        partial.rename(images)
    neighbors: dict[str, list[str]] = json.loads((images / "neighbors.json").read_text())
    all_neighbors = sorted({name for names in neighbors.values() for name in names})
    unrelated = sorted({path.name for path in (images / "auxiliary").iterdir()} - {*all_neighbors})
    some = random.Random(0).sample(all_neighbors, len(unrelated))
    for ending, names in {"": all_neighbors, "_neighbors24": some, "_unrelated24": unrelated}.items():
        pairs = {target: [n for n in of if n in names] for target, of in neighbors.items()}
        _encode(images, f"tin_wide{ending}", names, pairs)
    counts = {folder.name: len(list(folder.iterdir())) for folder in (images / "target" / "train").iterdir()}
    fewest, most = math.log(min(counts.values())), math.log(max(counts.values()))
    strength = {t: round((most - math.log(n)) / (most - fewest), 3) for t, n in counts.items()}
    strengths = {t: dict.fromkeys(of, strength[t]) for t, of in neighbors.items()}
    _encode(
        images, "tin_wide_tail", all_neighbors, {t: of for t, of in neighbors.items() if counts[t] < FEW_SHOT_BELOW}
    )
    _encode(images, "tin_wide_by_count", all_neighbors, strengths)


def _encode(images: Path, name: str, auxiliaries: list[str], pairs: Neighbors) -> None:
    """Encodes all targets, and of the auxiliary classes these with their pairs."""
    if (DATA / name).exists():  # whole, by an earlier call
        return
    links = DATA / f"{name}_auxiliary"
    links.mkdir(exist_ok=True)
    for auxiliary in auxiliaries:
        if not (link := links / auxiliary).exists():
            link.symlink_to((images / "auxiliary" / auxiliary).resolve())
    (DATA / f"{name}_neighbors.json").write_text(json.dumps(pairs))
    folders = ["--train", images / "target/train", "--val", images / "target/val", "--auxiliary", links]
    words = ["encode", DATA / name, "--mode", "raw", *folders, "--neighbors", DATA / f"{name}_neighbors.json"]
    subprocess.run([sys.executable, "-m", "fastlt", *map(str, words)], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} tin_wide.zip")
    main(Path(sys.argv[1]))
