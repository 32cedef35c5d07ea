"""Training on two hosts, namespaces of this machine, by the launchers that clusters have; one of them is lost."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlt.run_folder import RunFolder
from support.paths import BIN, ROOT
from support.two_hosts import Host, two_hosts, why_there_are_none

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_there_are_none()), reason=why_there_are_none() or "there are hosts"),
]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
PATIENCE = 600  # seconds, on a busy machine
TRAIN = str(ROOT / "fastlt" / "train.py")


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as made:
        yield made


def words_of(output: Path, *words: str) -> list[str]:
    return ["--config", "recipe.yaml", "data.path=encoded", f"output={output}", *words]


def start(hosts: tuple[Host, ...], folder: Path, *words: str, meet: bool = False) -> list[subprocess.Popen]:
    """A rank on each host, by a torchrun on each; what they say goes to HOST.out. Numbers of hosts are given, or found
    when they meet."""
    started = []
    for number, host in enumerate(hosts):
        given = ["--node-rank", number, "--master-addr", hosts[0].address, "--master-port", 29500]
        found = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0].name}:29500"]
        torchrun = ["torchrun", "--nnodes", len(hosts), "--nproc-per-node", 1, *(found if meet else given)]
        command = [*torchrun, TRAIN, *words]
        with (folder / f"{host.name}.out").open("w") as out:
            started.append(subprocess.Popen(host.command(command, folder, **ENVIRONMENT), stdout=out, stderr=out))
    return started


def wait_for_step(run: RunFolder, step: int, process: subprocess.Popen, out: Path) -> None:
    """Returns once a checkpoint of this step or a later one is there."""
    deadline = time.monotonic() + PATIENCE
    while not any(int(checkpoint.name[5:]) >= step for checkpoint in run.all_checkpoints()):
        assert process.poll() is None, out.read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_lost_host_costs_the_steps_since_a_checkpoint(workshop, hosts, stage):
    run, (here, there) = RunFolder(workshop.folder / f"lost-{stage}"), hosts
    words = [f"engine.zero_stage={stage}", "checkpoint.minutes=1e-9", "optimizer.ema_decay=0.9"]
    said = workshop.folder / "here.out"
    first, _ = start(hosts, workshop.folder, *words_of(run.path, *words, "optimizer.epochs=2000"), meet=stage == 0)
    wait_for_step(run, 3, first, said)
    there.kill()
    assert first.wait(timeout=PATIENCE) == 1
    assert said.read_text().count("fastlt: error: another rank is gone (") == 1, said.read_text()
    assert " failed\nTraceback" not in said.read_text(), "no trace of ours"
    saved = int(run.all_checkpoints()[-1].name[5:])

    (alone,) = start((here,), workshop.folder, *words_of(run.path, *words, "--resume", "optimizer.epochs=2"))
    assert alone.wait(timeout=PATIENCE) == 0, said.read_text()
    assert f"resumed at step {saved:,} " in said.read_text()
    assert "2 ranks had saved it, 1 go on" in said.read_text()
    steps = [record["step"] for record in run.records() if record["kind"] == "train"]
    assert steps == list(range(1, max(steps) + 1)), "each step once"
    assert "epoch 2/2" in said.read_text()


def test_hosts_must_share_the_run_and_the_data(workshop, hosts):
    """What each host has of its own is told before anything is trained."""
    output, there = workshop.folder / "apart" / "run", hosts[1]
    output.parent.mkdir()
    there.run("mount", "-t", "tmpfs", "tmpfs", output.parent)
    first, second = start(hosts, workshop.folder, *words_of(output))
    assert first.wait(timeout=PATIENCE) == 1
    second.wait(timeout=PATIENCE)
    said = (workshop.folder / "here.out").read_text()
    told = f"fastlt: error: there cannot see {output}, where all ranks write checkpoints: set output to a folder that"
    assert said.count(told) == 1, said
    assert not RunFolder(output).has_something_to_lose
    assert [file.name for file in output.iterdir()] == []

    there.run("mount", "-t", "tmpfs", "tmpfs", workshop.folder / "encoded")
    _, second = start(hosts, workshop.folder, *words_of(workshop.folder / "apart-2"))  # the first one waits for it
    assert second.wait(timeout=PATIENCE) == 1
    said = (workshop.folder / "there.out").read_text()
    assert "is not an encoded data set" in said, said
    assert "(rank 1 on there)" in said


def serve_ssh(hosts: tuple[Host, Host], keys: Path) -> None:
    """Real servers on both hosts, which know one key; what is asked of a client stands in their ssh_config."""
    keys.mkdir(mode=0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "key"], check=True)
    shutil.copy(keys / "key.pub", keys / "authorized")
    client = f"Host *\nUser root\nIdentityFile {keys}/key\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
    server = f"HostKey {keys}/key\nAuthorizedKeysFile {keys}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n"
    (keys / "sshd_config").write_text(server)
    for host in hosts:
        host.mount_file(client + "LogLevel ERROR\n", "/etc/ssh/ssh_config")
        host.run("mount", "-t", "tmpfs", "tmpfs", "/run")
        host.run("mkdir", "-m", "755", "/run/sshd")
        host.run(shutil.which("sshd", path="/usr/sbin"), "-f", keys / "sshd_config")


@pytest.mark.skipif(
    not (shutil.which("sshd", path="/usr/sbin") and shutil.which("pdsh")),
    reason="needs openssh-server and pdsh, by which DeepSpeed's launcher reaches hosts",
)
def test_deepspeed_with_a_hostfile(workshop, hosts, tmp_path):
    """As docs/cluster.md has it: two ranks a host, of which one is lost, by ssh."""
    run, (here, there) = RunFolder(workshop.folder / "hostfile"), hosts
    serve_ssh(hosts, tmp_path / "keys")
    (tmp_path / "hosts").write_text(f"{here.name} slots=1\n{there.name} slots=1\n")
    # Of the environment DeepSpeed passes what begins with PYTHON alone, and what this file has.
    (workshop.folder / ".deepspeed_env").write_text("DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
    words = words_of(run.path, "engine.zero_stage=2", "checkpoint.minutes=1e-9")
    deepspeed = [BIN / "deepspeed", "--hostfile", tmp_path / "hosts"]
    out = workshop.folder / "hostfile.out"

    def launch(*options: str) -> subprocess.Popen:
        command = here.command([*deepspeed, *options, TRAIN, *words], workshop.folder, **ENVIRONMENT)
        with out.open("w") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream)

    words.append("optimizer.epochs=2000")
    process = launch()
    wait_for_step(run, 3, process, out)
    assert "on 2 cpu ranks" in out.read_text()
    there.kill()
    process.wait(timeout=PATIENCE)
    assert "another rank is gone (" in out.read_text(), out.read_text()
    words[-1] = "optimizer.epochs=2"
    words.append("--resume")
    process = launch("--include", here.name)
    assert process.wait(timeout=PATIENCE) == 0, out.read_text()
    assert "2 ranks had saved it, 1 go on" in out.read_text()
    assert "epoch 2/2" in out.read_text()
