"""Run as root in a mount namespace of its own, where a disk of a few MB is ours to fill.

Encodes images onto it as a user would: when they do not fit, when another file takes the room meanwhile, and when
that file is gone again. Prints as JSON what each command said.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


def main(images: Path, disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    fastlt = str(Path(sys.executable).with_name("fastlt"))
    words = ["--train", str(images / "train"), "--val", str(images / "val"), "--workers", "1"]
    words = [fastlt, "encode", str(disk / "out"), *words, "--format", "webdataset"]

    def encode() -> dict:
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
        return {"status": done.returncode, "said": done.stdout + done.stderr, "files": sorted(map(str, files(disk)))}

    filler = disk / "filler"
    filler.write_bytes(bytes(20 * 2**20))
    before = encode()
    filler.unlink()

    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    journal = disk / ".out.partial" / "train.journal"
    while not (journal.exists() and journal.stat().st_size):
        assert process.poll() is None
        time.sleep(0.001)
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    said, _ = process.communicate(timeout=100)
    meanwhile = {"status": process.returncode, "said": said, "files": sorted(map(str, files(disk)))}
    filler.unlink()
    afterwards = encode()
    subprocess.run(["cp", "-r", str(disk / "out"), str(images / "after_full_disk")], check=True)
    print(json.dumps({"before": before, "meanwhile": meanwhile, "afterwards": afterwards}))


def files(disk: Path):
    return (path.relative_to(disk) for path in disk.rglob("*") if path.name != "filler")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
