"""The front door of measurement, as a user types it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.suites import train_ranks
from support.last_record import hold_to_the_last_record
from support.paths import ROOT, SHARED

pytestmark = pytest.mark.medium

PASSES = {"forward", "backward", "forward+backward"}


def run(*words: object, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ | variables)


def records_of(folder: Path, suite: str) -> list[dict]:
    (file,) = folder.glob(f"{suite}-*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        assert record["suite"] == suite
        if "images_per_s" in record:
            assert 0 < record["p20_images_per_s"] <= record["images_per_s"] <= record["p80_images_per_s"]
        else:
            assert 0 < record["p20_ms"] <= record["median_ms"] <= record["p80_ms"]
        assert record["peak_bytes"] >= 0
        assert record["case"]
        assert record["device"]
        assert record["versions"]["torch"]
        assert record["commit"]
    return records


@pytest.mark.slow
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
    assert by["A", "fastlt", "forward+backward"]["peak_bytes"] > 0.9 * gradient
    assert by["A", "eager", "forward+backward"]["extra_bytes"] > gradient  # torch holds more than one [B, C]
    (picture,) = tmp_path.glob("kernels-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "liger on A imagenet_lt B=256 C=3000 float32: needs a GPU" in done.stdout
    assert "vs authors" in done.stdout
    assert "extra memory" in done.stdout


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> Path:
    """Records of what loss and trainer cost, of this checkout."""
    folder = tmp_path_factory.mktemp("counts")
    done = run("counts", "--results", folder)
    assert done.returncode == 0, done.stderr
    return folder / "counts-cpu.jsonl"


@pytest.mark.slow
def test_counts_are_of_the_loss_and_of_a_step(counts):
    records = {(r["case"].split()[0], r["impl"]): r for r in map(json.loads, counts.read_text().splitlines())}
    assert records.keys() == {("A", "fastlt"), ("A", "fastlt-inplace"), ("B", "fastlt"), ("step", "fastlt")}
    gradient = 64 * 3000 * 4
    assert gradient <= records["A", "fastlt"]["allocated_bytes"] < 1.1 * gradient
    assert records["A", "fastlt-inplace"]["allocated_bytes"] < 0.2 * gradient
    assert all(r["operators"] > 10 for r in records.values())
    assert records["step", "fastlt"]["page_faults"] < 100  # its memory is kept from step to step


def test_loss_and_step_cost_no_more_than_in_the_last_record(counts):
    hold_to_the_last_record(counts)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository with a commit of these sources in it."""
    folder = tmp_path_factory.mktemp("repository") / "checkout"
    for name in ("bench", "fastlt", "kernels", "configs", "data_prep"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    (folder / "bench" / "results").mkdir()
    (folder / "bench" / "results" / "old.jsonl").write_text("")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "sources"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def run_in(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-B", str(checkout / "bench" / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_tree_with_changes_is_said_to_have_some(checkout):
    (checkout / "bench" / "results" / "old.jsonl").write_text("\n")  # as suites that follow each other do
    done = run_in(checkout, "filter", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "Not committed" not in done.stderr
    changed = checkout / "data_prep" / "names.py"
    changed.write_text(changed.read_text() + "\n")
    done = run_in(checkout, "filter", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "Not committed: data_prep/names.py. What is measured now is of no commit" in done.stderr


def test_what_changes_while_it_is_measured_is_in_no_record(checkout):
    """Records are of the code that the measuring began with."""
    changed = checkout / "data_prep" / "names.py"
    changed.write_text(changed.read_text() + "\n")
    code = "from bench.harness.records import code_commit; print(code_commit())"
    asked = [sys.executable, "-c", code]
    began = subprocess.run(asked, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, capture_output=True)
    command = [sys.executable, "-B", str(checkout / "bench" / "run.py"), "loaders", "--quick", "--cases", "resume"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "Not committed" in process.stderr.readline()
        changed.write_text(changed.read_text() + "\n")
        said = process.stderr.read()
    assert process.returncode == 0, said
    (file,) = (checkout / "build" / "results").glob("loaders-*.jsonl")
    assert {json.loads(line)["commit"] for line in file.read_text().splitlines()} == {began.stdout.decode().strip()}


@pytest.mark.slow
def test_what_is_measured_of_no_commit_stays_out_of_the_records(checkout):
    changed = checkout / "data_prep" / "names.py"
    changed.write_text(changed.read_text() + "\n")
    done = run_in(checkout, "counts")
    assert done.returncode == 0, done.stderr
    assert [file.name for file in (checkout / "bench" / "results").iterdir()] == ["old.jsonl"]
    lines = (checkout / "build" / "results" / "counts-cpu.jsonl").read_text().splitlines()
    assert all("-dirty-" in json.loads(line)["commit"] for line in lines)


def test_history_shows_every_headline_figure_in_order_of_commits(checkout, tmp_path):
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "later"], check=True)
    listed = subprocess.run([*git, "log", "--format=%h"], capture_output=True, text=True, check=True).stdout.split()
    newer, older = listed[0], listed[-1]
    about = {"suite": "loaders", "device": "CPU", "case": "photographs"}
    rates = [
        about | {"impl": impl, "images_per_s": rate, "commit": commit, "storage": "jpg"}
        for impl, rate, commit in (("ffcv", 1500, newer), ("timm", 500, newer), ("ffcv", 1000, older))
    ]
    kept = about | {"suite": "filter", "impl": "fastlt", "commit": f"{older}-dirty", "precision": [0.9, 0.8]}
    results = checkout / "bench" / "history"
    results.mkdir()
    (results / "any.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*rates, kept]))
    done = run_in(checkout, "history", "--results", str(results))
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert ["photographs", "ffcv jpg", "images/s", "1,000", "1,500", "1.50x", "3.00x timm"] in cells
    assert ["photographs", "fastlt", "precision", "0.85", "", ""] in cells
    assert done.stdout.index(older) < done.stdout.index(newer)
    assert f"{older}-dirty" in done.stdout
    assert (results / "history.png").read_bytes().startswith(b"\x89PNG")


def test_history_leaves_out_no_suite_but_the_kernels_own_tuning():
    code = "from bench import run; from bench.harness import history; print(*run.SUITES.keys() ^ history.HEADLINES)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "shapes\n"), done.stderr


@pytest.mark.parametrize(("written", "said"), [("", "has no headline figures"), ("{}\n", "not a record")])
def test_history_without_records_is_one_clear_sentence(tmp_path, written, said):
    (tmp_path / "a.jsonl").write_text(written)
    done = run("history", "--results", tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_hostile_hosts_cost_no_good_image(tmp_path):
    done = run("hostile", "--quick", "--results", tmp_path)
    if "needs root or user namespaces" in done.stderr:
        pytest.skip("needs root or user namespaces, for names of its own")
    assert done.returncode == 0, done.stderr
    alone, mixed = records_of(tmp_path, "hostile")
    assert alone["good"] == mixed["good"] == alone["urls"] == mixed["urls"] == 600
    assert sum(mixed["hostile"].values()) == 60
    assert not any(outcome.startswith("fetched") for outcome in mixed["hostile"])


@pytest.mark.slow
def test_quick_crawl_leaves_whole_records(tmp_path):
    done = run("crawl", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path, "crawl")
    rates = [r for r in records if "images_per_s" in r and r["impl"] == "fastlt"]
    times = [r for r in records if "median_ms" in r]
    has_data = (SHARED / "data" / "tin_lt.zip").is_file()
    assert len(rates) == 2 * has_data or "skipped, there is no" in done.stdout
    for record in rates:
        assert record["peak_bytes"] > 10e6
        assert 0 < record["p20_processor_ms"] <= record["processor_ms"] <= record["p80_processor_ms"]
        assert 0 < record["server_processor_ms"] < record["processor_ms"]
    assert len(times) == 3
    assert all(record["versions"]["aiohttp"] for record in records)


def test_a_filter_suite_without_its_data_says_so(tmp_path):
    done = run("filter", "--device", "cpu", "--data", tmp_path / "absent.zip", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "skipped: there is no" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "tin_wide.zip").is_file(), reason="real images are not at hand")
def test_quick_filter_leaves_a_record(tmp_path):
    done = run("filter", "--device", "cpu", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = records_of(tmp_path, "filter")
    assert min(record["precision"] + record["recall"]) > 0.9


@pytest.mark.slow
def test_quick_embedding_leaves_whole_records(tmp_path):
    done = run("embed", "--device", "cpu", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    if "skipped: there is no" in done.stdout:
        pytest.skip("real images are not at hand")
    ours, bare = records_of(tmp_path, "embed")
    assert (ours["impl"], bare["impl"]) == ("fastlt", "bare")
    assert ours["over_bare"] > 0
    assert "over the bare model" in done.stdout


@pytest.mark.slow
def test_quick_captions_leave_records_of_what_was_found(tmp_path):
    done = run("captions", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    matcher, search, command = records_of(tmp_path, "captions")
    assert [r["impl"] for r in (matcher, search, command)] == ["matcher", "search", "command"]
    assert search["found"] == matcher["found"]
    assert matcher["found"] >= command["found"] > 0.05 * 40_000  # those above a category's number are not taken


@pytest.mark.slow
def test_quick_tuning_leaves_whole_records(tmp_path):
    done = run("tuning", "--device", "cpu", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    found = records_of(tmp_path, "tuning")
    assert [r["impl"] for r in found] == ["full", "head", "lora"]
    assert all(r["images_per_s"] > 0 and r["peak_bytes"] > 1e8 for r in found)
    assert all(r["over_full"] > 0 for r in found[1:])


@pytest.mark.slow
def test_quick_loaders_leave_whole_records_and_a_picture(tmp_path):
    done = run("loaders", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    by = {(r["case"], r["impl"], r.get("storage")): r for r in records_of(tmp_path, "loaders")}
    crop, full = ("drawn species 40 px, crop", "drawn species 40 px, full")
    assert {(crop, impl, "files") for impl in ("plain", "timm", "authors")} <= by.keys()
    assert (full, "authors", "files") in by
    assert all(record["seconds"] == 0.2 for (case, *_), record in by.items() if "px" in case)
    assert (crop, "ffcv", "jpg") in by or "skipped: ffcv" in done.stdout
    assert (crop, "turbojpeg", "files") in by or "skipped: turbojpeg" in done.stdout
    for peer, of in (("torchvision v2", "files"), ("spdl", "files"), ("ffcv's loader", "jpg")):
        assert (crop, peer, of) in by or f"skipped: {peer}" in done.stdout
    assert {impl for case, impl, _ in by if case.startswith("encode")} == {"fastlt", "recompress"}
    assert sum(case.startswith("resume") for case, *_ in by) == 2
    assert "over authors" in done.stdout
    assert "over recompress" in done.stdout
    (picture,) = tmp_path.glob("loaders-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_resuming_alone_leaves_records_and_no_picture(tmp_path):
    done = run("loaders", "--quick", "--cases", "resume", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(records_of(tmp_path, "loaders")) == 2
    assert "drew" not in done.stdout
    assert not list(tmp_path.glob("*.png"))


def test_cases_that_no_loader_has_are_refused_with_those_there_are(tmp_path):
    done = run("loaders", "--quick", "--cases", "elephants", "--results", tmp_path)
    assert done.returncode == 1
    assert "--cases elephants: no case is named so. There are: drawn species 40 px, crop;" in done.stderr
    assert done.stderr.endswith("encode drawn species; resume.\n")
    assert not list(tmp_path.iterdir())


def test_ranks_that_are_named_are_measured_the_smallest_first():
    assert train_ranks.to_measure([4, 1, 4], "cpu") == [1, 4]
    assert train_ranks.to_measure([2], "cpu") == [2]
    assert train_ranks.to_measure(None, "cpu") == []


@pytest.mark.slow
def test_a_training_that_fails_is_quoted_however_much_it_said(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # more than a pipe takes
    command = [sys.executable, "-m", "fastlt", "train", str(workshop.folder / "recipe.yaml"), "optimizer.blr=1e30"]
    command += [f"data.path={workshop.folder / 'plain'}", "data.workers=0"]
    with pytest.raises(RuntimeError, match=r"did not train:[\s\S]*the loss is nan at step"):
        train_ranks.measure("diverges", command, 16, [1], "cpu", tmp_path, 1.0)
    assert (tmp_path / "1-ranks.stderr").stat().st_size > 2**16


@pytest.mark.slow
def test_quick_train_leaves_whole_records_and_a_picture(tmp_path):
    # One thread: on a busy machine, several would wait for each other most of the time.
    done = run("train", "--device", "cpu", "--quick", "--ranks", "2", "1", "--results", tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path, "train")
    layers, ranks = {"fastlt", "fastlt-resident", "bare"}, {"fastlt-1-ranks", "fastlt-2-ranks"}
    assert {r["impl"] for r in records if "images_per_s" in r} == layers | ranks
    assert [r["ranks"] for r in records if r.get("efficiency", 0) > 0] == [1, 2]
    shares = {r["impl"]: r["share"] for r in records if "share" in r}
    assert shares.keys() >= {"fastlt", "eager"}
    assert all(share > 0 for share in shares.values())
    assert "trainer with its data, over resident batches" in done.stdout
    (picture,) = tmp_path.glob("train-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_real_images_become_class_folders(tmp_path):
    """Where they are at hand; the quick runs take drawn ones."""
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bench.inputs import image_sets
out = Path(sys.argv[2])
photographs = image_sets.photographs(out / "photographs", 200, classes=100)
tiny = image_sets.tin_lt(out / "tiny")
if photographs and tiny:
    assert sum(1 for _ in photographs.train.glob("*/*.jpg")) == 200
    assert photographs.num_classes == 100
    assert tiny.num_classes == 83 + 67
    assert "--neighbors" in tiny.encode_words()
image_sets.DATA = out / "absent"
assert image_sets.photographs(out / "none", 10) is None
assert image_sets.tin_lt(out / "none") is None
"""
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_absent_gpu_is_one_clear_sentence(tmp_path):
    done = run("kernels", "--device", "tpu", "--results", tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'tpu'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium here")
def test_quick_review_leaves_records_of_what_a_person_waits_for(tmp_path):
    done = run("review", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    found = {record["what"] for record in records_of(tmp_path, "review")}
    assert found >= {"images open", "categories open", "a screen further", "a slider moved", "120 images dropped"}
