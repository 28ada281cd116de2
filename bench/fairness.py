"""The latency of a quiet user's list beside clients that repeat one request as fast as they can."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench import stage
from bench.clients import latencies
from bench.report import Result
from tests.drive_server import REPOSITORY, DriveServer
from tests.hostile.crowd import ROWS, User

CONNECTIONS = 100
INTENT = json.dumps({"filename": "a.txt", "size_bytes": 1, "on_conflict": "rename"})
ATTACKS = {
    "long lists": ("GET", "/v1/files?limit=1000", ""),
    "searches": ("GET", "/v1/files?q=nnnnz", ""),
    "intents": ("POST", "/v1/files/upload-intent", INTENT),
    "metrics": ("GET", "/metrics", ""),
    "readiness": ("GET", "/readyz", ""),
}


@contextmanager
def attack(port: int, request: str) -> Iterator[None]:
    """Attack the server meanwhile."""
    arguments = [sys.executable, "-m", "bench.attack", str(port), str(CONNECTIONS), request]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        if process.stdout is None or process.stdin is None or process.stdout.readline() != "attacking\n":
            raise RuntimeError("bench.attack did not start")
        try:
            yield
        finally:
            process.stdin.close()


class Fairness:
    """Ratios of latencies, beside an attack and alone."""

    def __init__(self, *, quick: bool) -> None:
        self.samples = 200 if quick else 1000

    def run(self) -> list[Result]:
        """One result for each kind of attack."""
        with stage.folder() as place, DriveServer(place, tables=stage.OPEN_GATE, anew=True) as server:
            return [self._beside(server, kind) for kind in ATTACKS]

    def _beside(self, server: DriveServer, kind: str) -> Result:
        method, path, body = ATTACKS[kind]
        name = kind.replace(" ", "-")
        with (
            User(server.port, f"{name}@example.org") as attacker,
            User(server.port, f"quiet-{name}@example.org") as quiet,
        ):
            attacker.add_files(ROWS)
            quiet.add_files(20)
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {attacker.token}\r\n"
            request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
            alone = self._p99(server, quiet)
            with attack(server.port, request):
                beside = self._p99(server, quiet)
        parts = {"alone ms": alone * 1000, "beside ms": beside * 1000}
        return Result(f"list p99 beside {kind}", beside / alone, "x", 5, lower=True, parts=parts)

    def _p99(self, server: DriveServer, quiet: User) -> float:
        found = latencies(f"{server.url}/v1/files?limit=20", token=quiet.token, count=self.samples)
        return found[len(found) * 99 // 100]
