"""Uploads by tus: one large file in chunks, against one PUT and the reference server; and many files at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import stage
from bench.clients import program
from bench.report import Result, median_of, quartiles_of
from bench.tus_client import OverloadedError, TusClient
from tests.drive_server import DriveServer
from tests.servers import Daemon, answers, free_port

MIB = 1024 * 1024
CHUNK = 8 * MIB
_REFERENCE = Path(__file__).with_name("tus")


class Resumable:
    """The same client sends the same bytes to all, from a file in memory, over one connection for each upload.

    What is compared goes in pairs, and the first of a pair is the second of the
    next.  Each upload begins on a disk at rest: the files of the one before are
    gone, and the kernel has nothing to write.  A ratio is the median of those of
    the pairs.
    """

    def __init__(self, *, quick: bool) -> None:
        self.pairs, self.pairs_with_reference = (1, 1) if quick else (30, 5)
        self.size = 128 * MIB if quick else 1024 * MIB
        self.uploads, self.each = (20, 8 * MIB) if quick else (200, 50 * MIB)

    def run(self) -> list[Result]:
        """The large file in pairs, then many at once."""
        with stage.folder() as place:
            source = _source(place / "source.bin", max(self.size, self.each))
            with stage.drive(place / "drive") as server:
                ada = stage.person(server)
                stage.upload_one(server, ada, "warm.bin", b"warm")
                put = partial(self._put, server, ada, source)
                ours = partial(_send, f"{server.url}/v1/tus", _token(ada), source, "large.bin", self.size)
                to_put = _in_pairs(put, ours, self.pairs, lambda: _purge_all(server, ada))
                with _reference(place / "reference") as (url, pid, files):

                    def remove() -> None:
                        _purge_all(server, ada)
                        for file in files.iterdir():
                            file.unlink()

                    with stage.PeakMemory(server.pid) as our_memory, stage.PeakMemory(pid) as their_memory:
                        theirs = partial(_send, url, {}, source, "large.bin", self.size)
                        to_theirs = _in_pairs(theirs, ours, self.pairs_with_reference, remove)
            at_once = self._at_once(place / "many", source)
        memories = {"ours MiB": our_memory.peak / MIB, "reference MiB": their_memory.peak / MIB}
        memory = our_memory.peak / their_memory.peak
        return [
            self._compared("tus in chunks of 8 MiB", "one PUT", 0.8, to_put),
            self._compared("the same, to the reference server", "reference", 1.0, to_theirs),
            Result("resident memory meanwhile", memory, "reference", 1.0, lower=True, parts=memories),
            at_once,
        ]

    def _compared(self, name: str, with_what: str, goal: float, pairs: list[tuple[float, float]]) -> Result:
        """The rate of the second of each pair, relative to the first, with the quartiles of that."""
        ratios = [theirs / ours for theirs, ours in pairs]
        low, high = quartiles_of(ratios)
        parts = {
            f"{with_what} MiB/s": self.size / MIB / median_of(theirs for theirs, _ in pairs),
            "tus MiB/s": self.size / MIB / median_of(ours for _, ours in pairs),
            "lower quartile": low,
            "upper quartile": high,
        }
        return Result(name, median_of(ratios), with_what, goal, parts=parts)

    def _put(self, server: DriveServer, who: stage.Person, source: Path) -> None:
        body = {"filename": "large.bin", "mime": "application/octet-stream", "size_bytes": self.size}
        intent = stage.request(server, "POST", "/v1/files/upload-intent", body, who.token)
        path = "/" + intent["upload_url"].split("/", 3)[3]
        with TusClient(server.url) as client, source.open("rb") as file:
            client.put(path, intent["headers"], file.fileno(), self.size)

    def _at_once(self, place: Path, source: Path) -> Result:
        with stage.drive(place) as server:
            ada = stage.person(server)
            tus = f"{server.url}/v1/tus"
            with stage.PeakMemory(server.pid) as memory, ThreadPoolExecutor(self.uploads) as pool:
                began = time.perf_counter()
                sent = [pool.submit(_send, tus, _token(ada), source, f"{n}", self.each) for n in range(self.uploads)]
                refused = sum(one.result() for one in sent)
                seconds = time.perf_counter() - began
        parts = {"MiB/s": self.uploads * self.each / MIB / seconds, "refused": float(refused)}
        return Result(f"{self.uploads} uploads at once", memory.peak / MIB, "MiB", 200, lower=True, parts=parts)


def _send(url: str, headers: dict[str, str], source: Path, name: str, size: int) -> int:
    """Send a file in chunks, and return how many of them the server had no memory for."""
    refused = offset = 0
    with TusClient(url, headers) as client, source.open("rb") as file:
        path = client.create(name, size)
        while offset < size:
            try:
                offset = client.send(path, file.fileno(), offset, min(offset + CHUNK, size))
            except OverloadedError as error:
                refused += 1
                time.sleep(error.retry_after)
                offset = client.offset(path)
    return refused


def _in_pairs(
    one: Callable[[], object], other: Callable[[], object], pairs: int, remove: Callable[[], None]
) -> list[tuple[float, float]]:
    """Return the seconds of both, pair by pair.  After each call, *remove* removes its files."""

    def seconds_of(call: Callable[[], object]) -> float:
        remove()
        os.sync()
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    found = []
    for number in range(pairs):
        if number % 2:
            second = seconds_of(other)
            found.append((seconds_of(one), second))
        else:
            found.append((seconds_of(one), seconds_of(other)))
    return found


def _purge_all(server: DriveServer, who: stage.Person) -> None:
    """Delete all files of a user, and their bytes."""
    for file in stage.request(server, "GET", "/v1/files", token=who.token)["files"]:
        stage.request(server, "DELETE", f"/v1/files/{file['id']}", token=who.token)
        stage.request(server, "DELETE", f"/v1/trash/{file['id']}", token=who.token)


def _token(who: stage.Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {who.token}"}


def _source(path: Path, size: int) -> Path:
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(piece)
        os.fsync(file.fileno())
    return path


@contextmanager
def _reference(place: Path) -> Iterator[tuple[str, int, Path]]:
    """The URL, the process and the files of the reference server."""
    port, files = free_port(), place / "files"
    shutil.copytree(_REFERENCE, place)
    files.mkdir()
    install = [program("npm", "npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(install, cwd=place, check=True, capture_output=True)
    daemon = Daemon([program("node", "nodejs"), place / "server.mjs", str(port), str(files)], place / "log")
    try:
        daemon.wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}/files", daemon.pid, files
    finally:
        daemon.stop()
