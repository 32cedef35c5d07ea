"""Decisions in the catalog: what follows from them, what is refused, what they survive, and how they travel."""

import json
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastlt.data_prep.catalog import Candidate, Catalog, Decision
from fastlt.data_prep.review.exchange import apply_decisions, write_decisions
from fastlt.data_prep.verdicts import are_kept
from support.command import run_here
from support.crawling import command, jpeg, write_list
from support.web import Answer, Web


def image(number: int, verdict: str) -> Decision:
    return Decision("image", f"http://images.test/{number - 1}", verdict)


def taken(catalog: Catalog, unfiltered: bool = False) -> dict[str, int]:
    return {name: len(places) for name, places in catalog.kept_images(unfiltered).items()}


def test_what_people_decide_of_images_wins_in_what_encode_takes(judged):
    with Catalog(judged) as catalog:
        assert taken(catalog) == {"kite": 2, "gull": 1, "stone": 1}
        found = catalog.decide([image(1, "drop"), image(3, "keep"), image(6, "keep"), image(7, "drop")])
        assert (found.done, found.refused, found.unknown) == (4, [], [])
        assert taken(catalog) == {"kite": 2, "gull": 2}
        assert taken(catalog, unfiltered=True) == {"kite": 3, "gull": 2}
        catalog.decide([image(1, "keep")])  # a later decision about the same
        assert taken(catalog)["kite"] == 3


def test_no_decision_brings_a_repeat_back(judged):
    with Catalog(judged) as catalog:
        found = catalog.decide([image(4, "keep"), image(3, "keep")])
        ((refused, why),) = found.refused
        assert refused.what == "http://images.test/3"
        assert why == "it stays out: near-duplicate of a validation image"
        assert found.done == 1
        row = ("dropped", "near-duplicate of a test image", 0.9, 1, 3)  # as a later filter with --test finds
        catalog.judge_images([row])
        assert taken(catalog)["kite"] == 2


def test_the_filter_hears_people_but_for_repeats():
    reasons = np.array(["", "too far", "near-duplicate of a test image", "", "broken"], object)
    kept = are_kept(reasons, np.arange(10, 15), {10: "drop", 11: "keep", 12: "keep", 14: "keep", 99: "keep", 1: "drop"})
    assert kept.tolist() == [False, True, False, True, False]
    assert are_kept(reasons[:0], np.arange(0), {3: "keep"}).tolist() == []


def test_only_the_last_decision_is_undone(judged):
    with Catalog(judged) as catalog:
        first = catalog.decide([image(1, "drop"), image(2, "drop")]).batch
        second = catalog.decide([image(1, "keep")]).batch
        assert catalog.undo(first) == []
        assert [d.verdict for d in catalog.undo(second)] == ["keep"]
        assert taken(catalog) == {"gull": 1, "stone": 1}
        assert len(catalog.undo(first)) == 2
        assert taken(catalog)["kite"] == 2
        assert catalog.undo(first) == []
        assert catalog.last_batch() == (0, [])


def categories(catalog: Catalog) -> dict[str, tuple[str, str, str]]:
    return {row["name"]: (row["title"], row["state"], row["reason"]) for row in catalog.categories()}


def test_categories_are_rejected_renamed_moved_and_added_and_that_is_undone(judged):
    with Catalog(judged) as catalog:
        before = categories(catalog), catalog.neighbors()
        steps = [
            [Decision("category", "kite", "reject")],
            [Decision("title", "gull", "rename", title="herring gull")],
            [Decision("pair", "gull", "drop", "tern"), Decision("pair", "gull", "keep", "hawk")],
            [Decision("category", "red_kite", "add", title="Red kite"), Decision("pair", "red_kite", "keep", "hawk")],
        ]
        batches = [catalog.decide(step).batch for step in steps]
        assert categories(catalog)["kite"] == ("kite", "rejected", "rejected by hand")
        assert categories(catalog)["gull"][0] == "herring gull"
        assert catalog.neighbors() == {"hawk": ["gull", "red_kite", "stone"]}
        assert taken(catalog) == {"gull": 1, "stone": 1}
        for batch in reversed(batches):
            assert catalog.undo(batch)
        assert (categories(catalog), catalog.neighbors()) == before


