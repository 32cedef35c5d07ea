"""Where there is no cluster, or machines do not see the same files, one sentence says so."""

import json
import subprocess
import sys

import pytest

from fastlt.data_prep.ray_cluster import ray_cluster, require_shared, unseen
from fastlt.dataset.images import in_tar
from support.command import run_here

pytestmark = pytest.mark.medium


def test_no_ray(tmp_path, workshop, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    done = run_here(["encode", str(tmp_path / "out"), "--train", "train", "--val", "val", "--ray", "auto"])
    assert "ray" not in done.stderr.lower()  # other mistakes come first
    folders = ["--train", "species/train", "--val", "species/val"]
    done = run_here(["encode", str(tmp_path / "out"), *folders, "--ray", "auto"], workshop.folder)
    assert done.returncode == 1
    assert "--ray needs Ray: pip install 'fastlt[ray]' on each machine." in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1"])
def test_no_cluster(address, monkeypatch):
    """Also of one that ended, whose address Ray remembers: it would wait for that for a quarter of an hour."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match=f"there is no Ray cluster at {address}: .*refused"), ray_cluster(address):
        pass


def test_options_that_contradict(tmp_path):
    folders = ["--train", str(tmp_path), "--val", str(tmp_path), "--ray", "auto"]
    for more, said in ((["--workers", "2"], "--workers are processes of this machine"), (["--check"], "--check reads")):
        done = run_here(["encode", str(tmp_path / "out"), *folders, *more])
        assert done.returncode == 1
        assert said in done.stderr


def test_machines_that_see_other_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"broken, but there")
    (tmp_path / "0.tar").write_bytes(b"there")
    there = [tmp_path / "a.jpg", in_tar(tmp_path / "0.tar", 512, 9)]
    missing = [tmp_path / "b.jpg", in_tar(tmp_path / "1.tar", 512, 9)]
    assert unseen([*there, *missing]) == missing
    require_shared("north", missing)  # nor does this machine see them: they are broken
    with pytest.raises(ValueError, match=r"north does not see .*0\.tar#512\+9, which .* all machines share a file sys"):
        require_shared("north", [*missing, there[1]])


@pytest.mark.slow
def test_another_version_of_ray(workshop):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._raylet import GcsClient

    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        gcs = GcsClient(address=cluster.address)
        said = json.dumps(get_cluster_metadata(gcs) | {"ray_version": "1.13.0"}).encode()
        gcs.internal_kv_put(b"CLUSTER_METADATA", said, True, b"cluster")
        address = cluster.address
        done = workshop.encode("of_another_version", "--ray", address)
    finally:
        cluster.shutdown()
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastlt: error: there is no Ray cluster at {address}: Version mismatch: The cluster")
    assert done.stderr.count("\n") == 1
    assert not [*workshop.folder.glob("*of_another_version*")]


@pytest.mark.slow
def test_sigterm_is_a_ctrl_c(tmp_path):
    pytest.importorskip("ray")
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys, time\nfrom fastlt.data_prep.ray_cluster import ray_cluster\ntry:\n"
        "    with ray_cluster('local'):\n        print('up', flush=True)\n        time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    driver = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "up\n"
    driver.terminate()
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "SIGTERM" not in said
