"""Limits of hosts: what comes with fastlt, what a --policy says, and mistakes in it."""

import json
from pathlib import Path

import pytest

from fastlt.data_prep.crawl.host_limits import NUMBERS, STATED, Policies
from fastlt.data_prep.crawl.options import Politeness
from fastlt.data_prep.crawl.sources import SOURCES
from fastlt.yaml_text import read_mapping


def policies(policy: Path | None = None, apis: tuple[str, ...] = (), **options) -> Policies:
    return Policies(Politeness(contact="x", policy=policy, **options), apis)


def written(folder: Path, text: str) -> Path:
    (folder / "p.yaml").write_text(text)
    return folder / "p.yaml"


def test_every_stated_limit_has_the_page_that_states_it():
    stated = read_mapping(STATED, "policy")
    assert {host for host, entry in stated.items() if not entry.get("page", "").startswith("https://")} == set()
    apis = {source().base_url.split("/")[2] for source in SOURCES.values()}
    assert apis <= set(stated)
    assert {"static.inaturalist.org", "inaturalist-open-data.s3.amazonaws.com", "upload.wikimedia.org"} <= set(stated)
    media = policies().of("static.inaturalist.org:443")
    assert (media.bytes_per_hour, media.bytes_per_day) == (5e9, 24e9)
    assert policies().of("api.inaturalist.org:443").requests_per_day == 10_000
    assert policies().of("upload.wikimedia.org:443").connections == 2
    assert policies().of("api.gbif.org:443").connections == 1


def test_what_is_stated_lowers_options_and_never_raises_them():
    api, host = "api.inaturalist.org:443", "images.example.org:80"
    assert policies(rate=10, api_rate=0.5, apis=(api,)).of(api).requests_per_second == 0.5
    assert policies(rate=0, api_rate=0, apis=(api,)).of(api).requests_per_second == 1
    assert policies(rate=10, api_rate=1, apis=(host,)).of(host).requests_per_second == 1
    assert policies(rate=0).of(host).requests_per_second is None
    assert policies(per_host=1).of("upload.wikimedia.org:443").connections == 1
    assert policies().of(host).page == ""


def test_a_policy_takes_the_place_of_both(tmp_path):
    text = """
api.inaturalist.org: {requests_per_second: 5, requests_per_day: null}
Images.Example.org: {bytes_per_day: 1.5 GB, connections: 32, page: "https://example.org/terms"}
images.example.org:8080: {requests_per_second: 1e2}
"""
    own = policies(written(tmp_path, text), ("api.inaturalist.org:443",))
    api = own.of("api.inaturalist.org:443")
    assert (api.requests_per_second, api.requests_per_day, api.page) == (5, None, str(tmp_path / "p.yaml"))
    host = own.of("images.example.org:443")
    assert (host.bytes_per_day, host.connections, host.requests_per_second) == (1.5e9, 32, 10)
    assert host.page == "https://example.org/terms"
    assert own.of("images.example.org:8080").requests_per_second == 100
    assert own.of("images.example.org:8080").bytes_per_day is None
    assert own.of("static.inaturalist.org:443").bytes_per_day == 24e9
    assert own.unused(["images.example.org:443", "api.inaturalist.org:443"]) == ["images.example.org:8080"]
    (tmp_path / "p.json").write_text(json.dumps({"a.org": {"connections": 3}}))
    assert policies(tmp_path / "p.json").of("a.org:80").connections == 3


def test_ports_of_a_name_are_one_host(tmp_path):
    own = policies(written(tmp_path, "a.org: {connections: 1}\nstatic.inaturalist.org:8080: {connections: 9}"))
    assert own.key("static.inaturalist.org:443") == own.key("static.inaturalist.org:80") == "static.inaturalist.org:*"
    assert own.key("static.inaturalist.org:8080") == "static.inaturalist.org:8080"
    assert own.key("a.org:80") == "a.org:*"
    assert own.key("b.org:80") == "b.org:80"
    assert own.of("a.org:*") == own.of("a.org:80")
    assert own.of("static.inaturalist.org:8080").connections == 4 + 5
    assert policies(apis=("api.gbif.org:443",)).of("api.gbif.org:80").requests_per_second == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.org: {rate: 3}", f"host 'a.org': there is no key 'rate', only {', '.join(NUMBERS)}"),
        ("a.org: {requests_per_day: many}", "host 'a.org': requests_per_day is 'many'; give a number above 0"),
        ("a.org: {requests_per_day: 0}", "host 'a.org': requests_per_day is 0; give a number above 0"),
        ("a.org: {requests_per_day: true}", "host 'a.org': requests_per_day is True; give a number"),
        ("a.org: {requests_per_second: .inf}", "host 'a.org': requests_per_second is inf; give a number"),
        ("a.org: {requests_per_second: 1.0e-9}", "nothing could be fetched; give at least"),
        ("a.org: {connections: 1.5}", "host 'a.org': connections is 1.5; give a whole number above 0"),
        ("a.org: {bytes_per_day: 24 gallons}", "bytes_per_day is '24 gallons'; give a size such as 24 GB above 0"),
        ("a.org: {bytes_per_day: 1.2.3 GB}", "bytes_per_day is '1.2.3 GB'; give a size such as 24 GB above 0"),
        ("a.org: {bytes_per_day: [1]}", "bytes_per_day is [1]; give a size"),
        ("a.org: {page: 3}", "host 'a.org': page is '3', not a text"),
        ("a.org: 3", "host 'a.org' has no keys"),
        ("a.org:", "host 'a.org' has no keys"),
        ("https://a.org/x: {connections: 1}", "host 'https://a.org/x' is no host: write a name such as"),
        ("'*.a.org': {connections: 1}", "host '*.a.org' is no host"),
        ("3: {connections: 1}", "host '3' is no host"),
        ("a.org: {connections: 1}\nA.org: {connections: 1}", "host 'A.org' stands twice"),
        ("a.org: {connections: 1}\na.org: {connections: 2}", "stands twice"),
        ("- a.org", "is empty or not a mapping"),
        ("a.org: {connections: 1", "is not valid YAML"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_host_and_key(tmp_path, text, sentence):
    file = written(tmp_path, text)
    with pytest.raises(ValueError) as error:
        policies(file)
    assert sentence in str(error.value)
    assert str(error.value).startswith(f"policy {file}")
    assert "\n" not in str(error.value)


def test_a_policy_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"policy .* cannot be read: .*No such file"):
        policies(tmp_path / "none.yaml")
