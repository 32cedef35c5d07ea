"""The demo's little web, on loopback: a language model that knows the drawn species, and a site with their pictures.

The model speaks the chat-completions protocol, the site Openverse's API. Both are as bad as real ones: the model names
targets, too, and among the pictures are noise, copies, broken files, and a validation image.

`python -m fastlt.demo.world SPECIES FILE` serves them until it is stopped, for commands typed by hand; a shell that
reads FILE (`source FILE`) has their addresses as LLM_URL and OPENVERSE_URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

from fastlt.atomic import write_text

_NOISE, _COPIES, _BROKEN = 5, 3, 3  # of each species


class DemoWorld:
    """Serves while it is used as a context manager.

    Args:
        species: what `draw_dataset` wrote.

    Attributes:
        llm_url, openverse_url: where `fastlt discover` and `fastlt crawl` find them.
    """

    def __init__(self, species: Path) -> None:
        self._neighbors: dict[str, list[str]] = json.loads((species / "neighbors.json").read_text())
        self._files: dict[str, bytes] = {}
        self._pictures: dict[str, list[str]] = {}  # of each title, names of files
        rng = np.random.default_rng(0)
        for folder in sorted((species / "auxiliary").iterdir()):
            pictures = [path.read_bytes() for path in sorted(folder.iterdir())]
            relative = next(target for target, names in self._neighbors.items() if folder.name in names)
            pictures.append(min((species / "val" / relative).iterdir()).read_bytes())
            for _ in range(_NOISE):
                pictures.append(_jpeg(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)))
            pictures += pictures[:_COPIES]
            pictures += [b"<html>This picture is no longer here.</html>", *(p[:400] for p in pictures[: _BROKEN - 1])]
            title = folder.name.replace("_", " ")
            self._pictures[title] = [f"{folder.name}-{i}.jpg" for i in range(len(pictures))]
            self._files |= dict(zip(self._pictures[title], pictures, strict=True))

    def __enter__(self) -> DemoWorld:
        started = threading.Event()

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            site = web.Application()
            site.router.add_post("/v1/chat/completions", self._complete)
            site.router.add_get("/openverse/images/", self._search)
            site.router.add_get("/pictures/{name}", self._picture)
            runner = web.AppRunner(site, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._host = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await self._stop.wait()
            await runner.cleanup()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        if not started.wait(30):
            raise OSError("the demo's web site does not start.")
        self.llm_url, self.openverse_url = f"{self._host}/v1", f"{self._host}/openverse"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _complete(self, request: web.Request) -> web.Response:
        question = (await request.json())["messages"][-1]["content"]
        title = re.search(r"Target class: (.+)", question)
        names = self._neighbors.get(title[1].replace(" ", "_"), []) if title else []
        answer = [name.replace("_", " ") for name in names]
        if title and title[1].endswith("species0"):
            answer = [title[1].replace("species0", "species1"), *answer]
        message = {"role": "assistant", "content": json.dumps({"categories": answer})}
        return web.json_response(
            {
                "id": "demo",
                "object": "chat.completion",
                "created": 0,
                "model": "demo",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": len(question) // 4, "completion_tokens": 20, "total_tokens": 0},
            }
        )

    async def _search(self, request: web.Request) -> web.Response:
        query = request.query
        names = self._pictures.get(query["q"].strip('"'), [])
        page, size = int(query["page"]), int(query["page_size"])
        results = [
            {
                "url": f"{self._host}/pictures/{name}",
                "foreign_landing_url": f"{self._host}/pages/{name}",
                "license": "by",
                "license_version": "4.0",
                "attribution": f"{name} by fastlt's demo is licensed under CC BY 4.0.",
                "filetype": "jpg",
            }
            for name in names[(page - 1) * size : page * size]
        ]
        pages = -(-len(names) // size)
        return web.json_response({"result_count": len(names), "page_count": pages, "page": page, "results": results})

    async def _picture(self, request: web.Request) -> web.Response:
        content = self._files.get(request.match_info["name"])
        return web.Response(status=404) if content is None else web.Response(body=content, content_type="image/jpeg")


def _jpeg(coarse: np.ndarray) -> bytes:
    """Blurred color, of the size of the drawn pictures."""
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _serve(species: Path, addresses: Path) -> None:
    """Serves until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with DemoWorld(species) as world, contextlib.suppress(KeyboardInterrupt):
        write_text(addresses, f"export LLM_URL={world.llm_url} OPENVERSE_URL={world.openverse_url}\n")
        while True:
            signal.pause()


if __name__ == "__main__":
    if len(sys.argv) != 3 or not (Path(sys.argv[1]) / "neighbors.json").is_file():
        sys.exit("usage: python -m fastlt.demo.world SPECIES FILE, where SPECIES is what `fastlt draw` has made")
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
