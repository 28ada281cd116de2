"""Idle memory, start time, lists of many files, and lists during password hashing."""

from __future__ import annotations

import http.client
import json
import threading
import time

from bench import stage
from bench.clients import latencies
from bench.report import Result, median_of
from tests.drive_server import DriveServer

MIB = 1024 * 1024


class Standing:
    """Numbers of one server at rest or under a light load."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 2 if quick else 5
        self.probes = 400 if quick else 2000
        self.many = 100_000 if quick else 1_000_000

    def rest(self) -> list[Result]:
        """Memory a second after the first answers, and seconds from start to ready with what it needs in the cache."""
        memory, seconds = [], []
        with stage.folder() as place:
            server = DriveServer(place, quick=False)
            for _ in range(self.rounds + 1):
                began = time.perf_counter()
                server.start()
                seconds.append(time.perf_counter() - began)
                stage.request(server, "GET", "/health")
                time.sleep(1)
                memory.append(server.resident_bytes() / MIB)
                server.stop()
        return [
            Result("idle memory", median_of(memory), "MiB", 70, lower=True),
            Result("start, warm", median_of(seconds[1:]), "s", 1.0, lower=True),
        ]

    def depth(self) -> Result:
        """The first page of one user with many files against one with 1 000."""
        with stage.folder() as place:
            servers = []
            for name, files in (("few", 1000), ("many", self.many)):
                with stage.drive(place / name) as server:
                    ada = stage.person(server)
                    file = stage.upload_one(server, ada, "first.txt", b"first")
                stage.preload(server.data / "godrive.db", files=files, users=1, like=file["id"])
                servers.append((server, ada))
            (few, ada), (many, eve) = servers
            with few, many:
                ada, eve = stage.log_in(few, ada), stage.log_in(many, eve)
                ratios, base, ours = [], [], []
                for _ in range(5):
                    base.append(self._median(few, ada))
                    ours.append(self._median(many, eve))
                    ratios.append(ours[-1] / base[-1])
        parts = {"few ms": median_of(base) * 1000, "many ms": median_of(ours) * 1000}
        return Result(f"list latency, {self.many:,} to 1,000", median_of(ratios), "x", 1.2, lower=True, parts=parts)

    def _median(self, server: DriveServer, who: stage.Person) -> float:
        found = latencies(f"{server.url}/v1/files?limit=20", token=who.token, count=self.probes // 5)
        return found[len(found) // 2]

    def storm(self) -> Result:
        """The 99th percentile of a list, 100 a second, while 50 log-ins a second want their passwords hashed."""
        with stage.folder() as place, stage.drive(place) as server:
            ada = stage.person(server)
            stage.upload_one(server, ada, "first.txt", b"first")
            quiet = self._p99(server, ada)
            stop = threading.Event()
            outcomes: dict[int, int] = {}
            storm = threading.Thread(target=self._log_ins, args=(server, ada, stop, outcomes))
            storm.start()
            try:
                loud = self._p99(server, ada)
            finally:
                stop.set()
                storm.join()
        parts = {"quiet ms": quiet * 1000, "storm ms": loud * 1000}
        parts |= {f"log-ins {status}": float(count) for status, count in sorted(outcomes.items())}
        return Result("list p99 during 50 log-ins/s", loud / quiet, "x", 5, lower=True, parts=parts)

    def _p99(self, server: DriveServer, who: stage.Person) -> float:
        found = latencies(f"{server.url}/v1/files?limit=20", token=who.token, count=self.probes // 2, every=0.01)
        return found[len(found) * 99 // 100]

    @staticmethod
    def _log_ins(server: DriveServer, who: stage.Person, stop: threading.Event, outcomes: dict[int, int]) -> None:
        """Fifty a second, whether or not the ones before have been answered."""
        body = json.dumps({"email": who.email, "password": stage.PASSWORD})
        lock = threading.Lock()

        def log_in() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("POST", "/v1/login", body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
            connection.close()
            with lock:
                outcomes[status] = outcomes.get(status, 0) + 1

        threads = []
        due = time.perf_counter()
        while not stop.is_set():
            threads.append(threading.Thread(target=log_in))
            threads[-1].start()
            due += 0.02
            stop.wait(max(0.0, due - time.perf_counter()))
        for thread in threads:
            thread.join()
