"""The `fastlt` command: finds the command that is named, has tyro read its options, runs it."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from tyro.conf import OmitArgPrefixes, Positional, arg

from fastlt.data_prep import cli as data_prep
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.experiments.granularity.options import GranularityOptions
from fastlt.messages import harmless, one_line, told
from fastlt.options import (
    Command,
    Flag,
    OptionalFile,
    OptionalFolder,
    OptionalText,
    OptionError,
    RunFolder,
    RunFolders,
    keys_last,
    keys_second,
    parse,
)
from fastlt.places import as_place


@dataclass(frozen=True)
class Train:
    """Train on an encoded data set, on all GPUs of this machine, or on the CPU.

    Recipe, data set and model are checked before any rank starts. Ctrl-C saves and ends; --resume goes on exactly
    there. For several machines, use the launchers: see docs/cluster.md.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A YAML recipe, or the name of one of ours, such as demo/species."""
    overrides: Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")] = ()
    """Keys of the recipe to set, for example optimizer.epochs=3; `fastlt recipe` explains all keys."""
    resume: Flag = False
    """Go on with the run at its newest checkpoint."""
    ranks: int = 0
    """Processes; 0 starts one for each GPU, or one on the CPU."""

    def run(self) -> None:
        from fastlt.launch import launch, number_of_ranks
        from fastlt.preflight import check
        from fastlt.recipe import load_recipe

        if self.ranks < 0:
            raise OptionError(f"--ranks is {self.ranks}; give a number of processes, or 0 for one on each GPU.")
        ranks = number_of_ranks(self.ranks)
        check(load_recipe(self.recipe, self.overrides), self.resume, ranks)
        words = ["--config", self.recipe, *["--resume"] * self.resume, *self.overrides]
        status = launch(words, ranks)
        if status:
            raise SystemExit(status)


@dataclass(frozen=True)
class Recipe:
    """Explain recipes: every key with its default and meaning, one key, or one of our recipes as it stands."""

    name: Annotated[Positional[str], arg(metavar="[NAME]", help_behavior_hint="")] = ""
    """A recipe to print, with its base: a file, or the name of one of ours. Or a key, such as optimizer.blr."""

    def run(self) -> None:
        from fastlt.recipe import Recipe as RecipeKeys
        from fastlt.recipe import load_recipe, packaged_recipes
        from fastlt.yaml_keys import explained

        if explanation := explained(RecipeKeys, self.name):
            print(explanation)
        elif self.name:
            print(load_recipe(self.name).text(), end="")
        if not self.name:
            print(f"\nrecipes that come with fastlt: {', '.join(packaged_recipes())}")


@dataclass(frozen=True)
class ClassEmbeddings:
    """Write the first rows of CLIP's cosine head: text embeddings of all class names (model.class_embeddings)."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """An encoded data set, a folder or a URL, whose target and auxiliary classes these are."""
    out: Annotated[Path, arg(metavar="FILE")]
    """The file to write, safetensors."""
    model: str = "ViT-B-16-quickgelu"
    """A model of open_clip (open_clip.list_models()); its image side should be the backbone that is trained."""
    weights: str = "openai"
    """One of open_clip's tags for this model, which are downloaded, or a file."""
    templates: OptionalFile = None
    """Sentences with {} for the name, one a line; their embeddings are averaged (default: "a photo of a {}.")."""
    titles: OptionalFile = None
    """JSON {class: what to call it}, where names are codes."""

    def run(self) -> None:
        from fastlt.dataset.staging import described
        from fastlt.foreign import load_json

        names = described(as_place(self.data)).label_space.names
        given = load_json(self.titles) if self.titles else {}
        if not isinstance(given, dict):
            raise OptionError(f"--titles {self.titles} has to be JSON {{class: title}}.")
        from fastlt.backbone.text_embeddings import read_templates, titles_of, write_class_embeddings  # imports torch

        templates = read_templates(self.templates) if self.templates else ["a photo of a {}."]
        titles = titles_of(names, given)
        classes, size = write_class_embeddings(titles, self.out, self.model, self.weights, templates)
        example = next(iter(titles.values()))
        print(f"written: {self.out}, {classes:,} classes, {size} numbers each; for example {example!r}")