def test_decisions_about_categories_survive_the_stages(judged):
    with Catalog(judged) as catalog:
        ids = {row["name"]: row["id"] for row in catalog.categories()}
        catalog.decide([Decision("category", "kite", "reject"), Decision("category", "stone", "accept")])
        catalog.decide([Decision("pair", "gull", "drop", "tern"), Decision("category", "", "add", title="Red kite")])
        assert not catalog.keep_category(ids["kite"])  # a list has its label again
        catalog.reject_category(ids["stone"], "is not a name")
        catalog.mark_categories({ids["stone"]: "in no taxonomy", ids["gull"]: "in no taxonomy"})
        catalog.add_neighbor(2, ids["gull"])  # discover names it again
        catalog.set_found_neighbors([(2, ids["gull"]), (1, ids["gull"])])
        catalog.remove_empty_categories()
        found = categories(catalog)
        assert found["kite"][1:] == ("rejected", "rejected by hand")
        assert found["stone"][1:] == ("kept", "")
        assert found["gull"][2] == "in no taxonomy"
        assert "red_kite" in found
        assert catalog.neighbors() == {"hawk": ["gull", "stone"]}


@pytest.mark.medium
def test_what_was_removed_on_request_is_brought_back_by_no_decision(judged):
    with Catalog(judged) as catalog:
        accepted = catalog.decide([Decision("category", "kite", "accept")])
        (kite,) = [row["id"] for row in catalog.categories() if row["name"] == "kite"]
        catalog.reject_on_request([kite])
        assert catalog.undo(accepted.batch)
        for decision in (Decision("category", "kite", "accept"), Decision("category", "", "add", title="kite")):
            assert [why for _, why in catalog.decide([decision]).refused] == ["it was removed on request"]
        assert "kite" not in taken(catalog)


def test_decisions_survive_another_crawl(tmp_path):
    path, listed = tmp_path / "c.sqlite", tmp_path / "list.csv"
    with Web(lambda host, path: None if path == "/robots.txt" else Answer(jpeg(int(path[1])))) as web:
        rows = [(f"http://{web.hosts[0]}/{n}.jpg", "kite" if n < 3 else "gull", "CC0", "me") for n in range(5)]
        write_list(listed, rows[:4])
        crawl = command(path, "--urls", listed)
        subprocess.run(crawl, check=True, capture_output=True, timeout=120)
        with Catalog(path) as catalog:
            catalog.decide([Decision("image", rows[0][0], "drop"), Decision("category", "gull", "reject")])
        write_list(listed, rows)
        subprocess.run(crawl, check=True, capture_output=True, timeout=120)
    with Catalog(path) as catalog:
        assert catalog.status()["candidate"] == {"fetched": {"": 5}}
        assert taken(catalog, unfiltered=True) == {"kite": 2}


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (Decision("category", "", "add", title="Hawk"), "'Hawk' is the target class 'hawk'"),
        (Decision("title", "kite", "rename", title="The tern"), "is the target class 'tern'"),
        (Decision("title", "kite", "rename", title=" ... "), "is no title"),
        (Decision("title", "kite", "rename", title="x" * 101), "100 at most"),
        (Decision("category", "kite", "keep"), "'keep' is nothing to be decided of 'category'"),
        (Decision("species", "kite", "keep"), "nothing to be decided of 'species'"),
        (Decision("image", "http://images.test/1", "keep", "hawk"), "a target class belongs to pairs alone"),
    ],
)
def test_what_makes_no_sense_is_refused(judged, decision, why):
    with Catalog(judged) as catalog:
        before = categories(catalog)
        found = catalog.decide([decision])
        assert why in found.refused[0][1]
        assert (found.batch, found.done, catalog.last_batch()[0]) == (0, 0, 0)
        assert categories(catalog) == before


