"""Small uploads in one request against those of two: intent and PUT."""

from __future__ import annotations

from bench import stage
from bench.report import Result, median_of
from bench.uploads import send
from bench.versus import new_people
from tests.drive_server import DriveServer


class OneRequest:
    """Alternates rounds of both kinds on one server."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 2 if quick else 6
        self.seconds = 2.0 if quick else 4.0

    def run(self) -> list[Result]:
        """CPU time of the server for an upload of 4 KiB, and uploads a second."""
        one: list[tuple[float, float]] = []
        two: list[tuple[float, float]] = []
        with stage.folder() as place, stage.drive(place) as server:
            people = new_people(server)
            for _ in range(self.rounds):
                two.append(self._round(server, "upload", people))
                one.append(self._round(server, "post", people))
        cpu = median_of(a[0] / b[0] for a, b in zip(one, two, strict=True))
        rate = median_of(a[1] / b[1] for a, b in zip(one, two, strict=True))
        parts = {"one_us": median_of(each[0] for each in one) * 1e6, "two_us": median_of(each[0] for each in two) * 1e6}
        return [
            Result("one request, CPU to two-step", cpu, "times", mark=0.55, lower=True, parts=parts),
            Result("one request, rate to two-step", rate, "times"),
        ]

    def _round(self, server: DriveServer, row: str, people: list[stage.Person]) -> tuple[float, float]:
        before = server.cpu_seconds()
        load = send(server, row, people, seconds=self.seconds)
        return (server.cpu_seconds() - before) / load.units, load.rate
