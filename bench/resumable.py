"""Uploads by tus: one large file in chunks, against one PUT and the reference server; and many files at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench import stage
from bench.clients import program
from bench.report import Result, median_of
from bench.tus_client import OverloadedError, TusClient
from tests.drive_server import DriveServer
from tests.servers import Daemon, answers, free_port

MIB = 1024 * 1024
CHUNK = 8 * MIB
_REFERENCE = Path(__file__).with_name("tus")


class Resumable:
    """The same client sends to all, from a file in memory, over one connection for each upload."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 1 if quick else 5
        self.size = 128 * MIB if quick else 1024 * MIB
        self.uploads, self.each = (20, 8 * MIB) if quick else (200, 50 * MIB)

    def run(self) -> list[Result]:
        """The large file in alternating rounds, then many at once."""
        puts: list[float] = []
        ours: list[float] = []
        theirs: list[float] = []
        our_peak = their_peak = 0
        with stage.folder() as place:
            source = _source(place / "source.bin", max(self.size, self.each))
            with _reference(place / "reference") as (reference, their_pid), stage.drive(place / "drive") as server:
                ada = stage.person(server)
                stage.upload_one(server, ada, "warm.bin", b"warm")
                tus, token = f"{server.url}/v1/tus", {"Authorization": f"Bearer {ada.token}"}
                for number in range(self.rounds):
                    puts.append(self._put(server, ada, source, f"{number}.put"))
                    with stage.PeakMemory(server.pid) as memory:
                        ours.append(self._chunks(tus, token, source, f"{number}.tus"))
                    our_peak = max(our_peak, memory.peak)
                    with stage.PeakMemory(their_pid) as memory:
                        theirs.append(self._chunks(reference, {}, source, f"{number}.tus"))
                    their_peak = max(their_peak, memory.peak)
            at_once = self._at_once(place / "many", source)
        speed = self.size / MIB
        parts = {"put MiB/s": speed / median_of(puts), "tus MiB/s": speed / median_of(ours)}
        with_theirs = {"reference MiB/s": speed / median_of(theirs), "tus MiB/s": speed / median_of(ours)}
        memories = {"ours MiB": our_peak / MIB, "reference MiB": their_peak / MIB}
        ratio = median_of(put / our for put, our in zip(puts, ours, strict=True))
        against = median_of(their / our for their, our in zip(theirs, ours, strict=True))
        return [
            Result("tus in chunks of 8 MiB", ratio, "one PUT", 0.8, parts=parts),
            Result("the same, to the reference server", against, "reference", 1.0, parts=with_theirs),
            Result("resident memory meanwhile", our_peak / their_peak, "reference", 1.0, lower=True, parts=memories),
            at_once,
        ]

    def _put(self, server: DriveServer, who: stage.Person, source: Path, name: str) -> float:
        body = {"filename": name, "mime": "application/octet-stream", "size_bytes": self.size}
        intent = stage.request(server, "POST", "/v1/files/upload-intent", body, who.token)
        path = "/" + intent["upload_url"].split("/", 3)[3]
        with TusClient(server.url) as client, source.open("rb") as file:
            began = time.perf_counter()
            client.put(path, intent["headers"], file.fileno(), self.size)
            return time.perf_counter() - began

    def _chunks(self, url: str, headers: dict[str, str], source: Path, name: str) -> float:
        began = time.perf_counter()
        _send(url, headers, source, name, self.size)
        return time.perf_counter() - began

    def _at_once(self, place: Path, source: Path) -> Result:
        with stage.drive(place) as server:
            ada = stage.person(server)
            tus, token = f"{server.url}/v1/tus", {"Authorization": f"Bearer {ada.token}"}
            with stage.PeakMemory(server.pid) as memory, ThreadPoolExecutor(self.uploads) as pool:
                began = time.perf_counter()
                sent = [pool.submit(_send, tus, token, source, f"{n}", self.each) for n in range(self.uploads)]
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


def _source(path: Path, size: int) -> Path:
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(piece)
        os.fsync(file.fileno())
    return path


@contextmanager
def _reference(place: Path) -> Iterator[tuple[str, int]]:
    """The URL and the process of the reference server."""
    port, files = free_port(), place / "files"
    shutil.copytree(_REFERENCE, place)
    files.mkdir()
    install = [program("npm", "npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(install, cwd=place, check=True, capture_output=True)
    daemon = Daemon([program("node", "nodejs"), place / "server.mjs", str(port), str(files)], place / "log")
    try:
        daemon.wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}/files", daemon.pid
    finally:
        daemon.stop()
