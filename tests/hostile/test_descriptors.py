"""A process that may open few files: neither uploads nor downloads are reset for want of a descriptor."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest

from tests.drive_server import DriveServer
from tests.hostile.crowd import User

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SIZE = 6_000_000
TRANSFERS = 40
"""Of each kind at once.  With 256 descriptors there may be 70 connections, so some clients connect again."""


def request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request on a connection of its own, again while the server has no room for connections."""
    for _ in range(200):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, TimeoutError):
            if connection.sock is not None and body is None:
                continue
        finally:
            connection.close()
    raise TimeoutError(path)


def test_with_256_descriptors_transfers_of_many_are_whole_while_others_stall() -> None:
    few = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")
    content = os.urandom(SIZE)
    with DriveServer(prefix=few) as server, User(server.port, "ann@example.org") as ann, ExitStack() as stalled:
        path = ann.begin_upload("shared.bin", SIZE)
        assert request(server.port, "PUT", path, content)[0] == 201
        file = ann("GET", "/v1/files")["files"][0]["id"]
        url = "/" + ann("GET", f"/v1/files/{file}/download")["url"].split("/", 3)[3]
        for _ in range(20):  # downloads that nobody reads
            client = stalled.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        uploads = [ann.begin_upload(f"{number}.bin", SIZE) for number in range(TRANSFERS)]
        with ThreadPoolExecutor(2 * 15) as threads:  # with those that stall, fewer than there may be connections
            sent = [threads.submit(request, server.port, "PUT", upload, content) for upload in uploads]
            read = [threads.submit(request, server.port, "GET", url) for _ in range(TRANSFERS)]
            statuses = [each.result()[0] for each in sent]
            contents = [each.result() for each in read]
        print(f"{len(statuses)} uploads and {len(contents)} downloads of {SIZE} bytes beside 20 that stall")
        assert statuses == [201] * TRANSFERS
        assert all(answer == (200, content) for answer in contents)
        assert '"level":"error"' not in server.log
