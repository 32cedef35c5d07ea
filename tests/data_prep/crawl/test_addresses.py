"""Nothing inside the user's network is ever asked, whatever a URL, a redirect or a name server says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlt.data_prep.crawl.addresses import host_of, is_public, parse_url, place_of
from support.crawling import jpeg, outcomes, write_list
from support.paths import with_support
from support.web import Answer, Web

REFUSALS = {
    "dropped: not a public address (--allow-private)",
    "dropped: not an http(s) URL",
}  # a host like 2130706433 is none
PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
    "fec0::1", "3fff::1", "3fff:fff::1", "192.0.0.1", "192.0.0.9", "192.0.0.10", "::ffff:192.0.0.10", "64:ff9b::c000:9",
    "::8.8.8.8", "64:ff9b:1::808:808", "5f00::1", "4000::1", "100::1", "2002:c000:9::1", "198.18.0.1", "203.0.113.9",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url", ["ftp://a/b.jpg", "file:///etc/passwd", "data:image/png,x", "//a/b.jpg", "a.jpg", "http://"]
)
def test_only_http_is_spoken(url):
    assert parse_url(url) is None


PARTS = ["a", "b-c", "x9", "A", "127", "xn--a", "com", ".", "..", "-", "/", "//", ":80", "?", "=", "&", "#", "%41", "é"]


@settings(deadline=None)
@given(st.sampled_from(["http", "https", "HTTP", "ftp"]), st.lists(st.sampled_from(PARTS), max_size=9))
def test_urls_that_are_not_parsed_are_what_they_would_be_if_they_were(scheme, parts):
    url = f"{scheme}://{''.join(parts)}"
    parsed = parse_url(url)
    assert place_of(url) == ((str(parsed), host_of(parsed)) if parsed else None)


def test_no_way_of_writing_a_private_address_is_fetched(tmp_path):
    forms = [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "0.0.0.0",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "user:word@127.0.0.1",
        "[fec0::1]", "[3fff::1]", "192.0.0.9", "[::8.8.8.8]",
    ]  # fmt: skip
    with Web(lambda host, path: Answer(jpeg(0)), ["127.0.0.1", "::1"]) as web:
        port = web.hosts[0].split(":")[1]
        rows = [(f"http://{form}:{port}/{i}.jpg", "a", "", "") for i, form in enumerate(forms)]
        fastlt = str(Path(sys.executable).with_name("fastlt"))
        words = ["crawl", tmp_path / "c.sqlite", "--contact", "test@example.org", "--ignore-robots"]
        done = subprocess.run(
            [fastlt, *map(str, words), "--urls", str(write_list(tmp_path / "l.csv", rows))],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "not one image was found" in done.stderr
        assert web.asked.total() == 0
    found = outcomes(tmp_path / "c.sqlite")
    assert len(found) == len(forms)
    assert set(found.values()) <= REFUSALS


def test_redirects_and_name_servers_do_not_lead_inside(tmp_path):
    """A public host of our own, in a network of our own, redirects inside; a name changes its address."""
    script = [sys.executable, str(Path(__file__).with_name("public_namespace.py")), str(tmp_path)]
    unshare = ["unshare", "--net", "--mount"]
    if (
        os.geteuid()
        or not (shutil.which("unshare") and shutil.which("ip"))
        or subprocess.run([*unshare, "true"]).returncode
    ):
        pytest.skip("needs root, unshare and ip, to make a network of its own")
    how = {"capture_output": True, "text": True, "timeout": 120, "env": with_support()}
    done = subprocess.run([*unshare, *script], **how)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    found = said["found"]
    assert [found.pop("first.jpg"), found.pop("plain.jpg")] == ["fetched", "fetched"]
    assert set(found) == {"second.jpg", "literal.jpg", "decimal.jpg", "mapped.jpg", "name.jpg"}
    assert set(found.values()) <= REFUSALS
    assert found["second.jpg"] == found["name.jpg"] == "dropped: not a public address (--allow-private)"
    assert said["lookups"]["rebind.test"] > 1
    assert [pair for pair in said["asked"] if not pair.startswith("93.184.216.34:")] == []
