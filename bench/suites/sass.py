"""What `bench/run.py sass` shows: the row kernels as machine code, and how fast GPUs are predicted to run them.

No GPU need be there. Shapes: B samples, C classes.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from rich.table import Table

from bench.harness import gpu_model, records
from bench.harness.gpu_model import A100, H100, H200, Gpu, Prediction, Work
from bench.harness.machine_code import Program, compile_kernel
from bench.harness.records import Record
from bench.peers import liger_code
from fastlt.kernels import triton_kernels, triton_rows

BATCH = 4096
CLASSES = (1000, 3000, 8142, 8144, 32568, 131072, 1048576)
QUICK_CLASSES = (1000, 3000, 8144, 32568)  # every kernel that takes 8 classes at a time
FEW, FEW_CLASSES = (64, 128, 256), (3000, 32568, 131072)  # rows, fewer than multiprocessors could take at once
NEIGHBORS = (0, 3, 64)  # of a label, spread evenly over the classes
MEASURED_NEIGHBORS = 3  # what is measured elsewhere has as many
GPUS = (A100, H100, H200)
CAPABILITIES = (90, 80, 100)
KINDS = {"loss": (1, 1), "gradient": (2, 1), "both": (2, 2)}  # times that rows are read or written, streams
PARTS = ("loss", "gradient")  # what runs where no kernel does both
USUAL, MOST, VARIED_CLASSES = "silencing", "two labels, smoothing", 32568
VARIANTS = {
    USUAL: {"L": 1, "SILENCE": True, "SMOOTH": False, "HAS_BIAS": True},  # what is predicted, and timed elsewhere
    "prior alone": {"L": 1, "SILENCE": False, "SMOOTH": False, "HAS_BIAS": True},
    "smoothing without prior": {"L": 1, "SILENCE": True, "SMOOTH": True, "HAS_BIAS": False},
    MOST: {"L": 2, "SILENCE": True, "SMOOTH": True, "HAS_BIAS": True},
}
KERNELS = {
    "loss": triton_kernels.loss_of_rows,
    "gradient": triton_kernels.gradient_of_rows,
    "both": triton_kernels.loss_of_rows,
    "slice": triton_kernels.accumulate_rows,
}
TYPES = {  # of the kernels' arguments that are no int32
    **dict.fromkeys(("stacked_labels", "indptr", "neighbors"), "*i64"),
    **dict.fromkeys(
        ("weights", "strengths", "logit_bias", "state", "loss", "total", "saved", "grad_loss", "scale"), "*fp32"
    ),
    **dict.fromkeys(("log_lambda", "smoothing"), "fp32"),
    "arrived": "*i32",
}
MACHINE_CODE = (
    "for a class and pass: instructions of plain and mixed blocks, exponentials, bytes loaded and stored. narrowest: "
    "bytes of a load or store of plain blocks; single: loads and stores of one class in all; spills: in streams"
)
RECORDS = Path(__file__).resolve().parents[1] / "results"
Shape = dict[str, int]
Job = tuple[str, int, int, int, str]  # kernel, rows, classes, capability, variant
Compiled = dict[Job, tuple[Shape, Program]]


def run(device: torch.device, quick: bool, results: Path) -> None:
    """Compiles on all cores; prints what the machine code is like, and what is predicted of it for each GPU."""
    if triton.knobs.runtime.interpret:
        raise SystemExit("TRITON_INTERPRET is set, with which nothing is compiled: unset it.")
    console, capabilities = Console(width=160), CAPABILITIES[: 1 if quick else None]
    cases = [(BATCH, C) for C in (QUICK_CLASSES if quick else CLASSES)]
    cases += [(B, C) for B in FEW[: 1 if quick else None] for C in FEW_CLASSES]
    jobs = [(kind, *case, capability, USUAL) for capability in capabilities for case in cases for kind in KINDS]
    varied = ("both",) if quick else KERNELS
    jobs += [(kind, BATCH, VARIED_CLASSES, H100.capability, v) for v in VARIANTS for kind in varied]
    jobs += [(kind, FEW[0], VARIED_CLASSES, H100.capability, MOST) for kind in varied if kind in KINDS]
    compiled = compile_all(list(dict.fromkeys(jobs)))
    for capability in capabilities:
        lines = [_described(job, *found) for job, found in compiled.items() if job[3] == capability]
        _print(console, f"sm_{capability}, machine code", lines, MACHINE_CODE)
        if all(gpu.capability != capability for gpu in GPUS):
            records.append(results, "sass", f"sm_{capability}", lines)
    for gpu in (gpu for gpu in GPUS if gpu.capability in capabilities):
        found = [_record(kind, *case, gpu, compiled) for case in cases for kind in KINDS]
        _print(console, f"{gpu.name}, predicted", map(_line, found), "bfloat16, prior; 0, 3, 64 neighbors")
        if gpu is H100:
            found += [_described(job, *program) for job, program in compiled.items() if job[4] != USUAL]
            found += [] if quick else _liger(console)
        file = records.append(results, "sass", gpu.name, found)
        console.print(f"appended {len(found)} records to {file}", highlight=False, soft_wrap=True)


def compile_all(jobs: list[Job]) -> Compiled:
    """The machine code of kernels in the shapes that they are launched in; none for "both" where none does both."""
    shapes = {job: shape for job in jobs if (shape := _shape(job))}
    tasks = {job: (job[0], shape, *job[3:]) for job, shape in shapes.items()}
    distinct = [task for i, task in enumerate(tasks.values()) if task not in list(tasks.values())[:i]]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        programs = list(pool.map(_program, distinct))
    return {job: (shapes[job], programs[distinct.index(task)]) for job, task in tasks.items()}


def _shape(job: Job) -> Shape | None:
    """In what shape a kernel takes rows of bfloat16."""
    kind, B, C, _, variant = job
    logits = torch.empty(B, C, dtype=torch.bfloat16, device="meta")
    return triton_rows.shape_of("loss" if kind == "slice" else kind, logits, labels=VARIANTS[variant]["L"])


def compile_rows(
    kernel: Any, capability: int, dtype: str, shape: Shape, strengths: bool = False, **constants: Any
) -> Any:
    """One of our kernels, for whole rows or for slices that start at a multiple of 16 classes."""
    constants |= {} if strengths else {"strengths": None}
    options = {name: shape[name] for name in ("num_warps", "maxnreg") if name in shape}
    types = TYPES | dict.fromkeys(("logits", "out"), f"*{dtype}")
    return compile_kernel(kernel, capability, types, constants | shape, {"first_class"}, **options)


def _program(job: tuple[str, Shape, int, str]) -> Program:
    kind, shape, capability, variant = job
    constants = VARIANTS[variant] | {"WHOLE": True, "GRADIENT": kind == "both"}
    return Program(compile_rows(KERNELS[kind], capability, "bf16", shape, **constants))


def predict(kind: str, B: int, C: int, neighbors: int, gpu: Gpu, shape: Shape, program: Program) -> Prediction:
    """The time of a kernel for B rows."""
    passes, streams = KINDS[kind]
    programs, logits = math.ceil(B / shape["ROWS"]), 2.0 * B * C
    blocks = math.ceil(C / (shape["R"] * shape["T"] * shape["V"]))
    mixed, again = min(blocks, neighbors + 1), logits * (streams - 1)
    cached = passes * logits + again + streams * programs * 4.0 * C  # every program reads the prior
    work = Work(programs, blocks, mixed, neighbors - mixed, passes * logits, again, cached, again / programs)
    return gpu_model.predict(program, work, gpu)


def _described(job: Job, shape: Shape, program: Program) -> Record:
    """What a kernel's machine code is like, see MACHINE_CODE."""
    kind, B, C, _, variant = job
    plain = [i for stream in program.streams for i in program.along(program.plain(stream))]
    mixed = [i for stream in program.streams for i in program.along(program.mixed(stream))]
    classes = len(program.streams) * shape["ROWS"] * shape["R"] * shape["V"]
    per_class = {
        "plain": len(plain),
        "mixed": len(mixed),
        "exponentials": sum(i.kind == "EX2" for i in plain),
        "loaded": sum(i.width for i in plain if i.kind == "LDG"),
        "stored": sum(i.width for i in plain if i.kind == "STG"),
    }
    return {
        "case": f"{kind} C={C} B={B} {variant}",
        "impl": "fastlt",
        "shape": [shape["ROWS"], shape["R"] * shape["V"], program.warps, shape.get("maxnreg")],
        **{name: round(number / classes, 2) for name, number in per_class.items()},
        "narrowest": min(i.width for i in plain if i.is_global),
        "single": sum(i.is_global and i.width == 2 for i in program.everything),
        "spills": sum(i.is_spill for stream in program.streams for i in program.along(stream.body)),
        "registers": program.registers,
    }


