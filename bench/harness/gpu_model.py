"""How long a GPU that need not be there takes for a kernel, predicted from its machine code.

A multiprocessor is four schedulers, each of which issues one instruction of a warp a clock, and pipes that take so many
threads a clock. A kernel takes as long as its slowest part, or somewhat more where several are nearly as slow.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.harness.machine_code import Instruction, Program


@dataclass(frozen=True)
class Gpu:
    """What of a GPU counts here.

    Attributes:
        copy: bytes a second that a copy of a large tensor reads and writes.
        clock: boost, which the makers' figures of operations a second are made with.
        fma: threads a clock whose products and sums of float32 a multiprocessor takes.
        cache: bytes of its second level.
        shared: bytes of shared memory that the programs of a multiprocessor may have.
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float
    copy: float
    fma: int
    cache: float
    shared: int


# Clocks, multiprocessors and memory: NVIDIA's data sheets and architecture whitepapers. Copies: of H100 and H200 as
# measured, see bench/results; of an A100, the same 0.89 of the nominal 2,039 GB/s.
A100 = Gpu("NVIDIA A100-SXM4-80GB", 80, 108, 1.41e9, 1.81e12, 64, 40e6, 164 * 1024)
H100 = Gpu("NVIDIA H100 80GB HBM3", 90, 132, 1.98e9, 3.003e12, 128, 50e6, 227 * 1024)
H200 = Gpu("NVIDIA H200", 90, 132, 1.98e9, 4.262e12, 128, 50e6, 227 * 1024)

# Fitted to all 185 times of bench/results/shapes-nvidia-h100-80gb-hbm3.jsonl whose kernels are still there, by least
# squares of the logarithm: 82% of these are then predicted to within 15%, all to within 40%.
START = 5.1e-6  # seconds from launch to the first instruction, and from the last to the end
SHARPNESS = 3.6  # the exponent of the norm that joins the parts; infinity would be their maximum
CACHE_SHARE = 0.69  # of the 5,120 bytes a clock that the second level gives, by the whitepapers

# Clocks until a result can be used. Memory and shared memory: about as in Luo et al. 2024, arXiv:2402.13499, and where
# the fit is best; others: assumed.
_LATENCIES = {"LDG": 480, "LDS": 30, "EX2": 24, "MUFU": 24, "SHFL": 24, "BAR": 30, "LDC": 24, "S2R": 24, "R2UR": 12}
_LATENCY = 5
# Pipes: CUDA C++ programming guide, throughput of native arithmetic instructions. All else goes through "alu".
_PIPES = {
    **dict.fromkeys(("FFMA", "FADD", "FMUL", "IMAD", "HFMA2"), "fma"),
    **dict.fromkeys(("EX2", "MUFU"), "exponentials"),
    **dict.fromkeys(("LDG", "STG", "LDS", "STS", "LDL", "STL", "SHFL", "ATOMG"), "load/store"),
    **dict.fromkeys(("BRA", "EXIT", "BSSY", "BSYNC", "NOP", "BAR", "R2UR", "LDC", "S2R", "CS2R"), ""),
}
_THREADS = {"issue": 128, "alu": 64, "exponentials": 16, "load/store": 32}  # a clock and multiprocessor
_FROM_CACHE = 64  # bytes a clock that a multiprocessor gets
_REGISTER = re.compile(r"\b(U?R\d+|U?P\d)\b")
_NO_RESULT = ("STG", "STS", "STL", "BRA", "EXIT", "BAR", "BSSY", "BSYNC", "NOP")


@dataclass(frozen=True)
class Work:
    """What a kernel is to do.

    Attributes:
        programs: how many there are.
        blocks: times around each stream.
        mixed: of these, times that hold the label or a neighbor, of each row.
        walked: neighbors of a row beyond one in each of these; less than 0 where some hold none.
        moved: bytes that must be read and written.
        again: bytes that are read a second time, from the cache if the rows that are under way fit there.
        cached: bytes that pass the cache: those of rows, and what programs read in common.
        row_bytes: of a program's rows, if they are read twice.
    """

    programs: int
    blocks: int
    mixed: int
    walked: int
    moved: float
    again: float
    cached: float
    row_bytes: float


@dataclass(frozen=True)
class Prediction:
    """Seconds of a kernel and of its parts alone; resident programs and bytes on their way, of a multiprocessor."""

    seconds: float
    parts: dict[str, float]
    resident: int
    on_their_way: int

    @property
    def bound(self) -> str:
        """The slowest part."""
        return max(self.parts, key=self.parts.__getitem__)