@dataclass(frozen=True)
class Evaluate:
    """Measure accuracy and calibration of a run, or of several, on their target classes.

    Writes evaluation_SPLIT.json, per_class_SPLIT.csv and mistakes_SPLIT.json (what was taken for what) into each run.
    """

    runs: RunFolders
    """The folders of the runs."""
    split: Literal["auto", "val", "test"] = "auto"
    """The split; auto takes test where there is one, else val."""
    weights: Literal["auto", "last", "best"] = "auto"
    """Which weights; auto takes the best ones, which val has chosen, on test, and the last ones on val."""
    data: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None
    """Another encoded data set of the same target classes, a folder or a URL."""
    ensemble: bool = False
    """Average the logits of five crops, center and corners of the square in an image's middle, read a tenth larger."""
    calibrate: bool = False
    """First find the temperature that makes probabilities say how often they are right: that of the smallest negative
    log-likelihood, a plain mean over the validation images. The run keeps it; `predict` and `export` use it."""

    def run(self) -> None:
        from fastlt import run_folder

        _require_runs(self.runs)
        if self.calibrate and self.ensemble:
            raise OptionError("--calibrate is for single crops, as `predict` takes them: leave out --ensemble.")
        for path in self.runs:
            run_folder.RunFolder(path).require_begun()
        from fastlt.evaluation.finished_run import evaluate_run  # imports torch, which takes seconds

        data = as_place(self.data) if self.data else None
        for path in self.runs:
            print(evaluate_run(path, self.split, self.weights, data, self.ensemble, self.calibrate))


@dataclass(frozen=True)
class Predict:
    """Say what images show: the most probable target classes of each, as a table, CSV or JSON lines.

    What cannot be read is named in its place, with the reason, and counted. Status 0: all images were read; 3: some
    were not; 1: none was, or nothing could be done.
    """

    run_folder: RunFolder
    """The folder of a run, or one that `fastlt export` wrote."""
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGES [IMAGES ...]", help_behavior_hint="")]
    """Files; folders, which are walked; or - for paths on standard input, one a line."""
    top_k: int = 1
    """How many classes to name for each image."""
    threshold: float = 0.0
    """Say "unsure" instead of a class that is less probable than this, 0 to 1."""
    format: Literal["auto", "table", "csv", "jsonl"] = "auto"
    """Of the output; auto takes what FILE ends with, else a table. The tables of CSV have no formulas in them."""
    out: OptionalFile = None
    """The file to write instead of printing; it appears when all is done."""
    weights: Literal["last", "best"] = "last"
    """Which weights of a run."""
    workers: int = 0
    """Processes that read images; 0 starts one for each core."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise OptionError(f"--top-k is {self.top_k}; give a number of classes, at least 1.")
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"--threshold is {self.threshold:g}; give a probability, 0 to 1.")
        if self.workers < 0:
            raise OptionError(f"--workers is {self.workers}; give a number of processes, or 0 for one on each core.")
        if self.out and self.out.exists() and not self.out.is_file():
            raise OptionError(f"--out {self.out} is no file; to print, leave it out.")

    def run(self) -> None:
        from fastlt.prediction.folders import require_predictor

        require_predictor(self.run_folder)
        if not self.images:
            raise OptionError("name images, folders of them, or - for paths on standard input.")
        from fastlt.prediction.predict import predict  # imports torch, which takes seconds
        from fastlt.prediction.predictor import open_predictor

        ending = self.out.suffix[1:] if self.out else ""
        form = self.format if self.format != "auto" else "csv" if ending == "csv" else "table"
        form = "jsonl" if self.format == "auto" and ending in ("jsonl", "ndjson") else form
        predictor = open_predictor(self.run_folder, self.weights)
        counted = predict(predictor, self.images, self.out, form, self.top_k, self.threshold, self.workers)
        written = f"; written: {self.out}" if self.out else ""
        print(f"{predictor.title}: {counted.sentence()}; {predictor.about_probabilities()}{written}", file=sys.stderr)
        if counted.broken:
            raise SystemExit(1 if counted.broken == counted.images else 3)


@dataclass(frozen=True)
class Export:
    """Write the target classes of a run as a model that plain timm loads, with the lines that load it and a card."""

    run_folder: RunFolder
    """The folder of the run."""
    out: OptionalFolder = None
    """The folder to make (default: RUN/export)."""
    weights: Literal["last", "best"] = "last"
    """Which weights to export."""
    license: OptionalText = None
    """The license of the model, for its card."""
    onnx: Flag = False
    """Write model.onnx too, and compare what onnxruntime makes of it with what torch does."""

    def run(self) -> None:
        from fastlt import run_folder

        run_folder.RunFolder(self.run_folder).require_begun()
        from fastlt.evaluation.export import export  # imports torch, which takes seconds
        from fastlt.evaluation.finished_run import FinishedRun

        files = export(
            FinishedRun(self.run_folder, self.weights),
            self.out or self.run_folder / "export",
            self.license or "",
            self.onnx,
        )
        print(f"written: {', '.join(map(str, files))} ({self.weights} weights)")
        print(f"try it:  python {files[-1]} IMAGE")


@dataclass(frozen=True)
class Publish:
    """Push an exported model or an encoded data set to a hub, with its card, after asking.

    Refuses what is not whole, and images whose licenses forbid it. The token comes from HF_TOKEN.
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """What `fastlt export` or `fastlt encode` made."""
    to: Annotated[str, arg(metavar="OWNER/NAME")]
    """The repository, made if there is none."""
    endpoint: Annotated[str, arg(metavar="URL", help_behavior_hint="")] = ""
    """The hub (default: $HF_ENDPOINT, or Hugging Face)."""
    private: Flag = False
    """Have nobody else see it."""
    own_license: Annotated[str, arg(metavar="NAME", help_behavior_hint="")] = ""
    """The license of the images of a data set that you brought yourself, unless encode was told."""
    yes: Flag = False
    """Do not ask."""

    def run(self) -> None:
        from fastlt.publish import publish

        print(publish(self.folder, self.to, self.endpoint, self.private, self.own_license, self.yes))


