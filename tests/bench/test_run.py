"""The front door of measurement, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PASSES = {"forward", "backward", "forward+backward"}


def run(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def records_of(folder: Path, suite: str) -> list[dict]:
    (file,) = folder.glob(f"{suite}-*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        assert record["suite"] == suite
        assert 0 < record["p20_ms"] <= record["median_ms"] <= record["p80_ms"]
        assert record["peak_bytes"] >= 0
        assert record["case"]
        assert record["device"]
        assert record["versions"]["torch"]
        assert record["commit"]
    return records


def test_quick_kernels_leave_whole_records_and_a_picture(tmp_path):
    done = run("kernels", "--device", "cpu", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path, "kernels")
    of_logits = {(r["impl"], r["pass"]) for r in records if r["case"].startswith("A imagenet_lt ")}
    assert of_logits == {(i, p) for i in ("fastlt", "fastlt-inplace", "authors", "eager") for p in PASSES}
    of_features = {(r["impl"], r["pass"]) for r in records if r["case"].startswith("B imagenet_lt ")}
    assert of_features >= {(i, p) for i in ("fastlt", "authors", "eager") for p in PASSES}
    for record in records:
        assert record["prior"] in ("real", "drawn")
        assert 0 <= record["extra_bytes"] <= record["peak_bytes"]
    by = {(r["case"][0], r["impl"], r["pass"]): r for r in records}
    gradient = 256 * 3000 * 4
    assert by["A", "fastlt", "backward"]["peak_bytes"] > 0.9 * gradient
    assert by["A", "eager", "forward+backward"]["extra_bytes"] > gradient  # torch holds more than one [B, C]
    (picture,) = tmp_path.glob("kernels-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "liger on A imagenet_lt B=256 C=3000 float32: needs a GPU" in done.stdout
    assert "vs authors" in done.stdout
    assert "extra memory" in done.stdout


def test_quick_encodings_agree_and_leave_whole_records(tmp_path):
    done = run("encodings", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path, "encodings")
    assert {r["impl"] for r in records} == {"fastlt", "none", "rows", "intervals", "bits"}
    assert {r["pass"] for r in records} == {"forward"}


def test_quick_crawl_leaves_whole_records(tmp_path):
    done = run("crawl", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("crawl-*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    rates = [r for r in records if "images_per_s" in r and r["impl"] == "fastlt"]
    times = [r for r in records if "median_ms" in r]
    has_data = (ROOT.parent / "shared" / "data" / "tin_lt.zip").is_file()
    assert len(rates) == 2 * has_data or "skipped, there is no" in done.stdout
    for record in rates:
        assert 0 < record["p20_images_per_s"] <= record["images_per_s"] <= record["p80_images_per_s"]
        assert record["peak_bytes"] > 10e6
    assert len(times) == 3
    assert all(record["versions"]["aiohttp"] for record in records)


def test_an_absent_gpu_is_one_clear_sentence(tmp_path):
    done = run("kernels", "--device", "tpu", "--results", tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'tpu'" in done.stderr
