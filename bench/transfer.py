"""Upload and download of one large file, against nginx on the same disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench import stage
from bench.clients import curl
from bench.report import Result, median_of
from tests.drive_server import DriveServer

MIB = 1024 * 1024


class Transfer:
    """A file that was just written, and one that was just read, so that it comes from memory on both sides."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 1 if quick else 3
        self.size = 128 * MIB if quick else 1024 * MIB

    def run(self) -> list[Result]:
        """Upload with SHA-256 against WebDAV PUT, download against sendfile, and what they did to the memory."""
        puts: list[tuple[float, float]] = []
        durable: list[tuple[float, float]] = []
        gets: list[tuple[float, float]] = []
        growth = []
        with stage.folder() as place:
            source = self._source(place)
            with stage.nginx(place / "nginx") as nginx, stage.drive(place / "drive") as server:
                ada = stage.person(server)
                stage.upload_one(server, ada, "warm.bin", b"warm")
                for number in range(self.rounds):
                    theirs = curl("-T", str(source), f"{nginx}/{number}.bin")
                    synced = _sync(place / "nginx" / "files" / f"{number}.bin")
                    with stage.PeakMemory(server.pid) as memory:
                        ours = self._put(server, ada, source, number)
                    puts.append((ours, theirs))
                    durable.append((ours, theirs + synced))
                    growth.append(memory.growth)
                for number in range(self.rounds):
                    url = self._url(server, ada, number)
                    # A large upload goes past the page cache: let both be read from memory.
                    curl(f"{nginx}/{number}.bin")
                    curl(url)
                    theirs = curl(f"{nginx}/{number}.bin")
                    with stage.PeakMemory(server.pid) as memory:
                        ours = curl(url)
                    gets.append((ours, theirs))
                    growth.append(memory.growth)
        return [
            self._ratio("big upload, with SHA-256", 1.0, puts),
            self._ratio("the same, if nginx synced too", 1.0, durable),
            self._ratio("big download", 0.95, gets),
            Result("memory growth while moving it", max(growth) / MIB, "MiB", 32, lower=True),
        ]

    def _source(self, place: Path) -> Path:
        path = place / "source.bin"
        piece = os.urandom(MIB)
        with path.open("wb") as file:
            for _ in range(self.size // MIB):
                file.write(piece)
            os.fsync(file.fileno())
        return path

    def _put(self, server: DriveServer, who: stage.Person, source: Path, number: int) -> float:
        body = {"filename": f"{number}.bin", "mime": "application/octet-stream", "size_bytes": self.size}
        intent = stage.request(server, "POST", "/v1/files/upload-intent", body, who.token)
        headers = [part for name, value in intent["headers"].items() for part in ("-H", f"{name}: {value}")]
        return curl("-T", str(source), *headers, intent["upload_url"])

    def _url(self, server: DriveServer, who: stage.Person, number: int) -> str:
        answer = stage.request(server, "GET", f"/v1/files?prefix={number}.bin", token=who.token)
        signed = stage.request(server, "GET", f"/v1/files/{answer['files'][0]['id']}/download", token=who.token)
        url: str = signed["url"]
        return url

    def _ratio(self, name: str, mark: float, pairs: list[tuple[float, float]]) -> Result:
        speed = self.size / MIB
        parts = {
            "nginx MiB/s": speed / median_of(theirs for _, theirs in pairs),
            "ours MiB/s": speed / median_of(ours for ours, _ in pairs),
        }
        return Result(name, median_of(theirs / ours for ours, theirs in pairs), "nginx", mark, parts=parts)


def _sync(path: Path) -> float:
    """Seconds until a file is on the disk: we answer after that, nginx before."""
    began = time.perf_counter()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began
