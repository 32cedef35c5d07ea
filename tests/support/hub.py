"""A hub on loopback that speaks what huggingface_hub and timm ask of one: repositories, LFS, commits, files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Hub:
    """Keeps what is pushed, by those who have the token.

    Attributes:
        url: the endpoint.
        repositories: {(kind, name): {"private": bool, "files": {path: bytes}, "commits": [summary, ...]}}.
        asked: (method, path) of each request.
        says: what it answers to every request, with status 500, if anything; {} in it is the Authorization header.
    """

    def __init__(self, token: str) -> None:
        self.token, self.says = token, ""
        self.repositories: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self._large: dict[str, bytes] = {}

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                path = urlsplit(self.path).path
                hub.asked.append((self.command, path))
                status, content, headers = hub._answer(self.command, path, body, self.headers.get("Authorization", ""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, bytes, dict[str, str]]:
        if self.says:
            return 500, self.says.replace("{}", authorization).encode(), {}
        if path.startswith("/large/"):  # as on S3, where the address itself is the permission
            content_is = hashlib.sha256(body).hexdigest() == path.removeprefix("/large/")
            if content_is:
                self._large[path.removeprefix("/large/")] = body
            return (200 if content_is else 400), b"", {}
        parts = path.strip("/").split("/")
        if "resolve" in parts:
            return self._file(parts)
        if authorization != f"Bearer {self.token}":
            return 401, b'{"error": "Invalid username or password."}', {}
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type') or 'model'}s"
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.repositories[kind, name] = {"private": private, "files": {}, "commits": []}
            return self._json({"url": f"{self.url}/{kind}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [self._batch(what) for what in json.loads(body)["objects"]]
            return self._json({"transfer": "basic", "objects": objects})
        kind, name, rest = parts[1], "/".join(parts[2:4]), parts[4:]
        repository = self.repositories.get((kind, name))
        if repository is None:
            return 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
        if rest[:1] == ["preupload"]:
            files = [self._mode(file) for file in json.loads(body)["files"]]
            return self._json({"files": files})
        if rest[:1] == ["commit"]:
            where = f"{self.url}/{'datasets/' * (kind == 'datasets')}{name}"
            return self._commit(repository, where, body)
        return self._json({"id": name, "private": repository["private"], "sha": "a" * 40, "siblings": []})

    def _json(self, value: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = not file["path"].endswith((".json", ".md", ".py", ".csv", ".idx"))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = {"oid": asked["oid"], "size": asked["size"]}
        return (
            found
            if asked["oid"] in self._large
            else found | {"actions": {"upload": {"href": f"{self.url}/large/{asked['oid']}"}}}
        )

    def _commit(self, repository: dict[str, Any], where: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repository["commits"].append(value["summary"])
            elif entry["key"] == "file":
                assert value["encoding"] == "base64"
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository["files"][value["path"]] = self._large[value["oid"]]
        return self._json({"commitUrl": f"{where}/commit/{'b' * 40}", "commitOid": "b" * 40, "success": True})

    def _file(self, parts: list[str]) -> tuple[int, bytes, dict[str, str]]:
        at = parts.index("resolve")
        repository = self.repositories.get(("models", "/".join(parts[:at])), {"files": {}})
        content = repository["files"].get("/".join(parts[at + 2 :]))
        if content is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        etag = hashlib.sha256(content).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": "b" * 40}
