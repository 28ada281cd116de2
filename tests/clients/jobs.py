"""Clients of others as processes that ask us for work: Node.js, a page in Chromium, Python.

Each asks for its next job, runs it beside those that it runs already, and
sends back what came of it, all by HTTP.  One process runs all jobs of its
clients, because starting one costs more than an upload.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

_PATIENCE = 20.0
"""Seconds after which a worker without a job asks again."""

_TYPES = {".html": "text/html", ".js": "text/javascript"}


class JobFailed(Exception):
    """What the client said when it failed."""


class Jobs:
    """A list of jobs for each kind of worker, and the web server of *folder*, which has the page and its script."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        self._results: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._files: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        """The access token of each upload, for which its client asks before each request."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    async def run(self, worker: str, client: str, content: bytes, **job: Any) -> Any:
        """Have *worker* upload *content* with *client*.  Returns its result, raises :class:`JobFailed`."""
        number = next(self._numbers)
        result: Future[Any] = Future()
        self._results[number] = result
        self._files[str(number)] = content
        self._queue(worker).put({"number": number, "client": client, **job})
        try:
            return await asyncio.wrap_future(result)
        finally:
            del self._results[number], self._files[str(number)]

    def _queue(self, worker: str) -> queue.SimpleQueue[dict[str, Any]]:
        return self._waiting.setdefault(worker, queue.SimpleQueue())

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        _, kind, name = [*unquote(path).split("/", 2), ""][:3]
        if kind == "next":
            try:
                return 200, "application/json", json.dumps(self._queue(name).get(timeout=_PATIENCE)).encode()
            except queue.Empty:
                return 204, "text/plain", b""
        if kind == "content" and name in self._files:
            return 200, "application/octet-stream", self._files[name]
        if kind == "token":
            return 200, "text/plain", self.tokens[name].encode()
        file = self._folder / (kind or "page.html")
        if file.suffix in _TYPES and file.is_file():
            return 200, _TYPES[file.suffix], file.read_bytes()
        return 404, "text/plain", b""

    def _finish(self, number: int, outcome: dict[str, Any]) -> None:
        result = self._results.get(number)
        if result is None or result.done():
            return  # the test has ended without it
        if "error" in outcome:
            result.set_exception(JobFailed(outcome["error"]))
        else:
            result.set_result(outcome.get("result"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        jobs = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(*jobs._answer(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                jobs._finish(int(self.path.rpartition("/")[2]), json.loads(body))
                self._send(204, "text/plain", b"")

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(ConnectionError):  # the browser was closed while it asked for its next job
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
