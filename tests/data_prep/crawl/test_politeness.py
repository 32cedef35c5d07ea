"""What servers ask for in headers."""

from fastlt.data_prep.retry_after import retry_after


def test_retry_after():
    """Milliseconds, seconds, dates; nonsense and the past are no wish."""
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "Fri, 31 Dec 2999 23:59:59 GMT"}) > 1e9
    for nonsense in (
        {},
        {"retry-after": "soon"},
        {"retry-after": "-1"},
        {"retry-after": "inf"},
        {"retry-after": "nan"},
    ):
        assert retry_after(nonsense) is None
    assert retry_after({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}) is None


def test_a_date_counts_from_the_servers_own_clock():
    """Ours may be set to anything."""
    headers = {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Fri, 31 Dec 1999 23:59:29 GMT"}
    assert retry_after(headers) == 30
