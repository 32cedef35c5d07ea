"""Triton kernels as machine code of NVIDIA's GPUs, none of which need be there: compiled, and followed by path."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P[T\d])\s+)?([A-Z][\w.]*)\s*(.*?)\s*;|^(\.L\w+):", re.MULTILINE)
_ENDS = ("BRA", "CALL", "EXIT", "BSYNC", "RET")  # of a block
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
Route = tuple[int, ...]  # blocks, one after the other


@dataclass(frozen=True)
class Instruction:
    """What a warp does at once; `guard` is the predicate that it hangs on, if any."""

    guard: str
    op: str
    operands: str

    @property
    def kind(self) -> str:
        """Its name without what follows the first point; "EX2" for exponentials."""
        return "EX2" if self.op.startswith("MUFU.EX2") else self.op.partition(".")[0]

    @property
    def width(self) -> int:
        """Bytes that each thread loads or stores, if it does."""
        return next((_BYTES[part] for part in self.op.split(".") if part in _BYTES), 4)

    @property
    def is_global(self) -> bool:
        """Whether it loads from memory or stores there."""
        return self.kind in ("LDG", "STG")

    @property
    def is_spill(self) -> bool:
        """Whether it moves a register for which there was no room."""
        return self.kind in ("LDL", "STL")


@dataclass(frozen=True)
class Stream:
    """A loop that computes exponentials, as those over classes do."""

    header: int
    latches: frozenset[int]
    body: frozenset[int]


def compile_kernel(
    kernel: Any,
    capability: int,
    types: dict[str, str],
    constants: dict[str, Any],
    divisible: Collection[str],
    **options: int,
) -> Any:
    """A kernel, compiled by Triton.

    Args:
        types: those of arguments that are neither int32 nor constant. Memory starts at multiples of 16 bytes.
        divisible: integers that are multiples of 16.
        options: of the launch: num_warps, maxnreg.
    """
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    aligned = [i for i, (name, kind) in enumerate(signature.items()) if kind[0] == "*" or name in divisible]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


class Program:
    """The machine code of a kernel.

    Attributes:
        warps: of a program.
        registers: of a thread.
        shared: bytes of a program.
        blocks: instructions that run one after the other, whatever happens.
        after: which blocks may follow each.
    """

    def __init__(self, compiled: Any) -> None:
        with NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage, code = _run("cuobjdump", "-res-usage", file.name), _run("nvdisasm", "-c", file.name)
        self.warps = compiled.metadata.num_warps
        used = {what: int(number) for what, number in re.findall(r"(REG|SHARED):(\d+)", usage)}
        self.registers, self.shared = used["REG"], used["SHARED"] + compiled.metadata.shared
        self.blocks, self.after = _blocks(code)

    def along(self, route: Iterable[int]) -> list[Instruction]:
        """The instructions of some blocks."""
        return [instruction for block in route for instruction in self.blocks[block]]

    @property
    def everything(self) -> list[Instruction]:
        """All instructions, in order of their addresses."""
        return self.along(range(len(self.blocks)))

    @cached_property
    def streams(self) -> list[Stream]:
        """The loops over classes, in order."""
        loops: dict[int, tuple[set[int], set[int]]] = {}
        for latch, header in self._back:
            latches, body = loops.setdefault(header, (set(), set()))
            latches.add(latch)
            body |= self._loop(latch, header)
        found = [Stream(header, *map(frozenset, loops[header])) for header in sorted(loops)]
        return [stream for stream in found if any(i.kind == "EX2" for i in self.along(stream.body))]

    def plain(self, stream: Stream) -> Route:
        """The way around that loads and stores most, and of these the shortest: nothing is looked at class by class."""
        walked = set().union(*self.walks(stream))

        def cost(block: int) -> tuple[int, int]:
            moved = sum(i.width for i in self.blocks[block] if i.is_global and block not in walked)
            return -moved, len(self.blocks[block])

        return self._best(stream.header, stream.latches, cost, stream.body)

    def mixed(self, stream: Stream) -> Route:
        """The longest way around, each loop on it taken once: the label and a neighbor are in the block."""
        return self._best(stream.header, stream.latches, lambda block: (0, -len(self.blocks[block])), stream.body)

    def walks(self, stream: Stream) -> list[set[int]]:
        """The loops inside a stream, over neighbors."""
        inner = [(latch, header) for latch, header in self._back if latch in stream.body and header != stream.header]
        return [self._loop(latch, header) for latch, header in inner]

    def between(self, start: int, end: int | None) -> Route:
        """The shortest way from a block to another, or to the end."""
        everywhere = range(len(self.blocks))
        ends = [block for block in everywhere if self.blocks[block][-1].kind == "EXIT"] if end is None else [end]
        return self._best(start, ends, lambda block: (0, len(self.blocks[block])), everywhere)

    @cached_property
    def _back(self) -> set[tuple[int, int]]:
        """(latch, header) of every loop."""
        found, is_open = set(), {}

        def visit(block: int) -> None:
            is_open[block] = True
            for following in self.after[block]:
                if following not in is_open:
                    visit(following)
                elif is_open[following]:
                    found.add((block, following))
            is_open[block] = False

        visit(0)
        return found

    def _loop(self, latch: int, header: int) -> set[int]:
        """The blocks of a loop."""
        found, new = {latch, header}, {latch} - {header}
        while new:
            new = {before for before, following in enumerate(self.after) if new & set(following)} - found
            found |= new
        return found

    def _best(
        self, start: int, ends: Collection[int], cost: Callable[[int], tuple[int, int]], allowed: Collection[int]
    ) -> Route:
        """The way of least cost, which goes around no loop."""
        known: dict[int, tuple[tuple[int, int], Route] | None] = {}

        def best(block: int) -> tuple[tuple[int, int], Route] | None:
            if block not in known:
                following = [b for b in self.after[block] if b in allowed and (block, b) not in self._back]
                ways = [way for way in map(best, following) if way] + [((0, 0), ())] * (block in ends)
                own = cost(block)
                known[block] = min(
                    (((own[0] + rest[0], own[1] + rest[1]), (block, *route)) for rest, route in ways), default=None
                )
            return known[block]

        found = best(start)
        if found is None:
            raise ValueError(f"no way leads from block {start} to any of {sorted(ends)}.")
        return found[1]


def _run(tool: str, *words: str) -> str:
    return subprocess.run([_TOOLS / tool, *words], capture_output=True, text=True, check=True).stdout


def _blocks(code: str) -> tuple[list[list[Instruction]], list[list[int]]]:
    """(blocks, which may follow each) of a disassembled kernel."""
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    meeting: dict[str, str] = {}  # where threads that went apart meet again
    for guard, op, operands, label in _LINE.findall(code):
        register, _, place = operands.partition(", ")
        if op.startswith("BSSY"):
            meeting[register] = place
        elif op.startswith("BSYNC"):
            operands = meeting[register]
        if blocks[-1] and (label or blocks[-1][-1].kind in _ENDS):
            blocks.append([])
        if label:
            labels[label] = len(blocks) - 1
        else:
            blocks[-1].append(Instruction(guard, op, operands))
    blocks = [block for block in blocks if block]
    return blocks, [_following(i, block[-1], labels, len(blocks)) for i, block in enumerate(blocks)]


def _following(i: int, last: Instruction, labels: dict[str, int], number: int) -> list[int]:
    """The blocks that may follow block i, whose last instruction is given."""
    goes_on = [i + 1] if i + 1 < number else []
    condition, _, target = last.operands.rpartition("`")
    if last.kind in ("BRA", "CALL", "BSYNC"):  # some calls leave a loop for good
        return [labels[target.strip("()")]] + (goes_on if last.guard or condition or last.kind == "CALL" else [])
    return goes_on if last.guard or last.kind not in _ENDS else []
