"""Trackers show what log.jsonl has, also after a kill and a resume; what they cannot do holds up no run."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlt.recipe import load_recipe
from fastlt.run_folder import RunFolder
from fastlt.training.run_log import RunLog
from fastlt.training.tracker import scalars
from fastlt.training.trackers import Trackers

pytestmark = pytest.mark.medium


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder where nobody has a key, with a recipe."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW", "TRACKIO"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    Path("recipe.yaml").write_text("data: {path: d}\nmodel: {name: m}\noptimizer: {epochs: 1, batch_size: 1, blr: 1}\n")
    return tmp_path


def told(recipe, first: int, steps: range, run: str = "run") -> None:
    """A part of a run: a record for each step, and an evaluation at every tenth."""
    RunFolder(Path(run)).path.mkdir(exist_ok=True)
    log = RunLog(RunFolder(Path(run)), True, 30, first, recipe)
    for step in steps:
        log.write("train", step, loss=1 / step, lr=0.1)
        if step % 10 == 0:
            log.write("eval", step, epoch=step // 10, all=float(step), few=None)
    log.close()


def in_mlflow(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = MlflowClient(uri)
    names = client.get_run(run_id).data.metrics
    return {name: sorted((m.step, m.value) for m in client.get_metric_history(run_id, name)) for name in names}


def in_trackio(file: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    rows = sqlite3.connect(file).execute("select step, metrics from metrics order by step").fetchall()
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found.setdefault(name, []).append((step, value))
    return {name: sorted(values) for name, values in found.items()}


def test_all_of_them_have_the_log_and_go_on_with_the_same_record(place, capfd):
    """Steps 15 to 20 were told before the kill and are trained again."""
    recipe = load_recipe("recipe.yaml", ["output=run", "log.trackers=[tensorboard,mlflow,trackio,wandb]"])
    told(recipe, 0, range(1, 21))
    said = capfd.readouterr().out
    assert said.count("wandb cannot be reached") == 1
    ids = {name: json.loads(Path(f"run/trackers/{name}.json").read_text()) for name in ("mlflow", "trackio", "wandb")}
    assert all(state["reached"] == [20, 1] for state in ids.values())
    told(recipe, 14, range(15, 31))
    expected: dict[str, list[tuple[int, float]]] = {}
    for record in RunFolder(Path("run")).records():
        for name, value in scalars(record).items():
            expected.setdefault(name, []).append((record["step"], value))
    assert len(expected["train/loss"]) == 30
    assert "eval/few" not in expected
    assert in_mlflow(Path("mlruns").absolute().as_uri(), ids["mlflow"]["id"]) == expected
    assert in_trackio(place / "trackio" / "fastlt.db") == expected
    for name, state in ids.items():
        now = json.loads(Path(f"run/trackers/{name}.json").read_text())
        assert (now["id"], now["reached"]) == (state["id"], [30, 1])
    parts = sorted(Path("run/wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert all(part.name.endswith(ids["wandb"]["id"]) for part in parts)
    assert list(Path("run/tensorboard").iterdir())


def test_a_server_that_never_answers_holds_up_nothing(place, capfd, monkeypatch):
    """It takes connections and is silent: the run says so once, at its end, and is over within its patience."""
    import socket

    monkeypatch.setattr("fastlt.training.trackers._PATIENCE", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret-word@127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        told(load_recipe("recipe.yaml", ["output=run", "log.trackers=[mlflow]"]), 0, range(1, 4))
        assert time.monotonic() - started < 20
    said = capfd.readouterr().out
    assert said.count("mlflow") == 1
    assert "mlflow had not taken all after 3 s: log.jsonl has what it lacks." in said
    assert len(RunFolder(Path("run")).records()) == 3
    # Nobody listens there now; the next part of the run reaches a store, and gives it what the first one could not.
    told(load_recipe("recipe.yaml", ["output=run", "log.trackers=[mlflow]"]), 3, range(4, 6))
    said = capfd.readouterr().out
    assert said.count("mlflow") == 1
    assert "secret-word" not in said
    monkeypatch.setattr("fastlt.training.trackers._PATIENCE", 60.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (place / "store").as_uri())
    told(load_recipe("recipe.yaml", ["output=run", "log.trackers=[mlflow]"]), 5, range(6, 8))
    found = in_mlflow((place / "store").as_uri(), json.loads(Path("run/trackers/mlflow.json").read_text())["id"])
    assert [step for step, _ in found["train/loss"]] == list(range(1, 8))


def test_a_record_has_one_writer(place):
    """The run was killed, and its tracker still delivers, when the resumed run starts one for the same record."""
    run = RunFolder(Path("run"))
    run.path.mkdir()

    def log(*steps: int) -> None:
        with run.log.open("a") as file:
            file.writelines(json.dumps({"kind": "train", "step": step, "loss": 1 / step}) + "\n" for step in steps)

    log(1)
    before = Trackers(["trackio"], run, {})
    until = time.monotonic() + 60
    while not (run.tracker("trackio").exists() and json.loads(run.tracker("trackio").read_text())["reached"] == [1, 0]):
        assert time.monotonic() < until
        time.sleep(0.1)
    after = Trackers(["trackio"], run, {})
    time.sleep(4)  # in which it would read where the record is
    log(2, 3)
    assert before.close() + after.close() == []
    losses = in_trackio(place / "trackio" / "fastlt.db")["train/loss"]
    assert losses == [(step, pytest.approx(1 / step)) for step in (1, 2, 3)]


def test_a_run_that_is_killed_leaves_no_tracker_behind(place):
    code = "import sys, time; from pathlib import Path; from fastlt.training.trackers import Trackers\n" + (
        "from fastlt.run_folder import RunFolder; Path('run').mkdir()\n"
        "t = Trackers(['trackio'], RunFolder(Path('run')), {}); print(t._processes['trackio'].pid, flush=True)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    tracker = int(process.stdout.readline())
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while Path(f"/proc/{tracker}").exists() and "State:\tZ" not in Path(f"/proc/{tracker}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_tracker_that_is_not_there_is_told_before_anything_starts(workshop):
    done = workshop.fastlt("train", "recipe.yaml", "data.path=encoded", "output=none", "log.trackers=[comet]")
    assert "log.trackers cannot be ['comet']" in done.stderr
    done = workshop.fastlt("train", "recipe.yaml", "data.path=encoded", "output=none", "log.tensorboard=false")
    assert "log.tensorboard is now a part of log.trackers: leave it out" in done.stderr


def test_recipes_of_before_are_read(place):
    assert load_recipe("recipe.yaml", ["output=run", "log.tensorboard=false"]).log.trackers == ()
    assert load_recipe("recipe.yaml", ["output=run", "log.tensorboard=true"]).log.trackers == ("tensorboard",)
