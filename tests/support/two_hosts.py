"""Two hosts on this machine: namespaces of network, processes, names and mounts each, with a cable between them.

A host that is killed is gone with all its processes at once, as one that lost its power.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from fastlt.stopping import signal_when_parent_ends

_UNSHARE = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_FILES_ALONE = "passwd: files\ngroup: files\nhosts: files\n"  # there is no name server, which would be waited for


def why_there_are_none() -> str:
    """Why no hosts can be made here; "" where they can."""
    tools = [tool for tool in ("unshare", "nsenter", "ip", "mount") if not shutil.which(tool)]
    if os.geteuid() or tools:
        return "needs root, unshare, nsenter and ip, to make two hosts of namespaces"
    if subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode:
        return "needs to be allowed namespaces, to make two hosts of them"
    return ""


class Host:
    """A host: `name` resolves to `address` on both."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self._unshare = subprocess.Popen(
            [*_UNSHARE, "sleep", "infinity"], preexec_fn=lambda: signal_when_parent_ends(signal.SIGKILL)
        )
        deadline = time.monotonic() + 30
        while not (children := psutil.Process(self._unshare.pid).children()):
            assert time.monotonic() < deadline, "no namespaces after half a minute"
            time.sleep(0.02)
        self.first = children[0].pid

    def command(self, words: Sequence[object], folder: Path = Path("/"), **environment: str) -> list[str]:
        """Words that run others on this host, in a folder."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", "--target", str(self.first), "--net", "--uts", "--mount", "--pid"]
        return [*enter, "env", "-C", str(folder), *variables, *map(str, words)]

    def run(self, *words: object, **options: Any) -> None:
        """Runs a command here, which must succeed."""
        subprocess.run(self.command(words), check=True, **options)

    def mount_file(self, content: str, path: str) -> None:
        """Has this host alone read a file otherwise."""
        script = f"umask 22; cat > /dev/shm/{Path(path).name} && mount --bind /dev/shm/{Path(path).name} {path}"
        self.run("sh", "-ec", script, input=content, text=True)

    def kill(self) -> None:
        """Ends the host and all its processes, by SIGKILL."""
        self._unshare.kill()
        self._unshare.wait()


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that see each other, and the files of this machine."""
    hosts = Host("here", "10.77.0.1"), Host("there", "10.77.0.2")
    try:
        names = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts)
        cable = ["ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(hosts[1].first)]
        subprocess.run(["nsenter", "--target", str(hosts[0].first), "--net", *cable], check=True)
        for host in hosts:
            host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
            host.run("hostname", host.name)
            host.mount_file(names, "/etc/hosts")
            host.mount_file(_FILES_ALONE, "/etc/nsswitch.conf")
            # A bridge keeps its address when the cable goes with the other host, as a card does.
            host.run("ip", "link", "add", "eth0", "type", "bridge")
            host.run("ip", "link", "set", "cable", "master", "eth0")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0", "cable"):
                host.run("ip", "link", "set", device, "up")
        yield hosts
    finally:
        for host in hosts:
            host.kill()
