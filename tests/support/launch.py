"""Starts ranks as `deepspeed` and `torchrun` do, but at once: those import torch in two processes more.

`launch.py RANKS SCRIPT WORD...`; ends with the first rank that fails, as they do.
"""

import os
import subprocess
import sys
import time

from fastlt.launch import meeting_port

ranks, command = int(sys.argv[1]), [sys.executable, *sys.argv[2:]]
shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting_port()), "WORLD_SIZE": str(ranks)}
shared |= {"LOCAL_WORLD_SIZE": str(ranks)}
started = [
    subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    for rank in range(ranks)
]
while any(process.poll() is None for process in started) and not any(process.poll() for process in started):
    time.sleep(0.05)
failed = any(process.poll() for process in started)
for process in started:
    if failed:
        process.kill()
    process.wait()
sys.exit(failed)