def _record(kind: str, B: int, C: int, gpu: Gpu, compiled: Compiled) -> Record:
    """What is predicted of a kernel, or of two where none does both, and what was measured of it."""
    usual = {k: compiled.get((k, B, C, gpu.capability, USUAL)) for k in KINDS}
    parts = {k: of for k in ([kind] if usual[kind] else PARTS) if (of := usual[k])}
    found = {k: [predict(part, B, C, k, gpu, *of) for part, of in parts.items()] for k in NEIGHBORS}
    ms = {k: 1000 * sum(p.seconds for p in predictions) for k, predictions in found.items()}
    moved = 2.0 * B * C * sum(KINDS[part][0] for part in parts)
    slowest = max(found[MEASURED_NEIGHBORS], key=lambda p: p.seconds)
    record = _described((kind, B, C, gpu.capability, USUAL), *parts[kind]) if kind in parts else {}
    record |= {"case": f"{kind} C={C} B={B} bfloat16", "impl": "fastlt", "pass": kind, "C": C, "B": B}
    record |= {
        "predicted_ms": ms,
        "predicted_tb_per_s": {k: moved / t / 1e9 for k, t in ms.items()},
        "predicted_fraction": {k: moved / t / 1e-3 / gpu.copy for k, t in ms.items()},
        "bound": slowest.bound,
        "resident": slowest.resident,
        "on_their_way": slowest.on_their_way,
    }
    shapes = {part: shape for part, (shape, _) in parts.items()}
    measured = B == BATCH and (_measured(gpu, shapes, C) or _called(gpu, kind, C))
    if measured:
        record |= {"measured_ms": measured, "predicted/measured": ms[MEASURED_NEIGHBORS] / measured}
    return record


