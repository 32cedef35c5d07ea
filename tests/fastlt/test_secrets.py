"""What hides secrets knows the spellings that servers, web pages and URLs give them."""

import json
from urllib.parse import quote, quote_plus

import pytest

from fastlt.foreign import Secrets, passwords_of

SPELLINGS = {
    "as it is": str,
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret))[1:-1],
    "PHP's JSON": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "Go's JSON": lambda secret: json.dumps(secret)[1:-1].replace("&", "\\u0026").replace("<", "\\u003c"),
    "Python": ascii,
    "a web page": lambda secret: "".join(f"&#x{ord(c):X};" for c in secret),
    "a web page in ASCII": lambda secret: secret.encode("ascii", "xmlcharrefreplace").decode(),
    "a URL": quote,
    "a form": quote_plus,
    "a URL in a URL": lambda secret: quote(quote(secret, safe=""), safe=""),
    "a URL, every byte": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "secret",
    [
        "sk/abc&def<ghi",
        "p\u00e4ssw\u00f6rter",
        "sk abc~def",
        "a@b:cdefg!",
        "\U0001f600secret",
        "a\\\\b\\cdef",
        "u0075u0075",
    ],
)
def test_a_secret_is_hidden_however_it_is_spelled(secret, spelling):
    written = SPELLINGS[spelling](secret)
    assert Secrets([secret]).hide(f"[{written}]").strip("[]'\"\\") == "***"


def test_what_is_no_secret_stays():
    text = "sk-abc, sk_abcdef and sk-abcdeg"
    assert Secrets(["sk-abcdef"]).hide(text) == text


@pytest.mark.parametrize("text", ["\\" * 10**6, "%5c" * 10**6, "&#92;" * 10**5, "a" + "\\" * 10**6])
def test_long_runs_are_read_in_no_more_than_linear_time(text):
    """Minutes where each of them was begun anew."""
    assert Secrets(["\\" * 6 + "a", "ab\\\\cdef"]).hide(text) == text


def test_keys_in_the_query_of_a_url_are_secrets():
    assert "secret-key" in passwords_of("https://host/v1?api-version=2024-02-01&api-key=secret-key#top")
    assert "2024-02-01" not in passwords_of("https://host/v1?api-version=2024-02-01")