def resident(program: Program, gpu: Gpu) -> int:
    """Programs that a multiprocessor holds."""
    registers = 32 * program.warps * 8 * math.ceil(program.registers / 8)
    return min(32, 64 // program.warps, 65536 // registers, gpu.shared // program.shared)


def predict(program: Program, work: Work, gpu: Gpu) -> Prediction:
    """The time that a kernel takes alone on a GPU whose caches are cold."""
    counts: Counter[str] = Counter()
    clock = _Clock(program.warps, gpu)
    for stretch, times in _stretches(program, work):
        counts.update({pipe: number * times for pipe, number in _count(stretch).items()})
        clock.run(stretch, times)
    for stretch, times in _detours(program, work):
        counts.update({pipe: number * times for pipe, number in _count(stretch).items()})
        clock.pass_by(len(stretch) * times)
    held = resident(program, gpu)
    slots = held * gpu.multiprocessors
    under_way = max(1, min(work.programs, slots) * work.row_bytes)
    lost = max(0.0, 1 - gpu.cache / 2 / under_way)  # each half of the cache keeps what its multiprocessors read
    warps = math.ceil(work.programs / gpu.multiprocessors) * program.warps
    threads = _THREADS | {"fma": gpu.fma}
    parts = {pipe: 32 * warps * number / threads[pipe] / gpu.clock for pipe, number in counts.items() if pipe}
    parts["memory"] = (work.moved + work.again * lost) / gpu.copy
    parts["cache"] = work.cached / (CACHE_SHARE * 5120 * gpu.clock)
    parts["latency"] = (math.ceil(work.programs / slots) * clock.now - clock.opened) / gpu.clock
    seconds = START + clock.opened / gpu.clock + sum(s**SHARPNESS for s in parts.values()) ** (1 / SHARPNESS)
    loads = sum(i.width for i in program.along(program.plain(program.streams[0])) if i.kind == "LDG")
    return Prediction(seconds, parts, held, held * 32 * program.warps * loads)


def _stretches(program: Program, work: Work) -> Iterator[tuple[list[Instruction], int]]:
    """What a warp runs if no block is mixed, in order: (instructions, times)."""
    streams = program.streams
    yield program.along(program.between(0, streams[0].header)), 1
    for stream, following in zip(streams, [*(s.header for s in streams[1:]), None], strict=True):
        plain, leaving = program.along(program.plain(stream)), program.between(stream.header, following)
        inside = program.along(block for block in leaving if block in stream.body)
        is_last = _count(inside)["exponentials"] >= _count(plain)["exponentials"]  # or it leaves before it computes
        yield plain, work.blocks - is_last
        yield program.along(leaving), 1


def _detours(program: Program, work: Work) -> Iterator[tuple[list[Instruction], int]]:
    """What a warp runs besides for mixed blocks, and what it leaves out: (instructions, times or less than 0)."""
    for stream in program.streams:
        yield program.along(program.mixed(stream)), work.mixed
        yield program.along(program.plain(stream)), -work.mixed
        for walk in program.walks(stream):
            yield program.along(walk), work.walked


def _count(instructions: Iterable[Instruction]) -> Counter[str]:
    """How many instructions there are, and how many each pipe takes."""
    pipes = [_pipe(i) for i in instructions]
    return Counter(pipes) + Counter({"issue": len(pipes)})


def _pipe(instruction: Instruction) -> str:
    kind = instruction.kind
    return _PIPES.get(kind, "" if kind[0] == "U" else "alu")


class _Clock:
    """The clocks of a program that has a multiprocessor for itself, whose warps go in step.

    Attributes:
        now: clocks until here.
        opened: clocks until the first stream.
    """

    def __init__(self, warps: int, gpu: Gpu) -> None:
        self.now, self.opened = 0.0, -1.0
        self._warps, self._gpu = warps, gpu
        self._ready: dict[str, float] = {}  # when a register, or a pipe, can be used

    def pass_by(self, instructions: int) -> None:
        """Issues instructions, or takes them away, whose results are there in time."""
        self.now += instructions * max(1.0, self._warps / 4)

    def run(self, instructions: list[Instruction], times: int) -> None:
        """Runs instructions so many times: three times, and the rest as the last of these."""
        before = self.now
        for _ in range(min(times, 3)):
            before = self.now
            for instruction in instructions:
                self._issue(instruction)
        rest = (self.now - before) * max(0, times - 3)
        self.now += rest
        self._ready = {what: when + rest for what, when in self._ready.items()}
        if self.opened < 0:
            self.opened = self.now

    def _issue(self, i: Instruction) -> None:
        written, read = _registers(i)
        pipe, share = _pipe(i), max(1.0, self._warps / 4)
        self.now = max([self.now + share, *(self._ready.get(what, 0) for what in (*read, pipe))])
        taken = share * 128 / (_THREADS | {"fma": self._gpu.fma}).get(pipe, 128)
        if i.is_global:
            taken = self._warps * 32 * i.width / _FROM_CACHE
        if pipe:
            self._ready[pipe] = self.now + taken
        if i.kind == "BAR":
            self.now += _LATENCIES["BAR"]
        done = self.now + _LATENCIES.get(i.kind, _LATENCY) + taken * (i.kind == "LDG")
        self._ready.update(dict.fromkeys(written, done))


def _registers(i: Instruction) -> tuple[list[str], list[str]]:
    """(registers that it writes, that it reads), predicates among them."""
    operands = [] if i.kind in _NO_RESULT else i.operands.split(", ")
    with_predicate = any(re.fullmatch(r"U?P[T\d]", operand) for operand in operands[:2])
    results = 2 if with_predicate and not i.kind.endswith("PLOP3") else 1
    written = _REGISTER.findall(" ".join(operands[:results]))
    if written and (wide := i.width // 4 if i.kind in ("LDG", "LDS", "LDC") else 1) > 1:
        written = [f"R{int(written[0].strip('UR')) + k}" for k in range(wide)]
    return written, _REGISTER.findall(f"{i.guard} {' '.join(operands[results:]) or i.operands}")
