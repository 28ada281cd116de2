"""A log whose reader does not read: the server answers, reports and stops as ever."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import IO

import pytest

from tests.drive_server import DriveServer, environment, ready

REQUESTS = 500
"""They fill the pipe many times over: a line takes about 200 bytes."""


@pytest.fixture
def unread(drive_server: DriveServer) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose output goes to a pipe of one page that nobody reads."""
    command = drive_server.command()
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    try:
        while not ready(drive_server.port):
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(port: int, times: int) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        for _ in range(times):
            client.request("GET", "/health")
            answer = client.getresponse()
            answer.read()
            assert answer.status == 200


def test_a_pipe_that_nobody_reads_stops_no_request_and_no_stop(
    drive_server: DriveServer, unread: subprocess.Popen[bytes]
) -> None:
    ask(drive_server.port, REQUESTS)
    unread.send_signal(signal.SIGTERM)
    assert unread.wait(15) == 0


def test_a_reader_that_comes_back_gets_every_line(drive_server: DriveServer, unread: subprocess.Popen[bytes]) -> None:
    ask(drive_server.port, REQUESTS)
    unread.send_signal(signal.SIGTERM)
    output: IO[bytes] | None = unread.stdout
    assert output is not None
    lines = [json.loads(line) for line in output]
    assert unread.wait(15) == 0
    assert sum(line["event"] == "request" and line["path"] == "/health" for line in lines) == REQUESTS
    assert [line["event"] for line in lines][-1] == "stopped"


def test_a_mistake_at_the_start_ends_a_server_whose_output_nobody_reads(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["port"] = "eighty"
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        done = subprocess.run(drive_server.command(), env=environment(), stderr=writer, timeout=30, check=False)
        assert done.returncode == 2
    finally:
        os.close(reader)
        os.close(writer)
