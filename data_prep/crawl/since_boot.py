"""Time and processes as the kernel counts them from the machine's start: setting its clock changes neither."""

from __future__ import annotations

import os
import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def steady() -> float:
    """Seconds that pass while the machine sleeps too, and that setting the clock does not change."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def boot_id() -> str:
    """Which start of which machine this is, "" where that is not told."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else ""


def numbered_by() -> str:
    """Whose numbers processes have here: containers of one machine, and machines of one name, have each their own."""
    return f"{boot_id()} {os.readlink('/proc/self/ns/pid')}"


def begun(process: int) -> str:
    """When a process began, in ticks since the machine's start; "" where there is none of that number."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[19]  # proc(5): field 22, of which the second may have any characters
