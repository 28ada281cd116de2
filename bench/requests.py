"""Requests per second against the bare handler: lists, intents, small uploads."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import stage
from bench.clients import Load, wrk
from bench.load import PREPARED
from bench.report import Result, median_of
from tests.drive_server import DriveServer, environment

INTENT = """
local thread = 0
function setup(t) t:set("id", thread); thread = thread + 1 end
local count = 0
local stamp = tostring(os.time())
function request()
    count = count + 1
    local name = stamp .. "-" .. id .. "-" .. count .. ".bin"
    local body = '{"filename":"' .. name .. '","mime":"application/octet-stream","size_bytes":4096}'
    return wrk.format("POST", "/v1/files/upload-intent", {["Content-Type"] = "application/json",
        ["Authorization"] = "Bearer TOKEN"}, body)
end
"""

CONNECTIONS = 32
"""Concurrent uploads."""

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
                script = INTENT.replace("TOKEN", stage.person(server).token)
                return _load(server, server.url, self.seconds, script=script)

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
        """Uploads of 4 KiB, 32 concurrently: intent, PUT, durable and listed.  One upload counts as one.

        Compared with the bare handler, and with a disk that only syncs one file for each upload.
        """
        base, disk, ours, p50, p99, cpu = [], [], [], [], [], []
        with stage.bare() as bare, stage.folder() as place, stage.drive(place) as server:
            people = [stage.person(server, f"person-{number}") for number in range(4)]
            sent = 0.0
            for _ in range(self.rounds):
                base.append(wrk(bare, seconds=self.seconds).rate)
                disk.append(self._synced(place))
                before = server.cpu_seconds()
                found = self._upload(server, people)
                cpu.append((server.cpu_seconds() - before) / (found["units"] + PREPARED * CONNECTIONS) * 1e6)
                ours.append(found["units"] / found["seconds"])
                p50.append(found["p50"] * 1000)
                p99.append(found["p99"] * 1000)
                sent += found["units"] + PREPARED * CONNECTIONS
            listed = sum(self._count(server, someone) for someone in people)
            if listed != sent:
                raise RuntimeError(f"{sent} were uploaded, {listed} are listed")
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

    def _upload(self, server: DriveServer, people: Sequence[stage.Person]) -> dict[str, float]:
        order = {
            "row": "upload",
            "port": server.port,
            "tokens": [someone.token for someone in people],
            "connections": CONNECTIONS,
            "seconds": self.seconds,
            "size": 4096,
        }
        done = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            input=json.dumps(order) + "\n\n",
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
            timeout=60 + self.seconds,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if found["refused"]:
            raise RuntimeError(f"{found['refused']} requests were refused: {found['reason']}")
        return found

    @staticmethod
    def _count(server: DriveServer, someone: stage.Person) -> int:
        count, page = 0, ""
        while True:
            answer = stage.request(server, "GET", f"/v1/files?limit=1000{page}", token=someone.token)
            count += len(answer["files"])
            if "next_page" not in answer:
                return count
            page = f"&page={answer['next_page']}"


def _load(server: DriveServer, url: str, seconds: float, *, token: str = "", script: str = "") -> tuple[Load, float]:
    """Return what wrk found, and the CPU seconds of the server for a request."""
    before = server.cpu_seconds()
    found = wrk(url, seconds=seconds, token=token, script=script)
    return found, (server.cpu_seconds() - before) / (found.rate * max(1, round(seconds)))