@dataclass(frozen=True)
class Report:
    """Draw a page about one run or several: classes, curves, accuracy, mistakes, calibration, speed.

    Of the run named last it shows the worst tail classes with pictures, where its data set still is.
    """

    runs: RunFolders
    """The folders of the runs."""
    out: Path = Path("report.html")
    """Where to write the page."""
    sheet: OptionalFile = None
    """The contact sheet of `fastlt filter`, to be shown too."""

    def run(self) -> None:
        from fastlt.evaluation.report import report, text_table

        _require_runs(self.runs)
        report(self.runs, self.out, self.sheet)
        print(f"{text_table(self.runs)}\n\nwritten: {self.out}")


@dataclass(frozen=True)
class Study:
    """Train arms x seeds x data sets of one file, and compare the arms: means, paired differences with intervals.

    Goes on where it was, skips what is done, and goes past what fails. Writes runs.jsonl (a line for each finished
    run), table.md, table.csv and picture.png. Without FILE it explains every key of such a file.
    """

    file: Annotated[Positional[Path | None], arg(metavar="[FILE]", help_behavior_hint="")] = None
    """A YAML file with base, data, arms and seeds; studies/tin_wide.yaml is one."""
    only: Annotated[tuple[str, ...], arg(metavar="ARM [ARM ...]", help_behavior_hint="")] = ()
    """Train these arms alone; with --out, that repeats rows of the table."""
    out: OptionalFolder = None
    """The folder of the study (default: FILE without its ending)."""
    redo: Flag = False
    """Delete runs that are stale, as the study file, the data or the code changed since, and train them again."""
    other_commits: Flag = False
    """Take runs that another commit of fastlt has made; the table names the commits."""

    def run(self) -> None:
        from fastlt.experiments.study import run_study
        from fastlt.experiments.study_file import Study as StudyKeys
        from fastlt.yaml_keys import explained

        if self.file is None:
            print(explained(StudyKeys))
        elif status := run_study(self.file, self.out, self.only, self.redo, self.other_commits):
            raise SystemExit(status)


@dataclass(frozen=True)
class Granularity:
    """Measure whether finer labels make imbalance hurt less: the same images under coarse and fine labels.

    Trains them balanced and long-tailed with as many images, judges all with the coarsest labels, and says what
    imbalance costs at each level. If it is interrupted, run the same command again to continue.
    """

    images: Annotated[Positional[Path], arg(metavar="IMAGES")]
    """A folder with a folder of images for each class, the finest ones."""
    design: OmitArgPrefixes[GranularityOptions]
    overrides: Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")] = ()
    """Keys of the recipe to set, for example optimizer.epochs=3; `fastlt recipe` explains all keys."""
    storage: OmitArgPrefixes[EncodeOptions] = field(default_factory=EncodeOptions)
    plan: Flag = False
    """Only say what would be done: levels, images, trainings, steps."""
    redo: Flag = False
    """Make stale data sets anew, delete stale runs, and train them again."""
    other_commits: Flag = False
    """Take runs that another commit of fastlt has made."""

    def run(self) -> None:
        from fastlt.experiments.granularity.granularity import granularity

        flags = self.plan, self.redo, self.other_commits
        if status := granularity(self.images, self.overrides, self.design, self.storage, *flags):
            raise SystemExit(status)


@dataclass(frozen=True)
class Draw:
    """Draw the demo's fine-grained data set: class folders of species that look alike."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder to make."""
    seed: int = 0
    """Random seed."""

    def run(self) -> None:
        from fastlt.demo.species import draw_dataset

        draw_dataset(self.out, seed=self.seed)
        print(f"written: train, val, auxiliary, neighbors.json and taxonomy.json in {self.out}")


