"""`bench/run.py --compare`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.medium


def compare(before: object, after: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--compare", str(before), str(after)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def time_of(impl: str, middle: float, spread: float = 0.02, **about: object) -> dict:
    times = {"median_ms": middle, "p20_ms": middle * (1 - spread), "p80_ms": middle * (1 + spread)}
    return {"suite": "kernels", "case": "A", "impl": impl, "pass": "forward", "device": "CPU", **times} | about


def rate_of(impl: str, middle: float, spread: float = 0.02, **about: object) -> dict:
    low, high = middle * (1 - spread), middle * (1 + spread)
    rates = {"images_per_s": middle, "p20_images_per_s": low, "p80_images_per_s": high}
    return {"suite": "loaders", "case": "photographs", "impl": impl, "device": "CPU", **rates} | about


def counts_of(impl: str = "fastlt", **about: object) -> dict:
    counted = {"operators": 100, "allocated_bytes": 10**6, "page_faults": 0, "versions": {"torch": "2.15.0"}}
    return {"suite": "counts", "case": "a step", "impl": impl, "device": "cpu", "commit": "abc", **counted} | about


def code_of(triton: str = "3.9.0", **about: object) -> dict:
    counted = {"plain": 12.5, "narrowest": 16, "registers": 60, "spills": 0, "resident": 8}
    return {"suite": "sass", "case": "loss", "impl": "fastlt", "device": "H100", "versions": {"triton": triton}} | (
        counted | about
    )


@pytest.fixture
def written(tmp_path):
    def write(name: str, *records: dict) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return file

    return write


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (time_of("fastlt", 10), time_of("fastlt", 11)),
        (rate_of("ffcv", 1000, storage="jpg"), rate_of("ffcv", 900, storage="jpg")),
        (rate_of("fastlt-resident", 1000), rate_of("fastlt-resident", 900)),
    ],
)
def test_a_slowdown_of_ours_is_found(written, before, after):
    done = compare(written("a.jsonl", before), written("b.jsonl", after))
    assert done.returncode == 1, done.stderr
    assert "TOO SLOW" in done.stdout
    assert "1 of ours slower" in done.stdout


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (time_of("fastlt", 10, spread=0.1), time_of("fastlt", 11, spread=0.1), "0 slower and 0 faster"),  # noise
        (time_of("fastlt", 10), time_of("fastlt", 9), "0 slower and 1 faster"),
        (rate_of("ffcv", 900), rate_of("ffcv", 1000), "0 slower and 1 faster"),
        (time_of("fastlt", 10, spread=0.001), time_of("fastlt", 10.3, spread=0.001), "1 slower and 0 faster"),
        (time_of("eager", 10), time_of("eager", 20), "1 slower and 0 faster"),  # not ours
    ],
)
def test_noise_gains_small_losses_and_slower_peers_pass(written, before, after, said):
    done = compare(written("a.jsonl", before), written("b.jsonl", after))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "0 of ours slower" in done.stdout


def test_the_last_record_of_each_measurement_counts_and_storages_differ(written):
    before = written("a.jsonl", rate_of("ffcv", 5000, storage="jpg"), rate_of("ffcv", 1000, storage="jpg"))
    after = written("b.jsonl", rate_of("ffcv", 1000, storage="jpg"), rate_of("ffcv", 10, storage="raw"))
    done = compare(before, after)
    assert done.returncode == 0, done.stderr
    assert "1 measurements: 0 slower and 0 faster" in done.stdout
    assert "0 only before, 1 only after" in done.stdout


def test_folders_compare_file_by_file(written):
    for folder, factor in (("a", 1.0), ("b", 1.5)):
        written(f"{folder}/kernels-cpu.jsonl", time_of("fastlt", 10 * factor))
        written(f"{folder}/loaders-cpu.jsonl", rate_of("ffcv", 1000 * factor))
    folder = written("a/kernels-cpu.jsonl", time_of("fastlt", 10)).parent
    done = compare(folder, folder.with_name("b"))
    assert done.returncode == 1, done.stderr
    assert "2 measurements: 1 slower and 1 faster" in done.stdout


def test_a_file_compares_with_itself_at_a_commit(written):
    file = written("repository/a.jsonl", time_of("fastlt", 10))
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "measured"]):
        subprocess.run(["git", "-C", str(file.parent), *words], check=True)
    written("repository/a.jsonl", time_of("fastlt", 20))
    assert compare(f"{file}@HEAD", file).returncode == 1
    assert compare(file, f"{file}@HEAD").returncode == 0
    done = compare(f"{file}@absent", file)
    assert done.returncode == 2
    assert "at absent" in done.stderr


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([time_of("fastlt", 10, device="GPU")], "only records of one device compare"),
        ([time_of("fastlt", 10, case="B")], "no measurement in common"),
        ([{"suite": "kernels"}], "a line that is not a record"),
        ([], "holds no measurement"),
        (None, "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_sentence(written, tmp_path, after, said):
    before = written("a.jsonl", time_of("fastlt", 10))
    done = compare(before, tmp_path / "absent.jsonl" if after is None else written("b.jsonl", *after))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (counts_of(), counts_of(operators=101), "operators of a step, fastlt: 101 (+1.0%), and 100 before at abc"),
        (counts_of(), counts_of(page_faults=70), "page faults of a step, fastlt: 70, and 0 before at abc"),
        (counts_of(), counts_of(allocated_bytes=1_500_000), "1,500,000 (+50.0%), and 1,000,000 before"),
        (code_of(), code_of(plain=13.0), "plain of loss, fastlt: 13.0 (+4.0%), and 12.5 before"),
        (code_of(), code_of(narrowest=2), "narrowest of loss, fastlt: 2 (-87.5%), and 16 before"),
        (code_of(), code_of(resident=7), "resident of loss, fastlt: 7"),
    ],
)
def test_a_count_that_got_worse_fails_and_says_by_how_much_and_what_to_do(written, before, after, said):
    done = compare(written("a.jsonl", before), written("b.jsonl", after))
    assert done.returncode == 1, done.stderr
    assert said in done.stdout
    assert "1 counts worse" in done.stdout
    assert f"run `bench/run.py {before['suite']}`" in done.stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (counts_of(), counts_of(operators=99, allocated_bytes=1)),
        (counts_of("eager"), counts_of("eager", operators=200)),  # not ours
        (code_of(), code_of(plain=12.0, narrowest=16, resident=9)),
    ],
)
def test_counts_that_got_better_and_those_of_peers_pass(written, before, after):
    done = compare(written("a.jsonl", before), written("b.jsonl", after))
    assert done.returncode == 0, done.stderr
    assert "0 counts worse" in done.stdout


def test_counts_compare_with_the_last_of_their_own_versions_alone(written):
    newer = counts_of(operators=150, versions={"torch": "2.16.0"})
    before = written("a.jsonl", counts_of(operators=120), counts_of(), newer)
    assert compare(before, written("b.jsonl", counts_of(operators=110))).returncode == 1
    assert compare(before, written("b.jsonl", newer)).returncode == 0
    done = compare(before, written("b.jsonl", counts_of(operators=500, versions={"torch": "2.11.0"})))
    assert done.returncode == 2
    assert "no measurement in common. Counts compare where these are alike: torch 2.15.0" in done.stderr
