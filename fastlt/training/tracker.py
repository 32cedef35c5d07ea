"""Shows a run to one tracker, in a process of its own: follows the run's log, and what hangs here holds up nobody.

The tracker's network, threads and exit handlers stay away from the training, which only starts this and, by closing its
standard input, ends it. What was taken is kept in the run folder, so that a resumed run continues the same record, and
gets what an earlier process could not deliver.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

if __name__ == "__main__":  # a script's own folder is first on the path, where our modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from fastlt.atomic import write_text
from fastlt.foreign import load_json, parse_json, without_credentials
from fastlt.messages import one_line
from fastlt.ownership import open_own
from fastlt.run_folder import RunFolder, hold
from fastlt.stopping import stop_signals

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_TRIES = 30.0
_LONGEST_END = 60.0  # seconds from the run's end to this process's, whatever the tracker does
_KINDS = ("train", "eval", "summary")  # of records of one step, in the order of the log
_MOST_PARAMS = 100  # that MLflow takes at once
_PROJECT = "fastlt"

Say = Callable[[str], None]


class Tracker(Protocol):
    """A record that is open.

    Attributes:
        id: by which it is found again.
    """

    id: str

    def write(self, step: int, values: dict[str, float]) -> None:
        """Takes the values of a step."""
        ...

    def close(self) -> None:
        """Has all of them delivered."""
        ...


class _Wandb:
    def __init__(self, run: RunFolder, config: dict[str, Any], kept: str, say: Say) -> None:
        import wandb

        self.id = kept or uuid.uuid4().hex[:12]
        folder = os.environ.get("WANDB_DIR") or str(run.path)
        settings = wandb.Settings(silent=True, console="off", init_timeout=15, x_disable_stats=True)
        how: dict[str, Any] = {"id": self.id, "resume": "allow", "dir": folder, "settings": settings}
        how |= {"project": os.environ.get("WANDB_PROJECT", _PROJECT), "name": run.path.name, "config": config}
        mode: Any = os.environ.get("WANDB_MODE")
        try:
            self._run = wandb.init(mode=mode or "online", **how)
        except (wandb.errors.Error, TimeoutError) as error:
            if mode:
                raise
            why = one_line(without_credentials(str(error)), 160).rstrip(".")
            sync = f"`wandb sync {folder}/wandb/offline-run-*` sends it"
            say(f"wandb cannot be reached ({why}): the record is kept offline; {sync}.")
            wandb.teardown()  # its process holds the id that it could not begin with
            self._run = wandb.init(mode="offline", **how)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: RunFolder, config: dict[str, Any], kept: str, say: Say) -> None:
        del say
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which newer ones refuse where nobody says so
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").absolute().as_uri())
        if kept:
            self.id = kept
            self._client.update_run(kept, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self.id = self._client.create_run(experiment_id, run_name=run.path.name).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in config.items()]
        for i in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.id, params=params[i : i + _MOST_PARAMS])

    def write(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self.id)


class _Trackio:
    def __init__(self, run: RunFolder, config: dict[str, Any], kept: str, say: Say) -> None:
        del say
        import trackio

        self.id = kept or f"{run.path.name}-{uuid.uuid4().hex[:8]}"  # it finds runs by their names
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        how: dict[str, Any] = {
            "config": config,
            "resume": "allow",
            "auto_log_gpu": False,
            "auto_log_cpu": False,
            "embed": False,
        }
        self._run = trackio.init(project, self.id, **how)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[..., Tracker]] = {"wandb": _Wandb, "mlflow": _MLflow, "trackio": _Trackio}


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """{kind/name: value} of a record of the log, as every tracker shows it."""
    kind = record["kind"]
    values = ((name, value) for name, value in record.items() if name not in ("kind", "step"))
    return {f"{kind}/{name}": value for name, value in values if isinstance(value, int | float)}


def follow(name: str, run: RunFolder, config: dict[str, Any], ended: threading.Event, say: Say) -> None:
    """Gives a tracker all records of the log that it lacks, and those that come, until the run has ended.

    What fails is said once and tried again: at its end the run waits for nothing.

    Args:
        name: of the tracker.
        run: whose log it is.
        config: what the tracker shows about the run.
        ended: set when the run has.
        say: tells people.
    """
    state = _State(run.tracker(name))
    tracker: Tracker | None = None
    records, waiting = _records(run.log), list[dict[str, Any]]()
    last = failed = False
    while not (last and not waiting):
        last = ended.is_set()  # looked at before the log is: what came before it is in there
        waiting += [record for record in records() if state.lacks(record)]
        try:
            if waiting and tracker is None:
                tracker = _TRACKERS[name](run, config, state.id, say)
                state.keep(id=tracker.id)
            while waiting and tracker:
                tracker.write(waiting[0]["step"], scalars(waiting[0]))
                state.reached = _place(waiting.pop(0))
            if tracker:
                state.keep()
            if last and tracker:
                tracker.close()
        except Exception as error:  # of many kinds; none of them is worth a run
            if not failed:
                why = one_line(without_credentials(str(error)), 200).rstrip(".") or type(error).__name__
                say(f"{name} does not take the record ({why}): the run goes on, and log.jsonl has all of it.")
            failed = True
            if last:
                return
            ended.wait(_SECONDS_BETWEEN_TRIES)
            continue
        if not last:
            ended.wait(_SECONDS_BETWEEN_LOOKS)


class _State:
    """What is known of a record from one process to the next: its id, and up to where it has the log."""

    def __init__(self, file: Path) -> None:
        self._file = file
        found = load_json(file) if file.is_file() else {}
        self.id, self.reached = str(found.get("id", "")), tuple(found.get("reached", (-1, 0)))
        self._kept = self.reached

    def lacks(self, record: dict[str, Any]) -> bool:
        """Whether the record of the log is not there yet."""
        return _place(record) > self.reached

    def keep(self, id: str | None = None) -> None:
        """Writes it, where it has changed."""
        if id is not None or self.reached != self._kept:
            self.id, self._kept = id or self.id, self.reached
            write_text(self._file, json.dumps({"id": self.id, "reached": self.reached}))


def _place(record: dict[str, Any]) -> tuple[int, int]:
    return record["step"], _KINDS.index(record["kind"])


def _records(log: Path) -> Callable[[], Iterator[dict[str, Any]]]:
    """A function that reads what was added to a log since it was called last; half a line waits for its end."""
    place = 0

    def added() -> Iterator[dict[str, Any]]:
        nonlocal place
        if not log.exists():
            return
        with log.open("rb") as stream:
            stream.seek(place)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                place += len(line)
                record = parse_json(line)
                if record.get("kind") in _KINDS:
                    yield record

    return added


def main() -> None:
    """Follows as the first line on standard input says, until that is closed."""
    for number in stop_signals():  # launchers send them to every process below them; the run says itself when it ends
        signal.signal(number, signal.SIG_IGN)
    told = os.fdopen(os.dup(1), "w")
    about = json.loads(sys.stdin.readline())
    run = RunFolder(Path(about["run"]))
    run.trackers.mkdir(exist_ok=True)
    noise = open_own(run.trackers / f"{about['name']}.log", "a")
    os.dup2(noise.fileno(), 1)
    os.dup2(noise.fileno(), 2)
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()
        time.sleep(_LONGEST_END)
        os.killpg(0, signal.SIGKILL)  # with whom the tracker has started

    threading.Thread(target=wait_for_end, daemon=True).start()

    def say(text: str) -> None:
        told.write(f"{text}\n")
        told.flush()

    hold(run.trackers / f"{about['name']}.held", wait=True)  # that of a killed run may still deliver
    follow(about["name"], run, about["config"], ended, say)


if __name__ == "__main__":
    main()