def test_decisions_are_exported_and_fit_another_catalog(judged, tmp_path):
    with Catalog(judged) as catalog:
        catalog.decide([image(1, "drop"), image(2, "drop"), image(7, "drop")])
        catalog.decide([image(2, "keep")])
        catalog.decide(
            [Decision("category", "", "add", title="Red kite"), Decision("pair", "red_kite", "keep", "hawk")]
        )
        catalog.decide([Decision("category", "stone", "reject"), Decision("title", "gull", "rename", title="big gull")])
    file = tmp_path / "decisions.jsonl"
    done = run_here(["review", str(judged), "--export", str(file)])
    assert (done.returncode, done.stdout) == (0, f"written: {file}, 7 decisions\n"), done.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all("id" not in line for line in lines)
    assert {line["kind"] for line in lines} == {"image", "category", "pair", "title"}

    other = tmp_path / "other.sqlite"
    with Catalog(other, create=True) as catalog, catalog.transaction():
        catalog.enter_targets([("hawk", "hawk", "[]", 1)])
        category = catalog.add_category("gull", "gull")
        rows = [Candidate(category, f"http://images.test/{n}", "images.test", "list") for n in (9, 1, 0)]
        catalog.add_candidates(rows)
    done = run_here(["review", str(other), "--apply", str(file)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "5 of 7 decisions followed",
        "1 not in this catalog, there is no image of that URL: http://images.test/6",
        "1 not in this catalog, there is no such category: stone",
    ]
    with Catalog(other) as catalog:
        assert catalog.images_by_hand() == {3: "drop", 2: "keep"}
        assert catalog.neighbors() == {"hawk": ["red_kite"]}
        assert categories(catalog)["gull"][0] == "big gull"
        catalog.decide([image(1, "keep")])
    done = run_here(["review", str(other), "--apply", str(file)])  # nothing older wins
    assert done.stdout.splitlines()[:2] == [
        "0 of 7 decisions followed",
        "5 left, as the catalog has them, or newer ones",
    ]
    with Catalog(other) as catalog:
        assert catalog.images_by_hand() == {3: "keep", 2: "keep"}


def test_a_category_that_was_added_and_accepted_later_is_brought_to_another_catalog(judged, tmp_path):
    with Catalog(judged) as catalog:
        catalog.decide([Decision("category", "", "add", title="Red kite")])
        catalog.decide([Decision("title", "red_kite", "rename", title="milan")])
        catalog.decide([Decision("category", "red_kite", "reject")])
        accepted = catalog.decide([Decision("category", "red_kite", "accept")])
        assert accepted.done == 1
        write_decisions(catalog, tmp_path / "decisions.jsonl")
        assert catalog.undo(accepted.batch)
        assert categories(catalog)["red_kite"][1:] == ("rejected", "rejected by hand")
    with Catalog(tmp_path / "other.sqlite", create=True) as catalog:
        assert apply_decisions(catalog, tmp_path / "decisions.jsonl")[0] == "2 of 2 decisions followed"
        assert categories(catalog) == {"red_kite": ("milan", "kept", "")}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[]", "it is no object of texts"),
        ('{"kind": "image", "what": 3, "verdict": "keep"}', "it is no object of texts"),
        ('{"kind": "image", "what": "http://a", "verdict": "keep"}', "'made' is no time"),
        ('{"what": "http://a"}', "missing 2 required positional arguments"),
        ("{", "Expecting property name"),
        (
            '{"kind": "image", "what": "a", "verdict": "keep", "made": "9999-99-99T99:99:99+00:00"}',
            "'made' is no time",
        ),
        ('{"kind": "image", "what": "\\ud800", "verdict": "keep"}', "surrogates not allowed"),
    ],
)
def test_files_that_hold_no_decisions(judged, tmp_path, line, why):
    file = tmp_path / "decisions.jsonl"
    file.write_text(f"\n{line}\n")
    done = run_here(["review", str(judged), "--apply", str(file)])
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastlt: error: line 2 of {file} is no decision: ")
    assert why in done.stderr


def test_an_export_replaces_no_catalog_and_no_device(judged, tmp_path):
    (tmp_path / "link").symlink_to(judged)
    (tmp_path / "folder").mkdir()
    content = judged.read_bytes()
    for out in (judged, f"{judged}-wal", f"{judged}.lock", tmp_path / "link", tmp_path / "folder", "/dev/null"):
        done = run_here(["review", str(judged), "--export", str(out)])
        assert "or the catalog's own: name another file" in done.stderr
    assert judged.read_bytes() == content
    assert run_here(["review", str(judged), "--export", f"{judged}_decisions.jsonl"]).returncode == 0


def test_options_that_contradict_each_other(judged, tmp_path):
    done = run_here(["review", str(judged), "--export", "a", "--apply", "b"])
    assert "give one of them, alone" in done.stderr
    done = run_here(["review", str(judged), "--port", "70000"])
    assert "--port is 70000" in done.stderr
    done = run_here(["review", str(tmp_path / "none.sqlite"), "--export", "a"])
    assert "there is no catalog at" in done.stderr
    done = run_here(["review", str(judged), "--train", "nowhere"])
    assert "there is no nowhere" in done.stderr


def test_a_catalog_is_read_at_once_while_another_process_writes(judged):
    writer = sqlite3.connect(judged, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")  # as filter does for seconds
    with Catalog(judged) as catalog:  # 60 seconds later it would fail
        assert catalog.num_decisions() == {}
    writer.execute("ROLLBACK")
    writer.close()


def test_status_counts_decisions(judged: Path):
    assert "decided" not in run_here(["status", str(judged)]).stdout
    with Catalog(judged) as catalog:
        catalog.decide([image(1, "drop"), image(2, "drop"), Decision("category", "stone", "reject")])
        taken = sum(map(len, catalog.kept_images().values()))
    said = run_here(["status", str(judged)]).stdout
    assert "decided by people             3   1 category, 2 images\n" in said
    assert f"taken by encode               {taken}   images" in said
    found = json.loads(run_here(["status", str(judged), "--json"]).stdout)
    assert found["decision"] == {"category": 1, "image": 2}
    assert found["taken"] == taken == 1
