"""Requests per second against the bare handler: lists, intents, small uploads."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import stage
from bench.clients import Load, wrk
from bench.report import Result, median_of
from bench.uploads import CONNECTIONS, send
from tests.drive_server import DriveServer, environment

Rates = list[float]
Results = list[Result]


class Requests:
    """Alternates rounds of the bare handler and GoDrive, so that a disturbance affects both."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 2 if quick else 6
        self.seconds = 2.0 if quick else 3.0
        self.files = 10_000 if quick else 100_000

    def ratio(self, name: str, mark: float, ours: Rates, bare: Rates, **parts: float) -> Result:
        value = median_of(a / b for a, b in zip(ours, bare, strict=True))
        return Result(name, value, "bare", mark, parts={"bare": median_of(bare), "ours": median_of(ours)} | parts)

    def list(self) -> Result:
        """``GET /v1/files``, 20 rows of 100 000 files of 100 users."""
        with stage.folder() as place, stage.bare() as bare:
            with stage.drive(place) as server:
                ada = stage.person(server)
                file = stage.upload_one(server, ada, "first.txt", b"first")
            stage.preload(server.data / "godrive.db", files=self.files, users=100, like=file["id"])
            with stage.drive(place) as server:
                ada = stage.log_in(server, ada)
                url = f"{server.url}/v1/files?limit=20"
                wrk(url, seconds=1, token=ada.token)
                base, ours, cpu = self._in_turn(bare, lambda: _load(server, url, self.seconds, token=ada.token))
        return self.ratio("list, 20 rows of 100 000", 0.30, ours, base, CPU_us=cpu)

    def intent(self) -> Result:
        """``POST /v1/files/upload-intent``, to a new server each time, without pending uploads from before."""

        def load() -> tuple[Load, float]:
            with stage.folder() as place, stage.drive(place) as server:
                ada = stage.person(server)
                before = server.cpu_seconds()
                found = send(server, "intent", [ada], seconds=self.seconds)
                return found, (server.cpu_seconds() - before) / found.units

        with stage.bare() as bare:
            base, ours, cpu = self._in_turn(bare, load)
        return self.ratio("upload intent", 0.15, ours, base, CPU_us=cpu)

    def _in_turn(self, bare: str, load: Callable[[], tuple[Load, float]]) -> tuple[Rates, Rates, float]:
        """Return the rates of both, and the median of our CPU time for a request, in microseconds."""
        base, ours, cpu = [], [], []
        for _ in range(self.rounds):
            base.append(wrk(bare, seconds=self.seconds).rate)
            found, used = load()
            if found.refused:
                raise RuntimeError(f"{found.refused} requests were refused")
            ours.append(found.rate)
            cpu.append(used * 1e6)
        return base, ours, median_of(cpu)

    def uploads(self) -> Results:
        """Uploads of 4 KiB, 32 concurrently: intent, PUT, durable and listed.  Latencies are those of a request.

        Compared with the bare handler, and with a disk that only syncs one file for each upload.
        """
        base, disk, ours, p50, p99, cpu = [], [], [], [], [], []
        with stage.bare() as bare, stage.folder() as place, stage.drive(place) as server:
            people = [stage.person(server, f"person-{number}") for number in range(4)]
            acknowledged = 0
            for _ in range(self.rounds):
                base.append(wrk(bare, seconds=self.seconds).rate)
                disk.append(self._synced(place))
                before = server.cpu_seconds()
                found = send(server, "upload", people, seconds=self.seconds)
                cpu.append((server.cpu_seconds() - before) / found.units * 1e6)
                ours.append(found.rate)
                p50.append(found.p50 * 1000)
                p99.append(found.p99 * 1000)
                acknowledged += found.units
            listed = sum(self._count(server, someone) for someone in people)
            if not acknowledged <= listed <= acknowledged + self.rounds * CONNECTIONS:
                raise RuntimeError(f"{acknowledged} were acknowledged, {listed} are listed")
        synced = median_of(a / b for a, b in zip(ours, disk, strict=True))
        parts = {"p50_ms": median_of(p50), "p99_ms": median_of(p99), "CPU_us": median_of(cpu)}
        return [
            self.ratio("small uploads, 4 KiB", 0.08, ours, base, **parts),
            Result("small uploads, to files synced", synced, "disk", parts={"disk": median_of(disk)}),
        ]

    def _synced(self, place: Path) -> float:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            command = [sys.executable, "-m", "bench.synced", folder, str(self.seconds)]
            return float(subprocess.check_output(command, env=environment(), timeout=60 + self.seconds))

    @staticmethod
    def _count(server: DriveServer, someone: stage.Person) -> int:
        count, page = 0, ""
        while True:
            answer = stage.request(server, "GET", f"/v1/files?limit=1000{page}", token=someone.token)
            count += len(answer["files"])
            if "next_page" not in answer:
                return count
            page = f"&page={answer['next_page']}"


def _load(server: DriveServer, url: str, seconds: float, *, token: str = "") -> tuple[Load, float]:
    """Return what wrk found, and the CPU seconds of the server for a request."""
    before = server.cpu_seconds()
    found = wrk(url, seconds=seconds, token=token)
    return found, (server.cpu_seconds() - before) / (found.rate * max(1, round(seconds)))
