"""Web servers on this machine, for tests of downloads and uploads."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

TOKEN = "hf_SecretOfTheTests"


class Server(HTTPServer):
    """Serves `files` by name; breaks every answer off after `break_after` bytes, and knows ranges where `ranges`.

    `asked`: the name and the range of every request so far.
    """

    break_after: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[Server]:
    """A server that runs inside the block."""
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, asked = self.path.strip("/"), self.headers.get("Range")
        self.server.asked.append((name, asked))
        if name not in self.server.files:
            return self.send_error(404)
        content = self.server.files[name]
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if begin >= len(content):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:][: self.server.break_after])
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class FakeHub(HTTPServer):
    """What an upload needs of the Hugging Face hub (`whoami`, `create_repo` and `create_commit` of huggingface_hub).

    `refuses`: path -> the status of its answers. `files`: what was committed. `asked`: (path, body, authorization).
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.refuses: dict[str, int] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, bytes, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _HubHandler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        self._answer({"name": "me"} if self.path == "/api/whoami-v2" else None)

    def do_POST(self) -> None:
        path, hub = self.path, self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.asked.append((path, body, self.headers.get("Authorization")))
        if path == "/api/repos/create":
            self._answer({"url": f"{hub.address}/me/small"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            wanted = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in wanted]})
        elif path.endswith("/commit/main"):
            if path not in hub.refuses:
                entries = [entry["value"] for entry in map(json.loads, body.splitlines()) if entry["key"] == "file"]
                hub.files |= {entry["path"]: base64.b64decode(entry["content"]) for entry in entries}
            self._answer({"commitUrl": f"{hub.address}/me/small/commit/{'a' * 40}", "commitOid": "a" * 40})
        else:
            self._answer(None)

    def _answer(self, values: object) -> None:
        status = self.server.refuses.get(self.path, 404 if values is None else 200)
        body = json.dumps(values if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serve_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake hub that runs inside the block; huggingface_hub takes it for the real one, and has a token."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with FakeHub() as running:
        threading.Thread(target=partial(running.serve_forever, poll_interval=0.05), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/no/token")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running
        running.shutdown()
