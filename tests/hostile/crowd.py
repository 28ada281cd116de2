"""Clients that hold connections and what they make the server keep.  Each kind prints what it tried."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from typing import Any

from tests.drive_server import DriveServer

REQUEST = b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
JSON_LENGTH = 1_048_576
PUT_LENGTH = 300_000
ROWS = 1000
_LOOKS = 10
"""A server with work is seen running, or waiting for a processor, in one of so many looks."""


class User:
    """One account, over one connection that is kept."""

    def __init__(self, port: int, email: str) -> None:
        self.port = port
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self.token = ""
        account = {"email": email, "password": "correct horse"}
        self("POST", "/v1/signup", account)
        self.token = self("POST", "/v1/login", account)["token"]

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request; its answer, which must be a success."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, body=data, headers=headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status < 300 or answer.status == 409, (method, path, answer.status, content)
        return json.loads(content)

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def begin_upload(self, name: str, size: int) -> str:
        """Announce an upload; the path and query of its URL."""
        intent = self("POST", "/v1/files/upload-intent", {"filename": name, "size_bytes": size})
        url: str = intent["upload_url"]
        return "/" + url.split("/", 3)[3]

    def add_files(self, count: int) -> None:
        """Have that many empty files, so that a list is long: one and copies of it, which one request makes."""
        names = [f"{number:04}-{'n' * 60}.txt" for number in range(count)]
        first = self("POST", f"/v1/files?name={names[0]}")
        copies = [{"op": "copy", "id": first["id"], "name": name} for name in names[1:]]
        self("POST", "/v1/batch", {"operations": copies})


class Crowd:
    """Connections that are opened and never finish what they began."""

    def __init__(self, port: int, user: User) -> None:
        self._port = port
        self._user = user
        self._sockets: list[socket.socket] = []
        self.refused = 0

    def __len__(self) -> int:
        return len(self._sockets)

    def close(self) -> None:
        """Hang up."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def open(self, kind: str, count: int) -> None:
        """Open *count* connections of one *kind* (a method of this class)."""
        begun, refused = time.monotonic(), self.refused
        payload: Callable[[int], bytes] = getattr(self, kind)
        for number in range(count):
            self._send(payload(number), unread=kind == "unread_answer")
        print(
            f"{kind}: {count} connections, {self.refused - refused} refused, {time.monotonic() - begun:.1f} s",
            flush=True,
        )

    def idle(self, _number: int) -> bytes:
        """Nothing at all."""
        return b""

    def head_8k(self, _number: int) -> bytes:
        """8 KiB of a header that does not end."""
        return b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 8192

    def head_60k(self, _number: int) -> bytes:
        """60 KiB of headers that do not end."""
        return b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: %s\r\n" % (n, b"x" * 15_360) for n in range(4))

    def stalled_body(self, number: int) -> bytes:
        """All of a body but its last byte: JSON of a stranger, JSON of a user, an upload, in turn."""
        token = self._user.token.encode()
        if number % 3 == 0:
            return REQUEST % (b"/v1/login", b"", 32_768) + b" " * 32_767
        if number % 3 == 1:
            return REQUEST % (b"/v1/files/upload-intent", token, JSON_LENGTH) + b" " * (JSON_LENGTH - 1)
        return self.stalled_put(number, PUT_LENGTH)

    def stalled_put(self, number: int, length: int = 2_000_000) -> bytes:
        """An upload but for its last byte."""
        path = self._user.begin_upload(f"stalled-{length}-{number}", length).encode()
        return (REQUEST % (path, b"", length)).replace(b"POST", b"PUT") + b"x" * (length - 1)

    def stalled_store(self, number: int, length: int = 2_000_000) -> bytes:
        """An upload in one request but for its last byte."""
        target = f"/v1/files?name=stored-{number}".encode()
        return REQUEST % (target, self._user.token.encode(), length) + b"x" * (length - 1)

    def stalled_json(self, _number: int) -> bytes:
        """1 MiB of JSON but for its last byte."""
        token = self._user.token.encode()
        return REQUEST % (b"/v1/files/upload-intent", token, JSON_LENGTH) + b" " * (JSON_LENGTH - 1)

    def unread_answer(self, _number: int) -> bytes:
        """A long list that nobody reads."""
        token = self._user.token.encode()
        return b"GET /v1/files?limit=%d HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (ROWS, token)

    def pipelined_heads(self, number: int) -> bytes:
        """An answer that nobody reads, and more requests with large headers behind it."""
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 15_000 + b"\r\n\r\n"
        return self.unread_answer(number) + head * 32

    def kept_head(self, _number: int) -> bytes:
        """A whole request with 60 KiB of headers: aiohttp keeps it while the connection is idle."""
        return self.head_60k(0) + b"\r\n"

    def wait_until_served(self, server: DriveServer) -> None:
        """Return once the server has done all that it was asked: each of its threads sleeps whenever one looks."""
        deadline, asleep = time.monotonic() + 120, 0
        while asleep < _LOOKS:
            assert time.monotonic() < deadline, "The server does not come to rest."
            asleep = asleep + 1 if server.is_asleep() else 0
            time.sleep(0.01)

    def _send(self, payload: bytes, *, unread: bool) -> None:
        client = socket.socket()
        client.settimeout(10)
        if unread:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            client.connect(("127.0.0.1", self._port))
            client.settimeout(0.5)  # a server that reads no more is as good as one that refuses
            client.sendall(payload)
        except OSError:
            self.refused += 1
            client.close()
            return
        self._sockets.append(client)

    def are_open(self) -> int:
        """How many the server has not closed."""
        still = 0
        for each in self._sockets:
            each.setblocking(False)
            with suppress(OSError):
                try:
                    still += bool(each.recv(1, socket.MSG_PEEK))
                except BlockingIOError:
                    still += 1
        return still


@contextmanager
def crowd(port: int, user: User) -> Iterator[Crowd]:
    """A crowd that leaves at the end."""
    found = Crowd(port, user)
    try:
        yield found
    finally:
        found.close()
