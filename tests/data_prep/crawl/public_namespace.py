"""Run as root in network and mount namespaces of its own, where a public address and a name server are ours.

Crawls as a user would, without --allow-private, and prints as JSON what became of each URL and which addresses were
asked for what.
"""

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from support.crawling import jpeg, outcomes, write_list
from support.web import Answer, Web

PUBLIC = "93.184.216.34"  # an address of the public internet, here on the loopback interface
lookups: Counter[str] = Counter()


def address_of(name: str) -> str:
    """rebind.test is public when it is looked up first, and private ever after."""
    lookups[name] += 1
    first = lookups[name] == 1
    return {"rebind.test": PUBLIC if first else "127.0.0.1", "inside.test": "127.0.0.1"}.get(name, PUBLIC)


def serve_names() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        wants_ipv4 = question[-4:-2] == b"\0\1"
        head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if wants_ipv4 else b"\0\0") + b"\0\0\0\0"
        answer = b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton(address_of(".".join(labels)))
        server.sendto(head + question + answer * wants_ipv4, client)


def crawl(folder: Path, number: int, urls: list[str]) -> dict[str, str]:
    catalog = folder / f"{number}.sqlite"
    rows = write_list(folder / f"{number}.csv", [(url, "a", "", "") for url in urls])
    fastlt = str(Path(sys.executable).with_name("fastlt"))
    words = [fastlt, "crawl", str(catalog), "--contact", "test@example.org", "--rate", "0", "--urls", str(rows)]
    subprocess.run(words, capture_output=True, timeout=60)
    return outcomes(catalog)


def main(folder: Path) -> None:
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{PUBLIC}/32", "dev", "lo"],
        ["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"],
    ):
        subprocess.run(command, check=True)
    threading.Thread(target=serve_names, daemon=True).start()
    redirects: dict[str, str] = {}

    def answer(host: str, path: str) -> Answer | None:
        if path == "/robots.txt":
            return None
        if path in redirects:
            return Answer(status=302, headers={"Location": redirects[path]})
        return Answer(jpeg(hash(path) % 1000))

    with Web(answer, [PUBLIC, "127.0.0.1"]) as web:
        port = web.hosts[0].split(":")[1]
        inside = {
            "literal": "127.0.0.1",
            "decimal": "2130706433",
            "mapped": "[::ffff:127.0.0.1]",
            "name": "inside.test",
        }
        redirects |= {f"/{kind}.jpg": f"http://{host}:{port}/secret.jpg" for kind, host in inside.items()}
        found = crawl(folder, 1, [f"http://rebind.test:{port}/first.jpg", f"http://outside.test:{port}/plain.jpg"])
        found |= crawl(folder, 2, [f"http://rebind.test:{port}/second.jpg"])
        found |= crawl(folder, 3, [f"http://outside.test:{port}{path}" for path in redirects])
        print(json.dumps({"found": found, "asked": [" ".join(pair) for pair in web.asked], "lookups": lookups}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