def _measured(gpu: Gpu, parts: dict[str, Shape], C: int) -> float | None:
    """Milliseconds of kernels in a shape, as `bench/run.py shapes` found them; None if it did not try all."""
    found = {(r["pass"], r["C"], tuple(r["shape"])): r["median_ms"] for r in _kept("shapes", gpu)}
    ahead = (1,)  # blocks, which records of before have in the third place
    times = []
    for kind, shape in parts.items():
        rows, rest = (shape["ROWS"], shape["R"] * shape["V"]), (shape["num_warps"], shape.get("maxnreg"))
        times.append(found.get((kind, C, rows + rest), found.get((kind, C, rows + ahead + rest), math.nan)))
    return None if math.isnan(sum(times)) else sum(times)


def _called(gpu: Gpu, kind: str, C: int) -> float | None:
    """Milliseconds on the GPU of a call that runs the kernel, as `bench/run.py kernels` found them.

    None for few classes, where a call's other kernels take most of it.
    """
    if C < 32_000:
        return None
    which = {"loss": "forward", "both": "forward+backward"}.get(kind)
    same = [r for r in _kept("kernels", gpu) if r["impl"] == "fastlt" and r["pass"] == which and r.get("D") == 0]
    return next((r["median_ms"] for r in reversed(same) if r["C"] == C and r["B"] == BATCH and "host_ms" in r), None)


def _kept(suite: str, gpu: Gpu) -> list[Record]:
    """Records that were measured on such a GPU."""
    file = records.path(RECORDS, suite, gpu.name, ".jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _liger(console: Console) -> list[Record]:
    """What is predicted of Liger's kernel, of which figures are published: how far the model is to be believed."""
    found: list[Record] = []
    for C, published in liger_code.PUBLISHED.items():
        try:
            ms = 1000 * liger_code.predict_liger(C, H100).seconds
        except ImportError:
            console.print("skipped: liger-kernel is not installed, so the model is not checked against its figures")
            return []
        case = f"liger C={C} B={liger_code.PUBLISHED_ROWS} bfloat16"
        console.print(f"{case}: predicted {ms:.2f} ms, published {published:.2f}: {ms / published:.2f} x")
        found.append({"case": case, "impl": "liger", "pass": "both", "C": C, "B": liger_code.PUBLISHED_ROWS})
        found[-1] |= {"predicted_ms": ms, "published_ms": published, "predicted/published": ms / published}
    return found


def _line(record: Record) -> Record:
    """A record as a line of a table."""
    us = " ".join(f"{1000 * ms:.1f}" for ms in record["predicted_ms"].values())
    share = " ".join(f"{fraction:.2f}" for fraction in record["predicted_fraction"].values())
    measured = {"measured us": 1000 * record["measured_ms"]} if "measured_ms" in record else {"measured us": ""}
    return {
        "case": f"{record['pass']} C={record['C']} B={record['B']}",
        "us": us,
        "of the copy's rate": share,
        "TB/s": record["predicted_tb_per_s"][MEASURED_NEIGHBORS],
        "bound by": record["bound"],
        "programs": record["resident"],
        "KB on their way": record["on_their_way"] / 1000,
        **measured,
        "predicted/measured": record.get("predicted/measured", ""),
    }


def _print(console: Console, title: str, lines: Iterable[Record], caption: str) -> None:
    lines = [line | {"shape": " ".join(map(str, line["shape"]))} if "shape" in line else line for line in lines]
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    columns = [column for column in lines[0] if column != "impl"]
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column in ("case", "bound by") else "right")
    for line in lines:
        table.add_row(*(f"{v:.2f}" if isinstance(v := line[column], float) else str(v) for column in columns))
    console.print(table)
