"""A client of tus that costs little: files go from the disk to the socket by sendfile."""

from __future__ import annotations

import base64
import os
import select
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_HEAD = 65_536
_PIECE = 2 << 20


class RefusedError(Exception):
    """The server answered with an error."""


class OverloadedError(RefusedError):
    """The server has no memory for the request now."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(what)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """An answer: its status, and its headers by their names in lower case."""

    status: int
    headers: dict[str, str]


@dataclass
class TusClient:
    """One connection to the server of *url*, where uploads are created."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._connect()
        return self

    def _connect(self) -> None:
        parts = urlsplit(self.url)
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=120)
        self._socket.settimeout(None)  # os.sendfile must block
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # BBR, the default of some machines, paces on loopback too, which costs both the client and the server time.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._socket.close()

    def create(self, name: str, size: int) -> str:
        """Create an upload and return the path of its URL."""
        metadata = f"filename {base64.b64encode(name.encode()).decode()}"
        answer = self._ask("POST", urlsplit(self.url).path, {"Upload-Length": str(size), "Upload-Metadata": metadata})
        return urlsplit(answer.headers["location"]).path

    def offset(self, path: str) -> int:
        """Where the upload stands."""
        return int(self._ask("HEAD", path, {}).headers["upload-offset"])

    def send(self, path: str, file: int, start: int, end: int) -> int:
        """Append the bytes of the open *file* from *start* to before *end*, and return the offset."""
        headers = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(start)}
        return int(self._ask("PATCH", path, headers, (file, start, end)).headers["upload-offset"])

    def put(self, path: str, headers: dict[str, str], file: int, size: int) -> None:
        """Send the whole file in one PUT."""
        self._ask("PUT", path, headers, (file, 0, size))

    def _ask(self, method: str, path: str, headers: dict[str, str], body: tuple[int, int, int] | None = None) -> Answer:
        length = 0 if body is None else body[2] - body[1]
        sent = {"Host": self._host, "Tus-Resumable": "1.0.0", "Content-Length": str(length), **self.headers, **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        self._socket.sendall("\r\n".join(lines).encode())
        if body is not None:
            file, start, end = body
            while start < end and not select.select([self._socket], [], [], 0)[0]:  # an early answer refuses the rest
                start += os.sendfile(self._socket.fileno(), file, start, min(end - start, _PIECE))
        answer = self._answer(method)
        if answer.headers.get("connection") == "close":
            self._socket.close()
            self._connect()
        if answer.status == 503:
            raise OverloadedError(f"{method} {path}", float(answer.headers["retry-after"]))
        if answer.status >= 300:
            raise RefusedError(f"{method} {path}: {answer.status}")
        return answer

    def _answer(self, method: str) -> Answer:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._socket.recv(_HEAD)
            if not piece:
                raise ConnectionError("The server closed the connection.")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        missing = 0 if method == "HEAD" else int(headers.get("content-length", "0")) - len(rest)
        while missing > 0:
            missing -= len(self._socket.recv(missing))
        return Answer(int(first.split()[1]), headers)
