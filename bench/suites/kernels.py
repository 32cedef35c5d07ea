"""What `bench/run.py kernels` measures: loss and gradient of logits (A), and of features and weight (B).

Shapes: B samples, D features, C classes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from bench.harness import pictures, records, tables, timing
from bench.harness.records import Record
from bench.harness.timing import Unavailable, Work
from bench.inputs import label_spaces
from bench.inputs.label_spaces import Case
from bench.peers import losses as peers
from bench.peers.losses import Loss

PASSES = ("forward", "backward", "forward+backward")
GRID = {  # (label space, D; 0 for logits, B)
    "cpu": [(s, 0, 256) for s in ("imagenet_lt", "inat18", "131k")]
    + [(s, 768, 256) for s in ("imagenet_lt", "inat18")],
    "cuda": [(s, 0, 4096) for s in ("inat18", "131k", "imagenet_lt", "1k", "524k", "1M")]
    + [("inat18", 768, B) for B in (4096, 1024, 256)]
    + [("131k", D, 4096) for D in (768, 1024, 2048)]
    + [(s, 1024, 4096) for s in ("524k", "1M")],
}
QUICK = [("imagenet_lt", 0), ("imagenet_lt", 768)]
DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of losses against each other, relative
TOO_SLOW = 10.0  # seconds of one call beyond which an implementation is left out
SECONDS, QUICK_SECONDS = 3.0, 0.1  # for a pass of an implementation


def run(
    device: torch.device,
    quick: bool,
    results: Path,
    cases: Sequence[str] = ("",),
    without: Sequence[str] = (),
    seconds: float | None = None,
) -> None:
    """Measures every case; appends its records, prints its table, and ends with pictures and targets.

    Args:
        cases: what the names of the cases to be measured hold, one of these.
        without: implementations that are left out.
        seconds: for a pass of an implementation.
    """
    console, kind = Console(width=120), device.type
    seconds = seconds or (QUICK_SECONDS if quick else SECONDS)
    measured: list[Record] = []
    ceilings: dict[str, float] = {}
    if kind == "cuda":
        measured = measure_ceilings(device, seconds)
        ceilings = {r["impl"]: r.get("gb_per_s") or r["tflop_per_s"] for r in measured}
        records.append(results, "kernels", device, measured)
    if unknown := set(without) - peers.EVERY:
        raise SystemExit(f"--without {' '.join(sorted(unknown))}: there are {', '.join(sorted(peers.EVERY))}.")
    grid = [(space, dim, GRID[kind][0][2]) for space, dim in QUICK] if quick else GRID[kind]
    named = {label_spaces.name(space, batch, dim, DTYPE[kind]): (space, dim, batch) for space, dim, batch in grid}
    chosen = [shape for name, shape in named.items() if any(text in name for text in cases)]
    if not chosen:
        raise SystemExit(f"--cases {' '.join(cases)}: no case is named so. There are: {'; '.join(named)}.")
    for space, dim, batch in chosen:
        case = label_spaces.draw(space, batch, dim, DTYPE[kind], device)
        found, skipped = measure_case(case, seconds, quick, ceilings, without)
        for line in skipped:
            console.print(f"skipped: {line}", highlight=False)
        tables.print_case(console, found, device)
        file = records.append(results, "kernels", device, found)
        measured += found
        del case
        _free(device)
    picture = pictures.draw_kernels(
        measured, records.path(results, "kernels", device, ".png"), records.device_name(device)
    )
    tables.print_targets(console, measured, device)
    console.print(f"appended {len(measured)} records to {file}\ndrew {picture}", highlight=False, soft_wrap=True)


def measure_case(
    case: Case, seconds: float, quick: bool, ceilings: dict[str, float], without: Sequence[str] = ()
) -> tuple[list[Record], list[str]]:
    """(records of all implementations and passes, why some were skipped: a line each)."""
    works: dict[tuple[str, str], Work] = {}
    notes, skipped = {}, []
    expected: dict[str, float] = {"plain": peers.plain_loss(case).item()}
    inputs = case.inputs if case.linear else (torch.empty_like(case.inputs[0], requires_grad=True),)
    for name in peers.names(case, quick):
        if name in without:
            continue
        try:
            impl = peers.build(name, case)
            passes = passes_of(impl.loss, case, inputs)
            if not impl.has_forward:
                del passes["forward"]
            loss = _trial(passes)
        except Unavailable as reason:
            skipped.append(f"{name} on {case.name}: {reason}")
        except torch.OutOfMemoryError:
            skipped.append(f"{name} on {case.name}: out of memory")
        except Exception as error:
            if name.startswith("fastlt"):
                raise
            first = (str(error).strip() or "no message").splitlines()[0]
            skipped.append(f"{name} on {case.name}: {type(error).__name__}: {first}")
        else:
            right = expected.setdefault(impl.objective, loss)
            if _agree(loss, right, case):
                works |= {(name, which): work for which, work in passes.items()}
                notes[name] = impl.note
            elif impl.objective == "plain":
                skipped.append(f"{name} on {case.name}: its loss is {loss}, not {right}")
            else:
                raise RuntimeError(f"{name} on {case.name} gives a loss of {loss}, not {right}: nothing to compare.")
        _free(case.device)
    times = timing.measure(works, case.device, seconds)
    found = []
    for (name, which), work in works.items():
        peak = timing.peak_bytes(work, case.device)
        returned = 0 if which == "forward" else sum(t.numel() * t.element_size() for t in case.inputs)
        B, D, C = case.sizes
        record = {"case": case.name, "impl": name, "pass": which, **times[name, which], "peak_bytes": peak}
        record |= {"extra_bytes": max(0, peak - returned), "B": B, "D": D, "C": C, "prior": case.prior}
        if notes[name]:
            record["note"] = notes[name]
        if ceilings and name.startswith("fastlt") and (case.linear or which != "backward"):  # its gradient is there
            record["fraction"] = _fraction(record, case, ceilings)
        found.append(record)
    return found, skipped


def measure_ceilings(device: torch.device, seconds: float) -> list[Record]:
    """How fast this GPU copies (bytes read and written) and multiplies, both in bfloat16."""
    source = torch.ones(2**30, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device=device)
    works = {"copy": Work(lambda _: target.copy_(source)), "matmul": Work(lambda _: square @ square)}
    times = timing.measure(works, device, seconds)
    rates = {
        "copy": {"gb_per_s": 2 * source.nbytes / times["copy"]["median_ms"] / 1e6},
        "matmul": {"tflop_per_s": 2 * 8192**3 / times["matmul"]["median_ms"] / 1e9},
    }
    return [
        {"case": "ceiling", "impl": name, "pass": "forward", **times[name], **rates[name]}
        | {"peak_bytes": timing.peak_bytes(works[name], device)}
        for name in works
    ]


def passes_of(loss: Loss, case: Case, inputs: tuple[Tensor, ...]) -> dict[str, Work]:
    """The three passes on `inputs`, which are the case's, or logits to be overwritten.

    Backward follows a forward of its own, outside of the clock: several implementations allow only one.
    """

    def restore() -> None:
        # Some write their gradient over the logits; all get them fresh, so that caches are alike for all.
        if not case.linear:
            with torch.no_grad():
                inputs[0].copy_(case.inputs[0])

    def forward(_: None = None) -> Tensor:
        return loss(*inputs, case.labels)

    def alone(_: None) -> Tensor:
        with torch.no_grad():  # or some compute the gradient as well
            return forward()

    def restored_forward() -> Tensor:
        restore()
        return forward()

    def backward(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, inputs)

    works = (Work(alone, restore), Work(backward, restored_forward), Work(lambda _: backward(forward()), restore))
    return dict(zip(PASSES, works, strict=True))


def _trial(passes: dict[str, Work]) -> float:
    """The loss, after one forward and backward to see that both run. Raises Unavailable if they take too long."""
    work, seconds = passes["backward"], 2 * TOO_SLOW
    for _ in range(2):  # again where the first call was slow, as it may have compiled
        if seconds > TOO_SLOW:
            started = time.perf_counter()
            loss = work.prepare()
            work.call(loss)
            value, seconds = loss.item(), time.perf_counter() - started
    if seconds > TOO_SLOW:
        raise Unavailable(f"one forward and backward takes {seconds:.0f} s")
    return value


def _agree(loss: float, expected: float, case: Case) -> bool:
    return abs(loss - expected) <= TOLERANCE[case.inputs[0].dtype] * abs(expected)


def _fraction(record: Record, case: Case, ceilings: dict[str, float]) -> float:
    """Share of the ceiling that the median reaches: bytes that must move for A, operations for B."""
    B, D, C = case.sizes
    seconds, which = record["median_ms"] / 1000, record["pass"]
    if case.linear:
        again = 2 if record["impl"] == "fastlt-sliced" else 0  # backward multiplies slices again
        products = {"forward": 2, "backward": 4 + again, "forward+backward": 6 + again}[which]
        return products * B * C * D / seconds / (ceilings["matmul"] * 1e12)
    from fastlt.kernels.triton_rows import reads_twice  # needs Triton, which a CPU does not

    # Times the logits are read or written.
    moved = {"forward": 1, "forward+backward": 3 if reads_twice(B, C) else 2}[which]
    return moved * case.logits_bytes / seconds / (ceilings["copy"] * 1e9)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
