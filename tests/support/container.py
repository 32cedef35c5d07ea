"""A container without an engine: a Dockerfile's instructions, run in a bare Debian root in namespaces of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

_UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
_ENTER = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" || exit
for place in $2; do mkdir -p "$1$place" && mount --bind "$place" "$1$place" || exit; done
root=$1; shift 2; exec chroot "$root" "$@"
"""


def why_there_is_none() -> str:
    """Why no container can be made here; "" where one can."""
    if os.geteuid() or not all(map(shutil.which, ("unshare", "chroot", "debootstrap"))):
        return "needs root, unshare and debootstrap, to make a bare Debian root"
    if subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode:
        return "needs to be allowed namespaces, to make a container of them"
    return ""


class Container:
    """What `docker build` makes of a Dockerfile: FROM debian, ARG, ENV, RUN, COPY of everything, WORKDIR and CMD.

    Attributes:
        cmd: what it runs when nothing is said.
    """

    def __init__(self, root: Path, source: Path, arguments: dict[str, str]) -> None:
        self.cmd: list[str] = []
        self._root, self._folder, self._environment = root, "/", {"HOME": "/root"}
        self._arguments = arguments | _pip_settings()
        written = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", (source / "Dockerfile").read_text(), flags=re.M))
        for line in filter(None, map(str.strip, written.splitlines())):
            instruction, _, rest = line.partition(" ")
            self._do(instruction, rest.strip(), source)

    def _do(self, instruction: str, rest: str, source: Path) -> None:
        match instruction:
            case "FROM":
                suite = re.fullmatch(r"debian:(\w+)-slim", rest)
                assert suite, rest
                subprocess.run(
                    ["debootstrap", "--variant=minbase", suite[1], self._root], check=True, stdout=sys.stderr
                )
                shutil.copy("/etc/resolv.conf", self._root / "etc/resolv.conf")
                if certificates := self._arguments.get("PIP_CERT"):
                    shutil.copy(certificates, self._root / "certificates.pem")
                    self._arguments |= dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), "/certificates.pem")
            case "ARG":
                name, _, value = shlex.split(rest)[0].partition("=")
                self._arguments.setdefault(name, value)
            case "ENV":
                self._environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "RUN":
                self.run("sh", "-c", rest, **self._arguments)
            case "COPY":
                assert rest.split()[0] == ".", rest
                to = self._root / rest.split()[1].lstrip("/")
                listed = subprocess.run(
                    ["git", "-C", source, "ls-files", "-z"], check=True, capture_output=True, text=True
                )
                for name in filter(None, listed.stdout.split("\0")):
                    (to / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source / name, to / name)
            case "WORKDIR":
                self._folder = rest
                (self._root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "CMD":
                self.cmd = json.loads(rest)
            case _:
                raise AssertionError(f"a Dockerfile with {instruction}")

    def run(self, *words: str, **variables: str) -> str:
        """What a command says, which must succeed."""
        places = {place for value in variables.values() for place in re.findall(r"(?:file://|^|\s)(/\S+)", value)}
        # Whole folders of packages: an index in one of them may name files in another.
        bound = sorted({str(Path(*Path(place).parts[:3])) for place in places if Path(place).is_dir()})
        environment = [f"{name}={value}" for name, value in (self._environment | variables).items()]
        inside = ["env", "-i", "-C", self._folder, *environment, *words]
        done = subprocess.run(
            [*_UNSHARE, "sh", "-c", _ENTER, "sh", self._root, " ".join(bound), *inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout


def _pip_settings() -> dict[str, str]:
    """Where pip looks for packages here, as variables of the environment."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"^(?:global|user|site|:env:)\.([\w-]+)='(.*)'$", said.stdout, flags=re.M))
    wanted = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host")
    return {f"PIP_{name.upper().replace('-', '_')}": found[name] for name in wanted if name in found}
