"""The page against the web: who may ask its server, and that nothing which a crawled page says runs script."""

import http.client
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fastlt.data_prep.catalog import Catalog
from support.catalogs import make_catalog
from support.crawling import jpeg

pytestmark = pytest.mark.medium

SCRIPT = "<img src=x onerror=document.title='ran'><script>document.title='ran'</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>document.title='ran'</script></svg>"


def ask(address: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict, bytes]:
    port = urlsplit(address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items():
        connection.putheader(name, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def test_only_the_page_itself_is_answered(served, judged):
    address = served(judged)
    home = urlsplit(address)
    path, origin = home.path, f"http://{home.netloc}"
    drop = json.dumps({"images": [1], "verdict": "drop"}).encode()
    good = {"Origin": origin, "Content-Type": "application/json"}

    assert ask(address, "GET", path, {})[0] == 200
    assert ask(address, "GET", f"{path}api/images", {})[0] == 200
    for wrong in (
        "/",
        "/api/images",
        "/x/api/images",
        path[:-1],
        path[:-2] + "x/",
        f"{path[:-1]}x/api/images",
        "//",
        "/%00/",
    ):
        assert ask(address, "GET", wrong, {})[0] == 404, wrong
    assert ask(address, "OPTIONS", "*", {})[0] == 404
    for host in (
        "evil.test",
        f"evil.test:{home.port}",
        f"127.0.0.1.evil.test:{home.port}",
        "",
        f"localhost.evil:{home.port}",
    ):
        assert ask(address, "GET", path, {"Host": host})[0] == 403, host
        assert ask(address, "GET", f"{path}api/overview", {"Host": host})[0] == 403, host
    assert ask(address, "GET", path, {"Host": f"localhost:{home.port}"})[0] == 200
    for other in ("cross-site", "same-site"):
        assert ask(address, "GET", f"{path}api/overview", {"Sec-Fetch-Site": other})[0] == 403
    for origins in (
        {},
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{home.port}"},
    ):
        assert ask(address, "POST", f"{path}api/decide", {"Content-Type": "text/plain"} | origins, drop)[0] == 403
    assert ask(address, "POST", f"{path}api/decide", good | {"Content-Length": "9000000000"})[0] == 413
    assert ask(address, "GET", f"{path}api/decide", {})[0] == 405
    with Catalog(judged) as catalog:
        assert catalog.images_by_hand() == {}
    assert ask(address, "POST", f"{path}api/decide", good, drop)[0] == 200
    with Catalog(judged) as catalog:
        assert catalog.images_by_hand() == {1: "drop"}


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"{", b"\xff", b"{}", b'{"images": ["1"], "verdict": "keep"}', b'{"images": [1], "verdict": "burn"}',
        b'{"images": [true], "verdict": "keep"}', b'{"category": 3, "verdict": "accept"}', b"[" * 100_000,
        b'{"category": "kite", "verdict": "move", "targets": [1]}', b'{"images": [1e400], "verdict": "keep"}',
    ],
)  # fmt: skip
def test_bodies_without_sense_are_one_sentence(served, judged, body):
    address = served(judged)
    home = urlsplit(address)
    headers = {"Origin": f"http://{home.netloc}", "Content-Type": "application/json"}
    status, _, answer = ask(address, "POST", f"{home.path}api/decide", headers, body)
    assert status == 400
    assert json.loads(answer)["error"]
    for words in ("after=x", "category=x", "order=far&after=1"):
        assert ask(address, "GET", f"{home.path}api/images?{words}", {})[0] == 400
    for number in ("9" * 20, "9" * 5000, "x"):
        assert ask(address, "GET", f"{home.path}image/{number}", {})[0] == 400


def test_it_listens_on_this_machine_alone(served, judged):
    port = urlsplit(served(judged)).port
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in [*others, "127.0.0.2"]:
        with pytest.raises(OSError), socket.create_connection((other, port), timeout=5):
            pass


