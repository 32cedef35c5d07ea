"""The page's server, on this machine alone."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fastlt.data_prep.review.desk import Desk
from fastlt.data_prep.review.guard import Guard
from fastlt.foreign import parse_json
from fastlt.messages import one_line

_FILES = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_AGE = {"cache-control": "private, max-age=86400"}


def serve(desk: Desk, port: int) -> None:
    """Answers until it is stopped; prints the address, which whoever is to see the page needs.

    Raises:
        ValueError: the port is in use.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)  # who reads the address may ask at once
    except OSError as error:
        listener.close()
        raise ValueError(f"port {port} cannot be used: {error.strerror}; --port 0 takes one that is free.") from None
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        Guard(application(desk), token),
        log_level="warning",
        access_log=False,  # it would show the token
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/\nCtrl-C ends it.", flush=True)
    threading.Thread(
        target=_quietly(desk.overview), daemon=True
    ).start()  # or the first page would wait for the columns
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        if desk.is_writing():  # for up to a minute; SQLite leaves all of it or nothing
            print("a decision that waited for others who write was given up", file=sys.stderr, flush=True)
            os._exit(130)


def application(desk: Desk) -> Starlette:
    """What is behind the guard."""

    def answer(asked: Callable[[Request], Any]) -> Callable[[Request], Response]:
        """A route that gives JSON, or in one sentence why it cannot."""

        def respond(request: Request) -> Response:
            return _answer(lambda: asked(request))

        return respond

    def change(asked: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        """The same for what is sent, and changes something."""

        async def respond(request: Request) -> Response:
            content = await request.body()
            return await run_in_threadpool(_answer, lambda: asked(_object(content)))

        return respond

    def picture(request: Request) -> Response:
        return _answer(lambda: desk.picture(int(request.path_params["image"])), _picture)

    def target_picture(request: Request) -> Response:
        name, number = request.path_params["name"], request.path_params["number"]
        return _answer(lambda: desk.target_picture(name, int(number)), _picture)

    gets: dict[str, Callable[[Request], Response]] = {
        "/api/overview": answer(lambda request: desk.overview(fresh="fresh" in request.query_params)),
        "/api/images": answer(lambda request: desk.images(dict(request.query_params))),
        "/api/categories": answer(lambda request: desk.categories(dict(request.query_params))),
        "/api/targets": answer(lambda request: desk.targets(request.query_params.get("text", ""))),
        "/image/{image}": picture,
        "/target/{number}/{name:path}": target_picture,
    }
    posts = {
        "/api/decide": change(desk.decide),
        "/api/undo": change(lambda body: desk.undo(body.get("batch"))),
        "/api/thresholds": change(lambda body: desk.set_thresholds(body.get("gamma1"), body.get("gamma2"))),
    }
    files = [Route(f"/{file.name}", _file(file)) for file in sorted(_FILES.iterdir()) if file.suffix in _KINDS]
    return Starlette(
        routes=[
            Route("/", _file(_FILES / "index.html")),
            *files,
            *(Route(path, endpoint) for path, endpoint in gets.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
        ]
    )


def _file(path: Path) -> Callable[[Request], Response]:
    content, kind = path.read_bytes(), _KINDS[path.suffix]
    return lambda request: Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def _json(found: Any) -> Response:
    return JSONResponse(found, headers={"cache-control": "no-store"})


def _answer(asked: Callable[[], Any], shown: Callable[[Any], Response] = _json) -> Response:
    try:
        return shown(asked())
    except sqlite3.OperationalError as error:
        said, status = f"the catalog cannot be used now: {one_line(error, 200)}. Try again in a while.", 503
    except sqlite3.DatabaseError as error:
        said, status = f"the catalog cannot be used: {one_line(error, 200)}.", 500
    except (ValueError, OverflowError) as error:
        said, status = one_line(error, 1000), 400
    return JSONResponse({"error": said}, status)


def _object(content: bytes) -> dict[str, Any]:
    found = parse_json(content)
    if not isinstance(found, dict):
        raise ValueError("that is no decision.")
    return found


def _picture(content: bytes | None) -> Response:
    if content is None:
        return Response(status_code=404)
    return Response(content, media_type="image/jpeg", headers=_AGE)


def _quietly(load: Callable[[], object]) -> Callable[[], None]:
    """Fails where the page will fail, too, and says so there."""

    def run() -> None:
        try:
            load()
        except (ValueError, sqlite3.DatabaseError):
            return

    return run
