"""The page of `fastlt review`, in a real browser: what a person clicks and types is what encode takes."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from fastlt.data_prep.catalog import Catalog, held_catalog
from fastlt.dataset.encoded import EncodedDataset
from support.command import run_here
from support.crawling import photograph
from support.paths import with_support

pytestmark = pytest.mark.medium


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    """Class folders hawk and tern: train and val."""
    for split, first in (("train", 50), ("val", 80)):
        for target in ("hawk", "tern"):
            folder = tmp_path / "targets" / split / target
            folder.mkdir(parents=True)
            for number in range(2):
                photograph(first + number + ord(target[0])).save(folder / f"{number}.png")
    return tmp_path / "targets"


def encode(catalog: Path, targets: Path, out: Path) -> EncodedDataset:
    words = ["encode", out, "--train", targets / "train", "--val", targets / "val", "--catalog", catalog]
    done = run_here([*map(str, words), "--format", "plain"])
    assert done.returncode == 0, done.stderr
    return EncodedDataset.open(out)


def tile(page, number: int):
    return page.locator(f".tile[data-id='{number}']")


def said(page) -> str:
    page.wait_for_selector("#said:not([hidden])")
    return page.locator("#said").inner_text()


def until(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_clicks_change_what_encode_takes(page, served, judged, targets, tmp_path):
    before = encode(judged, targets, tmp_path / "before").label_space
    assert dict(zip(before.auxiliary_names, before.counts[2:], strict=True)) == {"gull": 1, "kite": 2, "stone": 1}
    page.goto(served(judged, "--train", targets / "train"))
    stone = page.locator("article", has_text="stone")
    stone.get_by_role("button", name="Reject").click()
    stone.get_by_text("rejected by hand", exact=True).first.wait_for()
    page.get_by_role("link", name="Images").click()
    tile(page, 1).click()
    page.get_by_role("button", name="Drop").click()
    page.wait_for_selector(".tile[data-id='1'].dropped.hand")
    tile(page, 3).click()
    page.keyboard.press("k")
    page.wait_for_selector(".tile[data-id='3'].kept.hand")
    tile(page, 6).click()
    page.keyboard.press("k")
    page.wait_for_selector(".tile[data-id='6'].kept.hand")
    after = encode(judged, targets, tmp_path / "after").label_space
    assert dict(zip(after.auxiliary_names, after.counts[2:], strict=True)) == {"gull": 2, "kite": 2}
    for left in (3, 2, 1, 0):
        page.keyboard.press("u")
        with Catalog(judged) as catalog:
            until(lambda left=left: catalog.last_batch()[0] == left)
        page.wait_for_timeout(300)  # for what the tab says is the last decision
    assert encode(judged, targets, tmp_path / "undone").label_space.counts == before.counts


def test_pictures_of_targets_stand_beside_those_of_their_categories(page, served, judged, targets, tmp_path):
    encode(judged, targets, tmp_path / "encoded")
    for source in (targets / "train", tmp_path / "encoded"):
        page.goto(served(judged, "--train", source))
        page.wait_for_selector("article .beside img")
        page.wait_for_function(
            "() => [...document.images].length > 5 && [...document.images].every(i => i.naturalWidth > 0)"
        )
        assert page.locator("article", has_text="gull").locator(".beside").inner_text() == "tern"
    page.goto(served(judged))
    page.wait_for_selector("#no-pictures:not([hidden])")
    assert page.locator("#no-pictures").inner_text() == "no pictures of the targets: --train says where they are"


def test_doubtful_categories_come_first_and_before_a_crawl_too(page, served, judged, tmp_path):
    page.goto(served(judged))
    page.wait_for_selector("article")
    assert page.locator("article .own h3").all_inner_texts()[0] == "stone kept"
    assert page.locator("article .doubt").all_inner_texts()[:2] == ["in no taxonomy", "few images"]
    empty = tmp_path / "empty.sqlite"
    with Catalog(empty, create=True) as catalog:
        with catalog.transaction():
            catalog.enter_targets([("hawk", "hawk", "[]", 1)])
            for name in ("kite", "buzzard"):
                catalog.add_neighbor(1, catalog.add_category(name, name))
        catalog.mark_categories({1: "in no taxonomy"})
    page.goto(served(empty))
    page.wait_for_selector("article")
    assert page.locator("article .own h3").all_inner_texts() == ["kite kept", "buzzard kept"]
    page.keyboard.press("2")
    page.get_by_text("There are none.").wait_for()
    page.keyboard.press("1")
    page.wait_for_selector("article")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("r")
    page.get_by_text("rejected by hand", exact=True).first.wait_for()


def test_keys_alone_rename_move_and_add(page, served, judged):
    page.goto(served(judged))
    page.locator("[name=order]").first.select_option("title")
    page.wait_for_function(
        "() => document.querySelector('article h3, article .own h3') && location.hash.includes('title')"
    )
    page.wait_for_selector("article:first-of-type[tabindex='0']")
    page.locator("[name=order]").first.evaluate("e => e.blur()")
    page.keyboard.press("j")  # gull
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("herring gull")
    page.keyboard.press("Enter")
    page.get_by_text("herring gull").first.wait_for()
    page.keyboard.press("m")
    page.wait_for_selector("dialog[open] .chip")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # takes tern away
    page.wait_for_selector("dialog[open] .chip", state="detached")
    page.keyboard.type("hawk")
    page.wait_for_selector("dialog[open] .chip")
    page.keyboard.press("Enter")
    page.get_by_text("beside hawk").nth(2).wait_for()
    page.keyboard.press("n")
    page.keyboard.type("Red kite")
    page.keyboard.press("Enter")
    page.wait_for_selector("article:has-text('Red kite')")
    with Catalog(judged) as catalog:
        assert catalog.neighbors() == {"hawk": ["gull", "kite", "red_kite", "stone"]}
        assert {row["title"] for row in catalog.categories()} == {"kite", "stone", "herring gull", "Red kite"}


def test_keys_decide_about_nothing_that_nobody_has_gone_to(page, served, judged):
    page.goto(served(judged))
    page.wait_for_selector("article[tabindex='0']")
    page.keyboard.press("r")
    assert page.evaluate("() => document.activeElement.localName") == "article"  # now it can be seen
    page.keyboard.press("2")
    page.wait_for_selector(".tile[tabindex='0']")
    page.keyboard.press("d")
    assert said(page) == "Select images first."
    with Catalog(judged) as catalog:
        assert list(catalog.decisions()) == []
    page.keyboard.press("ArrowRight")
    page.keyboard.press("d")
    page.wait_for_selector(".tile[data-id='1'].dropped.hand")
    page.keyboard.press("u")
    page.wait_for_selector(".tile[data-id='1'].kept:not(.hand)")


def test_what_was_kept_by_hand_in_a_rejected_category_says_both(page, served, judged):
    page.goto(served(judged))
    stone = page.locator("article", has_text="stone")
    stone.get_by_role("button", name="Reject").click()
    stone.get_by_text("rejected by hand").wait_for()  # once
    stone.get_by_role("button", name="Images").click()
    tile(page, 7).click()
    page.keyboard.press("k")
    tile(page, 7).get_by_text("kept by hand, but its category is rejected · 0.400").wait_for()
    assert "kept by hand" in page.locator("#about").inner_text()
    page.locator("#images [name=order]").select_option("far")
    page.wait_for_function("() => location.hash.includes('order=far')")
    assert page.locator("#of-category").inner_text() == "of stone ✕"


def test_a_narrow_page_begins_at_its_top(page, served, judged):
    page.set_viewport_size({"width": 390, "height": 500})
    page.goto(served(judged) + "#images")
    tile(page, 7).wait_for()
    header, controls = page.locator("header").bounding_box(), page.locator("#image-controls").bounding_box()
    assert controls["y"] >= header["y"] + header["height"]


def test_fingers_select_many_too(served, judged, browser):
    with contextlib.closing(browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})) as context:
        page = context.new_page()
        page.goto(served(judged) + "#images")
        for number in (1, 2, 5, 2):
            tile(page, number).tap()
        assert page.locator("#selected").inner_text() == "2 selected"
        page.get_by_role("button", name="Drop").tap()
        page.wait_for_function("() => document.querySelectorAll('.tile.dropped.hand').length === 2")
    with Catalog(judged) as catalog:
        assert catalog.images_by_hand() == {1: "drop", 5: "drop"}


def test_many_are_selected_with_shift_and_repeats_are_refused_by_name(page, served, judged):
    judged.with_name("c_filter.csv").write_text(
        "image,url,category,reason,like,cosine\n4,u,kite,near-duplicate of a validation image,val/hawk/7.png,0.99\n"
    )
    page.goto(served(judged) + "#images")
    tile(page, 1).click()
    tile(page, 5).click(modifiers=["Shift"])
    assert page.locator("#selected").inner_text() == "5 selected"
    page.keyboard.press("k")
    assert said(page) == (
        "Refused: http://images.test/3: it stays out: near-duplicate of a validation image, val/hawk/7.png"
    )
    page.wait_for_selector(".tile[data-id='3'].kept.hand")
    assert tile(page, 4).get_attribute("class") == "tile dropped"
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#selected").inner_text() == "3 selected"
    page.keyboard.press("d")
    page.wait_for_function("() => document.querySelectorAll('.tile.dropped.hand').length === 3")
    with Catalog(judged) as catalog:
        assert catalog.images_by_hand() == {1: "drop", 2: "drop", 3: "drop", 5: "keep"}


def test_images_of_one_category_stay_those_in_another_order(page, served, judged):
    page.goto(served(judged))
    page.locator("article", has_text="kite").get_by_role("button", name="Images").click()
    tile(page, 4).wait_for()
    page.locator("#image-controls [name=order]").select_option("far")
    page.wait_for_function("() => document.querySelector('.tile')?.dataset.id === '3'")
    assert page.locator("#of-category").inner_text() == "of kite ✕"
    assert page.locator(".tile").count() == 4
    page.locator("#of-category").click()
    page.wait_for_function("() => document.querySelectorAll('.tile').length === 7")


def slide(page, name: str, value: float) -> str:
    page.locator(f"[name={name}]").evaluate(
        "(e, v) => { e.value = Math.round(v / 0.002); e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )
    return page.locator("#preview").inner_text()


def test_sliders_count_at_once_and_judge_when_applied(page, served, judged):
    with Catalog(judged) as catalog:
        catalog.connection.execute("UPDATE image SET similarity = 0.7 WHERE id = 2")
    page.goto(served(judged) + "#images")
    page.wait_for_selector("#sliders:not([hidden])")
    assert page.locator("#preview").inner_text() == "4 of 7 kept, 1 too far, 1 too near"
    assert page.locator("#told1").inner_text() == "0.300"
    assert slide(page, "gamma1", 0.7) == "1 of 7 kept, 4 too far, 1 too near"  # the one at 0.7 is not above it
    assert slide(page, "gamma1", 0.698) == "2 of 7 kept, 3 too far, 1 too near"
    assert slide(page, "gamma1", 0.1) == "5 of 7 kept, 0 too far, 1 too near"
    assert slide(page, "gamma2", 0.8) == "4 of 7 kept, 0 too far, 2 too near"  # the one at 0.8 is not below it
    tile(page, 7).click()
    page.keyboard.press("d")
    page.wait_for_selector(".tile[data-id='7'].dropped.hand")
    page.get_by_text("3 of 7 kept").wait_for()
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("2 images were judged anew.").wait_for()
    with Catalog(judged) as catalog:
        rows = catalog.connection.execute("SELECT state, reason FROM image ORDER BY id").fetchall()
        assert [row["reason"] or row["state"] for row in rows] == [
            "kept", "kept", "kept", "near-duplicate of a validation image", "too near", "too near", "kept"
        ]  # fmt: skip
        assert catalog.json_setting("filter") == {"gamma1": 0.198, "gamma2": 0.8}  # no slider goes further
        assert sum(map(len, catalog.kept_images().values())) == 3


def test_labels_stay_judged_until_a_threshold_takes_their_place(page, served, judged):
    with Catalog(judged) as catalog:
        like = "looks like another category"
        catalog.judge_images([("dropped", like, 0.5, 1, 3), ("dropped", like, 0.9, 1, 7)])
        catalog.remember_json("filter", {"gamma1": "auto", "gamma2": 0.98})
    page.goto(served(judged) + "#images")
    page.wait_for_selector("#sliders:not([hidden])")
    assert page.locator("#preview").inner_text() == "3 of 7 kept, 2 look like another category, 1 too near"
    assert slide(page, "gamma2", 0.7) == "1 of 7 kept, 2 look like another category, 3 too near"
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("2 images were judged anew.").wait_for()
    slide(page, "gamma2", 0.99)
    assert page.locator("#told2").inner_text() == "0.980"  # what lies above was not judged by its label
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("2 images were judged anew.").wait_for()
    page.locator("[name=labels]").uncheck()
    only_filter = ", and only `fastlt filter` brings labels back"
    assert slide(page, "gamma1", 0.55) == "4 of 7 kept, 1 too far, 1 too near" + only_filter


@pytest.mark.parametrize("gamma1", [0.3011, "auto"])
def test_thresholds_between_two_places_of_a_slider_count_as_they_did(page, served, judged, gamma1):
    with Catalog(judged) as catalog:
        catalog.judge_images([("kept", "", 0.301, 1, 1), ("dropped", "too near", 0.9815, 1, 6)])
        if gamma1 != "auto":
            catalog.judge_images([("dropped", "too far", 0.301, 1, 1)])
        catalog.remember_json("filter", {"gamma1": gamma1, "gamma2": 0.9813})
        taken = sum(map(len, catalog.kept_images().values()))
    page.goto(served(judged) + "#images")
    page.get_by_text(f"{taken} of 7 images are taken").wait_for()
    assert page.locator("#preview").inner_text().startswith(f"{taken} of 7 kept, ")
    assert page.locator("#told2").inner_text() == "0.981"
    assert page.locator("#apply").is_disabled()
    slide(page, "gamma2", 0.99)
    assert (page.locator("#told2").inner_text() == "0.981") == (gamma1 == "auto")  # labels were not judged above


def test_a_stage_at_work_is_read_beside_and_no_thresholds_are_written_under_it(page, served, judged):
    shards = judged.with_name("c_shards")
    (shards / "00000.tar").rename(shards / ".00000.tar.partial")  # as a crawl has it that goes on
    page.goto(served(judged) + "#images")
    page.wait_for_selector("#sliders:not([hidden])")
    page.wait_for_function("() => [...document.images].every(image => image.naturalWidth > 0)")
    with held_catalog(judged, "crawl"):
        slide(page, "gamma1", 0.5)
        page.get_by_role("button", name="Apply").click()
        assert "is in use: crawl" in said(page)
        tile(page, 1).click()
        page.keyboard.press("d")  # a short transaction between those of the crawl
        page.wait_for_selector(".tile[data-id='1'].dropped.hand")
    writer = sqlite3.connect(judged, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")  # as filter does when it writes states
    threading.Timer(3, lambda: writer.execute("ROLLBACK")).start()
    started = time.monotonic()
    tile(page, 2).click()
    page.keyboard.press("d")
    page.reload()  # reads in the meantime
    page.wait_for_selector(".tile[data-id='2']")
    assert time.monotonic() - started < 3
    with Catalog(judged) as catalog:
        until(lambda: catalog.images_by_hand().get(2) == "drop")
    writer.close()


def test_a_tab_that_was_left_open_and_two_tabs(page, served, judged, browser):
    address = served(judged)
    page.goto(address + "#images")
    tile(page, 1).wait_for()
    with Catalog(judged) as catalog, catalog.transaction():  # filter has run, and a license was refused
        catalog.judge_images([("dropped", "too far", 0.1, 1, 1)])
        catalog.set_outcomes([("dropped", "license", None, 2)])
    tile(page, 1).click()
    tile(page, 2).click(modifiers=["Shift"])
    page.keyboard.press("k")
    assert said(page) == "Gone: http://images.test/1 (license)"
    page.wait_for_selector(".tile[data-id='1'].kept.hand")
    assert tile(page, 2).inner_text() == "gone"
    page.get_by_text("The catalog has changed").wait_for()
    page.get_by_role("button", name="Read it again").click()
    page.wait_for_function("() => document.querySelectorAll('.tile').length === 6")
    assert page.locator("#changed").is_hidden()

    with contextlib.closing(browser.new_context()) as context:
        second = context.new_page()
        second.goto(address + "#images")
        tile(second, 3).click()
        second.keyboard.press("k")
        second.wait_for_selector(".tile[data-id='3'].kept.hand")
        page.keyboard.press("u")
        assert "another decision was made since" in said(page)
        page.keyboard.press("u")
        page.get_by_text("Undone: keep 1 image").wait_for()
    with Catalog(judged) as catalog:
        assert catalog.images_by_hand() == {1: "keep"}


def test_no_decision_goes_into_a_catalog_that_is_gone(page, served, judged, tmp_path):
    other = Path(shutil.copy(judged, tmp_path / "other.sqlite"))
    page.goto(served(judged) + "#images")
    page.wait_for_selector(".tile")
    for change in (judged.unlink, lambda: other.rename(judged)):
        change()
        page.locator(".tile").first.click()
        page.keyboard.press("d")
        page.wait_for_selector("#said.error")
        assert "was removed or replaced since it was opened" in page.inner_text("#said")
    with Catalog(judged) as catalog:
        assert catalog.decisions() == []


def test_a_catalog_that_was_damaged_meanwhile_is_one_sentence(page, served, judged):
    page.goto(served(judged) + "#images")
    page.wait_for_selector(".tile")
    with Catalog(judged) as catalog:
        catalog.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    judged.write_bytes(judged.read_bytes()[:4096] + bytes(100_000))
    page.locator(".tile").first.click()
    page.keyboard.press("d")
    page.wait_for_selector("#said.error")
    assert "the catalog cannot be used: " in page.inner_text("#said")


def test_it_ends_while_a_decision_waits(judged):
    command = [sys.executable, "-m", "fastlt", "review", str(judged)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=with_support() | os.environ
    )
    address = process.stdout.readline().strip()
    with Catalog(judged) as catalog, catalog.transaction():
        sent = threading.Thread(target=_drop_an_image, args=(address,))
        sent.start()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        sent.join()
    said = process.stderr.read()
    assert "a decision that waited for others who write was given up" in said
    assert "Traceback" not in said


def _drop_an_image(address: str) -> None:
    origin = address.rsplit("/", 2)[0]
    request = Request(f"{address}api/decide", b'{"images": [1], "verdict": "drop"}', {"Origin": origin})
    with contextlib.suppress(OSError):
        urlopen(request, timeout=60).close()


def test_long_lists_come_as_one_scrolls(page, served, tmp_path):
    from support.catalogs import make_catalog

    path = tmp_path / "long.sqlite"
    content = Image.new("RGB", (8, 8), "red")
    content.save(tmp_path / "red.jpg")
    jpeg = (tmp_path / "red.jpg").read_bytes()
    make_catalog(path, [(f"kite {n % 90}", jpeg) for n in range(700)], {"hawk": [f"kite {n}" for n in range(90)]})
    page.goto(served(path) + "#images?order=far")
    page.wait_for_selector(".tile")
    for _ in range(60):
        page.mouse.wheel(0, 4000)
        if page.get_by_text("That is all.").is_visible():
            break
        page.wait_for_timeout(100)
    ids = page.locator(".tile").evaluate_all("tiles => tiles.map(tile => Number(tile.dataset.id))")
    assert sorted(ids) == list(range(1, 701))
    page.keyboard.press("1")
    page.wait_for_selector("article")
    for _ in range(60):
        page.mouse.wheel(0, 4000)
        if page.locator("#category-end", has_text="That is all.").is_visible():
            break
        page.wait_for_timeout(100)
    assert page.locator("article").count() == 90


def test_without_the_packages_one_sentence_says_so(judged, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "fastlt.data_prep.review.server", raising=False)
    done = run_here(["review", str(judged)])
    assert done.stderr == "fastlt: error: the page needs uvicorn: pip install 'fastlt[review]'.\n"