@dataclass(frozen=True)
class Demo:
    """Run the whole path on drawn species, offline: discover, crawl, filter, encode, train three arms, report."""

    out: Path = Path("runs/demo")
    """The folder to make."""
    ranks: int = 2
    """Training processes."""

    def run(self) -> None:
        from fastlt.demo.demo import demo

        demo(self.out, self.ranks)


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has, try what of fastlt works on it, and what to type where something does not.

    Loaders, kernels and a training are tried on tiny inputs, each in a process of its own. Status 0: all that fastlt
    needs here works; 1: something of that does not.
    """

    timeout: float = 600.0
    """Seconds that each attempt may take; a first one compiles."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 86_400:
            raise OptionError(f"--timeout is {self.timeout:g}; give seconds, up to a day of them.")

    def run(self) -> None:
        from functools import partial

        from fastlt.doctor.doctor import doctor

        if not doctor(partial(print, flush=True), self.timeout):
            raise SystemExit(1)


# In the order in which they are used.
COMMANDS: dict[str, dict[str, type[Command]]] = {
    "from class names to images that look like your classes": {
        name: data_prep.COMMANDS[name]
        for name in ("discover", "crawl", "merge", "push", "pull", "filter", "status", "review", "remove")
    },
    "from images to a classifier": {
        "encode": data_prep.COMMANDS["encode"],
        "class-embeddings": ClassEmbeddings,
        "recipe": Recipe,
        "train": Train,
        "evaluate": Evaluate,
        "predict": Predict,
        "export": Export,
        "publish": Publish,
        "report": Report,
    },
    "to find out what helps": {"study": Study, "granularity": Granularity},
    "to try it": {"doctor": Doctor, "demo": Demo, "draw": Draw},
}
_MAX_SAID = 4000  # characters of an error: some list files
_BY_NAME = {name: command for group in COMMANDS.values() for name, command in group.items()}


def main(words: list[str] | None = None) -> int:
    """Runs one command; users' mistakes end it with one sentence and status 1 (2 for words that make no sense)."""
    words = sys.argv[1:] if words is None else words
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        import fastlt

        print(f"fastlt {fastlt.__version__}")
        return 0
    name, *rest = words
    if name not in _BY_NAME:
        close = difflib.get_close_matches(name, _BY_NAME, 1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(_BY_NAME)}."
        print(f"fastlt: error: there is no command {name!r}; {meant}", file=sys.stderr)
        return 2
    try:
        command = command_of(name, rest)
        with contextlib.redirect_stdout(sys.stdout and _Harmless(sys.stdout)):  # None where it is closed
            command.run()
            print(end="", flush=True)
    except (ValueError, OptionError, OSError) as error:
        print(f"fastlt: error: {sentence(error)}", file=sys.stderr)
        return 1
    except sqlite3.DatabaseError as error:  # a full disk, mostly
        print(f"fastlt: error: the catalog cannot be used: {one_line(error, 300)}.", file=sys.stderr)
        return 1
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt as stopped:
        if str(stopped):
            print(f"fastlt: {stopped}", file=sys.stderr)
        return 130
    return 0


def command_of(name: str, words: list[str]) -> Command:
    """What is typed behind `fastlt`, read and not yet run.

    Raises:
        SystemExit, OptionError: as `parse` does.
    """
    if name == "train":
        _require_no_dashes(words)
    words = keys_last(words) if name == "train" else keys_second(words) if name == "granularity" else words
    return parse(_BY_NAME[name], f"fastlt {name}", words)


class _Harmless:
    """The output of a command, without what a terminal obeys: names of classes and files may be anybody's.

    Once nobody reads it anymore, as with `| head`, the command ends as a signal would have ended it, with 141.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._read_by_somebody():
            return self._stream.write(harmless(text))

    def flush(self) -> None:
        with self._read_by_somebody():
            self._stream.flush()

    @contextlib.contextmanager
    def _read_by_somebody(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # what Python flushes at its end
            raise SystemExit(141) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def sentence(error: Exception) -> str:
    """What an error says, of any length and with nothing in it that a terminal obeys: it may quote foreign text."""
    said = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in told(error))
    return said if len(said) <= _MAX_SAID else f"{said[: _MAX_SAID - 300]} ... {said[-300:]}"


def _require_no_dashes(words: list[str]) -> None:
    """Raises OptionError for a recipe's key that is written like an option; tyro takes it for another mistake."""
    for word in words:
        key = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and not difflib.get_close_matches(key, ("resume", "ranks", "help"), 1):
            raise OptionError(f"{word}: keys of the recipe are written without dashes, for example optimizer.epochs=3.")


def _require_runs(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise OptionError("name a run, or several.")


def _help() -> str:
    width = max(map(len, _BY_NAME)) + 2
    lines = ["usage: fastlt COMMAND ...", "", "Trains image classifiers on long-tailed data by category extrapolation."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:"]
        for name, command in commands.items():
            summary = (command.__doc__ or "").splitlines()[0]
            lines.append(f"  {name:<{width}}{summary}")
    return "\n".join([*lines, "", "`fastlt COMMAND --help` has the options of a command."])


if __name__ == "__main__":
    sys.exit(main())