def test_every_answer_forbids_foreign_script(served, judged):
    address = served(judged)
    path = urlsplit(address).path
    kinds = {"": "text/html", "main.js": "text/javascript", "review.css": "text/css", "image/1": "image/jpeg"}
    for name in [*kinds, "api/images", "nothing", "image/99", "target/0/hawk"]:
        _, headers, _ = ask(address, "GET", f"{path}{name}", {})
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == "'self'"
        assert rules["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "set-cookie" not in headers
        if name in kinds:
            assert headers["content-type"].split(";")[0] == kinds[name]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Everything that a crawled page may say is script, and one picture is an SVG."""
    path = tmp_path / "hostile.sqlite"
    make_catalog(path, [("kite", jpeg(1)), ("kite", SVG), ("gull", jpeg(2))], {"hawk": ["kite", "gull"]})
    with Catalog(path) as catalog, catalog.transaction():
        run = catalog.connection.execute
        run(
            "UPDATE candidate SET license = ?, attribution = ?, page = ?",
            [SCRIPT, SCRIPT, "javascript:document.title='ran'"],
        )
        run("UPDATE candidate SET page = ? WHERE id = 3", ["https://evil.test/'><script>document.title='ran'</script>"])
        run("UPDATE category SET title = ?, reason = ? WHERE id = 1", [SCRIPT, SCRIPT])
        run("UPDATE target SET title = ?", ["\u202e" + SCRIPT])
        run("UPDATE image SET reason = ?, state = 'dropped'", [SCRIPT])
        run("UPDATE image SET similarity = 0.5, nearest = 1")
    return path


def test_what_a_crawled_page_says_is_text(browser, served, hostile):
    address = served(hostile)
    context = browser.new_context()
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("article")
    page.locator("article").first.get_by_role("button", name="Reject").click()
    page.wait_for_selector("#said:not([hidden])")
    page.keyboard.press("m")
    page.wait_for_selector("dialog[open] .chip")
    page.keyboard.press("Escape")
    page.goto(address + f"#images?category=1&title={SCRIPT}")
    page.reload()
    page.wait_for_selector(".tile .missing")  # the SVG, which is no picture
    page.locator(".tile").first.click()
    assert page.locator("#about a").count() == 0  # javascript: leads nowhere
    assert SCRIPT in page.locator("#about").inner_text()
    page.goto(address + "#images")
    page.locator(".tile[data-id='3']").click()
    link = page.locator("#about a")
    assert link.get_attribute("href").startswith("https://evil.test/")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    page.wait_for_timeout(300)
    assert "ran" not in page.title()
    assert all(url.startswith(address) or url.endswith("/favicon.ico") for url in asked)
    # Nor would it run if something did put it into the page.
    blocked = page.evaluate(
        """async () => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
          const [script, image] = [document.createElement("script"), new Image()];
          try {
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
          } catch { found.push("typed"); }
          try { document.body.innerHTML += "<b>"; } catch { found.push("typed"); }
          image.src = "https://evil.test/x";
          await new Promise((resolve) => setTimeout(resolve, 500));
          return found;
        }"""
    )
    assert "img-src" in blocked
    assert "typed" in blocked
    assert "ran" not in page.title()
    context.close()


def test_another_site_in_the_same_browser_can_neither_read_nor_decide(browser, served, judged):
    address = served(judged)

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>evil</title>")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")  # even where it knows the token
    results = page.evaluate(
        """async ([address, body]) => {
          const results = [];
          const options = [{}, {mode: "no-cors"}, {method: "POST", body, mode: "no-cors"},
            {method: "POST", body, headers: {"content-type": "application/json"}}];
          for (const option of options) {
            const path = option.method ? "api/decide" : "api/overview";
            try {
              const answer = await fetch(address + path, option);
              results.push(`${answer.type} ${answer.status} ${(await answer.text()).length}`);
            } catch { results.push("failed"); }
          }
          const image = new Image();
          image.src = address + "image/1";
          results.push(await image.decode().then(() => "seen", () => "failed"));
          const frame = document.createElement("iframe");
          frame.src = address;
          document.body.append(frame);
          await new Promise((done) => { frame.onload = done; });
          try { results.push(frame.contentDocument ? "framed" : "failed"); } catch { results.push("failed"); }
          return results;
        }""",
        [address, json.dumps({"images": [1], "verdict": "drop"})],
    )
    assert set(results) == {"failed"}, results
    context.close()
    server.shutdown()
    with Catalog(judged) as catalog:
        assert catalog.images_by_hand() == {}


def test_a_name_that_is_led_to_this_machine_is_not_answered(browser, served, judged):
    """DNS rebinding, in a browser that believes it."""
    home = urlsplit(served(judged))
    page = browser.new_page()
    answer = page.goto(f"http://evil.test:{home.port}{home.path}")
    assert answer.status == 403
    assert page.inner_text("body") == "not from here"
    page.close()
