"""`fastlt filter --ray` where nodes and the driver are killed: the embeddings of one machine to the bit, each once."""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.filter.embed import batches_of, row_dtype, timm_encoder
from fastlt.data_prep.filter.embedding_store import RowStore, write_rows
from fastlt.data_prep.filter.filter import judge
from fastlt.data_prep.filter.options import FilterOptions
from fastlt.data_prep.inputs.images import TargetImages
from support.catalogs import make_catalog
from support.crawling import encoded, photograph
from support.paths import BIN

SHARDS, IN_SHARD, BATCH, TARGETS = 16, 40, 16, 12
MARGIN = 1e-3


def test_batches_are_of_one_shard_and_of_the_same_images_whatever_is_missing():
    rng = np.random.default_rng(0)
    shards = rng.integers(0, 5, 203)
    whole = batches_of(np.ones(203, bool), shards, 16)
    assert sorted(np.concatenate(whole)) == list(range(203))
    assert all(len(set(shards[batch])) == 1 and len(batch) <= 16 for batch in whole)
    assert len(whole) == sum(-(-count // 16) for count in np.bincount(shards))
    missing = rng.random(203) < 0.1
    some = batches_of(missing, shards, 16)
    assert [list(b) for b in some] == [rest for b in whole if (rest := [i for i in b if missing[i]])]
    assert batches_of(np.zeros(203, bool), shards, 16) == []


def test_what_a_killed_process_leaves_is_added_once(tmp_path):
    keys, rows = np.arange(5), np.zeros(5, row_dtype(3))
    rows["features"] = np.arange(15).reshape(5, 3)
    with RowStore(tmp_path, "s", rows.dtype) as store:
        store.append(keys[:2], rows[:2])
        write_rows(store.left / "a.npy", keys[:4], rows[:4])  # killed before it was removed, or written by two
        write_rows(store.left / "b.npy", keys[4:], rows[4:])
        (store.left / ".c.npy.123").write_bytes(b"half")
    with RowStore(tmp_path, "s", rows.dtype) as store:
        store.add_left()
        assert len(store) == 5
        np.testing.assert_array_equal(store.rows()[store.find(keys)], rows)
        assert not list(store.left.iterdir())
        write_rows(store.left / "a.npy", keys, np.zeros(5, row_dtype(4)))
        with pytest.raises(ValueError, match=r"a\.npy does not hold what .*s\.rows does: remove it"):
            store.add_left()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders `train` and `val`, `weights.pth`, and two catalogs of the same images."""
    folder = tmp_path_factory.mktemp("spread")
    for split, first in (("train", 10_000), ("val", 20_000)):
        for i in range(TARGETS):
            (folder / split / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            photograph(first + i).save(folder / split / "ab"[i % 2] / f"{i}.png")
    images = [("cd"[i % 2], encoded(photograph(i, size=(300, 300)))) for i in range(SHARDS * IN_SHARD)]
    images[5] = "d", b"\xff\xd8 no image"
    make_catalog(folder / "alone.sqlite", images, {"a": ["c"], "b": ["d"]}, in_shard=IN_SHARD)
    shutil.copy(folder / "alone.sqlite", folder / "spread.sqlite")
    shutil.copytree(folder / "alone_shards", folder / "spread_shards")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), folder / "weights.pth")
    return folder


def command(catalog: str, *words: object) -> list[str]:
    seen = ["--model", "test_resnet", "--weights", "weights.pth", "--image-size", 64, "--batch-size", BATCH]
    kept = ["--gamma1", -1, "--gamma2", 1.1, "--duplicate", 1.0, "--hash-radius", 0, "--pictures", 1]
    return [*map(str, [BIN / "fastlt", "filter", catalog, "--train", "train", "--val", "val", *seen, *kept, *words])]


def keys_of(folder: Path, catalog: str) -> np.ndarray:
    files = [*folder.glob(f"{catalog}_embeddings/*/embeddings.keys")]
    return np.fromfile(files[0], np.int64) if files else np.empty(0, np.int64)


def rows_of(folder: Path, catalog: str) -> dict[int, bytes]:
    (file,) = folder.glob(f"{catalog}_embeddings/*/embeddings.rows")
    keys = keys_of(folder, catalog)
    content, width = file.read_bytes(), file.stat().st_size // len(keys)
    assert len(set(keys.tolist())) == len(keys)
    return {key: content[i * width : (i + 1) * width] for i, key in enumerate(keys.tolist())}


def judged(folder: Path, catalog: str) -> list[tuple]:
    with Catalog(folder / catalog) as opened:
        rows = opened.connection.execute("SELECT id, state, reason, similarity, nearest FROM image ORDER BY id")
        return [tuple(row) for row in rows]


@pytest.mark.slow
def test_nodes_and_driver_are_killed(folder, cluster):
    alone = subprocess.run(command("alone.sqlite"), cwd=folder, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    spread = command("spread.sqlite", "--ray", cluster.address)

    def started_until(shards: int) -> subprocess.Popen:
        driver = subprocess.Popen(spread, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(driver, shards)
        return driver

    def wait_for(driver: subprocess.Popen, shards: int) -> None:
        while len(keys_of(folder, "spread")) < 2 * TARGETS + shards * IN_SHARD - 1:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.02)

    def lose_a_node() -> None:
        others = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
        cluster.remove_node(others[0], allow_graceful=False)
        cluster.add_node(num_cpus=2)

    driver = started_until(2)
    lose_a_node()
    wait_for(driver, 5)
    driver.kill()
    driver.communicate()
    done = keys_of(folder, "spread")
    driver = started_until(9)
    with Catalog(folder / "spread.sqlite") as catalog, pytest.raises(ValueError, match="is in use: filter"):
        catalog.lock("filter").__enter__()
    lose_a_node()
    _, error = driver.communicate(timeout=600)
    assert driver.returncode == 0, error
    np.testing.assert_array_equal(keys_of(folder, "spread")[: len(done)], done)  # nothing again
    assert rows_of(folder, "spread") == rows_of(folder, "alone")
    assert judged(folder, "spread.sqlite") == judged(folder, "alone.sqlite")
    assert not [*folder.glob("spread_embeddings/*/embeddings_left/*")]


@pytest.mark.medium
def test_other_arithmetic_decides_otherwise_only_near_a_threshold(folder):
    """Sums in another order stand for another kind of device with the same precision."""
    shutil.rmtree(folder / "alone_embeddings", ignore_errors=True)
    sources = TargetImages(folder / "train", folder / "val")
    options = FilterOptions(gamma1=-1.0, gamma2=1.1, duplicate=1.0, hash_radius=0, batch_size=BATCH, workers=0)
    encoder = timm_encoder("test_resnet", folder / "weights.pth", 64)
    with Catalog(folder / "alone.sqlite") as catalog, catalog.lock("filter"):
        one = judge(catalog, encoder, sources, options)
        rows = rows_of(folder, "alone")
        shutil.rmtree(folder / "alone_embeddings")
        with torch.backends.mkldnn.flags(enabled=False):
            two = judge(catalog, encoder, sources, options)
    assert rows_of(folder, "alone") != rows
    whole = ~np.isnan(one.similarity)
    found, others = one.similarity[whole], two.similarity[whole]
    for threshold in np.quantile(found, [0.1, 0.5, 0.9]):
        differ = (found > threshold) != (others > threshold)
        assert differ.sum() < len(found) / 100
        assert (abs(found[differ] - threshold) < MARGIN).all()
