"""What hosts were asked for, in the catalog: any hour and any day, and a clock that jumps."""

import json
import time

import pytest

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.crawl.budgets import SLOT, USUAL_BYTES, Clock, Ledger, NoRoomError
from fastlt.data_prep.crawl.host_limits import DAY, HOUR, HostLimits
from fastlt.data_prep.crawl.since_boot import steady

HOST = "a.org:80"


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "c.sqlite", create=True) as made:
        yield made


def ask(account, num_bytes: int = 0) -> None:
    transfer = account.begin()
    transfer.take(num_bytes)
    transfer.is_image = num_bytes > 0
    transfer.end()


def test_any_day_not_a_calendars(catalog):
    """What was asked counts for a day, and room comes back as it was taken."""
    ledger, limits = Ledger(catalog), HostLimits(requests_per_day=10)
    now = ledger.slot()
    day = DAY // SLOT
    catalog.add_used([(HOST, now - day - 1, 100, 0), (HOST, now - day + 2, 4, 0), (HOST, now - 1, 5, 0)])
    account = ledger.account(HOST, limits)
    assert account.wait() is None
    ask(account)
    wait = account.wait()
    assert wait.limit == "10 requests a day"
    assert wait.is_sure
    assert 2 * SLOT < wait.seconds <= 3 * SLOT
    assert [row[1] for row in catalog.used(HOST)][-1] == 1  # written down at once
    assert ledger.account("b.org:80", limits).wait() is None


def test_bytes_of_an_hour_are_never_more(catalog):
    account = Ledger(catalog).account(HOST, HostLimits(bytes_per_hour=10_000, bytes_per_day=1e6))
    first = account.begin()  # of a size that nobody knows: alone
    assert not account.wait().is_sure
    first.announce(3000)
    first.take(3000)
    first.is_image = True
    first.end()
    two, three = account.begin(), account.begin()
    assert account.wait().limit == "10 KB an hour"
    with pytest.raises(NoRoomError) as error:
        two.announce(5000)
    assert not error.value.for_good
    two.end()
    three.take(3000)
    three.end()
    assert sum(row[2] for row in catalog.used(HOST)) == 3000 + 5000 + 3000  # what was refused had come, perhaps
    wait = account.wait()
    assert wait.is_sure
    assert HOUR < wait.seconds <= HOUR + SLOT
    assert HOUR < account.seconds_for(10, 10_000) <= 2 * HOUR


def test_a_body_without_a_length_ends_where_the_room_does(catalog):
    account = Ledger(catalog).account(HOST, HostLimits(bytes_per_hour=10_000))
    ask(account, 4000)
    transfer = account.begin()
    for _ in range(6):
        transfer.take(1000)
    with pytest.raises(NoRoomError) as error:
        transfer.take(1000)
    assert not error.value.for_good
    transfer.end()
    with pytest.raises(NoRoomError) as error:
        Ledger(catalog).account("b.org:80", HostLimits(bytes_per_day=10_000)).begin().announce(20_000)
    assert error.value.for_good


def test_hosts_without_such_limits_are_counted_with_the_outcomes(catalog):
    ledger = Ledger(catalog)
    for _ in range(3):
        ask(ledger.account(HOST, HostLimits(requests_per_second=1)), 10)
    assert catalog.used(HOST) == []
    ledger.flush()
    assert [row[1:] for row in catalog.used(HOST)] == [(3, 30)]
    assert catalog.used_by_host() == {HOST: (3, 30)}


def test_how_long_limits_make_it(catalog):
    ledger = Ledger(catalog)
    account = ledger.account(HOST, HostLimits(requests_per_second=1, requests_per_day=10_000))
    assert account.seconds_for(5_000, 0) == 5_000
    assert account.seconds_for(10_001, 0) == pytest.approx(DAY + 1)
    assert account.seconds_for(24_000, 0) == pytest.approx(2 * DAY + 4_000)
    assert (
        ledger.account(HOST, HostLimits(requests_per_second=0.1, requests_per_day=10_000)).seconds_for(30_000, 0) == 3e5
    )
    media = HostLimits(requests_per_second=10, bytes_per_hour=5e9, bytes_per_day=24e9)
    days = ledger.account(HOST, media).seconds_for(1_000_000, 1_000_000 * USUAL_BYTES) / DAY
    assert 6 < days < 7.3


def test_a_plan_of_an_api_that_has_given_its_bytes(catalog):
    """Of an API it is planned how many requests there are, not how many bytes."""
    ask(Ledger(catalog).account(HOST, HostLimits(bytes_per_day=2_000)), 2_000)
    account = Ledger(catalog).account(HOST, HostLimits(requests_per_second=2, bytes_per_day=1_000))
    assert account.seconds_for(10, 0) == 5


def clock_before(catalog, **changes) -> None:
    before = json.loads(catalog.setting("clock")) | changes
    catalog.remember("clock", json.dumps(before))


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_was_set_since_is_not_asked(catalog, years):
    """The machine has run on: what passed is what its steady clock says, and the budget is neither free nor gone."""
    then = time.time() - years * 365 * DAY  # what the clock said before it was set
    Clock(catalog)
    clock_before(catalog, steady=steady() - HOUR, time=then)
    assert Clock(catalog).now() == pytest.approx(then + HOUR, abs=5)
    slot = int(then // SLOT)
    catalog.add_used([(HOST, slot, 10, 0)])
    wait = Ledger(catalog).account(HOST, HostLimits(requests_per_day=10)).wait()
    assert DAY - HOUR - SLOT < wait.seconds < DAY - HOUR + 2 * SLOT


def test_after_a_new_start_a_clock_that_is_behind_costs_a_day_at_most(catalog):
    Clock(catalog)
    clock_before(catalog, boot="another", time=time.time() + 30 * 365 * DAY)
    assert Clock(catalog).now() == pytest.approx(time.time(), abs=5)
    clock_before(catalog, boot="another")
    ahead = int(time.time() // SLOT) + 10**6  # nineteen years
    catalog.add_used([(HOST, ahead, 6, 0), (HOST, ahead + 1, 4, 0)])
    for _ in range(2):  # once and for all: it is not now anew in every run
        ledger = Ledger(catalog)
        account = ledger.account(HOST, HostLimits(requests_per_day=10))
        assert DAY < account.wait().seconds <= DAY + SLOT
    assert [(ledger.slot() - row[0] < 2, row[1]) for row in catalog.used(HOST)] == [(True, 10)]


@pytest.mark.parametrize(
    "odd", [{"steady": "x"}, {"time": 1e300}, {"time": None}, {"steady": -1.0}, {"steady": 1e10}, {"boot": 3}]
)
def test_a_clock_that_nobody_wrote_is_not_believed(catalog, odd):
    Clock(catalog)
    clock_before(catalog, **{"time": 5.0} | odd)
    assert Clock(catalog).now() == pytest.approx(time.time(), abs=5)


def test_counts_that_nobody_wrote_free_nothing(catalog):
    ledger = Ledger(catalog)
    catalog.add_used([(HOST, ledger.slot(), -(10**6), -(10**6)), (HOST, ledger.slot() - 1, 10, 0)])
    assert ledger.account(HOST, HostLimits(requests_per_day=10)).wait() is not None
