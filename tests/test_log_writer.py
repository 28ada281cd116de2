"""A log whose reader is slow, gone or full: writers never wait, and every lost line is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from godrive.log_writer import LogWriter

BUFFER = 100_000


def notice(lost: int) -> bytes:
    return f"lost {lost}\n".encode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_lines(reader: int, writer: LogWriter) -> list[bytes]:
    """All that the writer has for its reader."""
    pieces: list[bytes] = []
    done = threading.Thread(target=lambda: (writer.drain(30.0), os.write(writer._fd, b"end\n")))
    done.start()
    while not b"".join(pieces[-2:]).endswith(b"end\n"):
        pieces.append(os.read(reader, 65_536))
    done.join()
    return b"".join(pieces).splitlines()[:-1]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads_holds_up_nobody_and_each_lost_line_is_told(
    pipe: tuple[int, int], blocking: bool
) -> None:
    reader, fd = pipe
    os.set_blocking(fd, blocking)
    writer = LogWriter(fd, notice=notice, buffer=BUFFER)
    for number in range(20_000):
        writer.write(b"line %d\n" % number)
    assert not writer.drain(0.0)
    assert writer.lost > 0
    lines = read_lines(reader, writer)
    told = [int(line.split()[1]) for line in lines if line.startswith(b"lost ")]
    kept = [int(line.split()[1]) for line in lines if line.startswith(b"line ")]
    assert sum(told) == writer.lost == 20_000 - len(kept)
    assert kept == sorted(kept)
    writer.write(b"line 20000\n")
    assert read_lines(reader, writer) == [b"line 20000"]


def test_lines_of_several_threads_stay_whole(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LogWriter(fd)
    line = b"x" * 70_000 + b"\n"
    threads = [threading.Thread(target=lambda: [writer.write(line) for _ in range(3)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_lines(reader, writer) == [line.strip()] * 12


def test_what_the_system_refuses_is_counted() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = LogWriter(full.fileno(), notice=notice)
        writer.write(b"one\n")
        assert writer.drain(30.0)
        writer.write(b"two\nthree\n")
        assert writer.drain(30.0)
    assert writer.lost == 3


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, fd = os.pipe()
    os.close(reader)
    writer = LogWriter(fd)
    writer.write(b"one\n")
    assert writer.drain(30.0)
    assert writer.lost == 1
    os.close(fd)


def test_a_line_at_the_very_end_of_a_process_neither_hangs_nor_is_lost() -> None:
    program = """
from godrive.log_writer import LogWriter

class Late:
    def __init__(self):
        self.writer, self.me = LogWriter(1), self

    def __del__(self):
        self.writer.write(b"late\\n")

late = Late()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"late\n"
