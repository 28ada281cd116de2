"""Side by side: GoDrive on its databases, a bare handler, and the servers of others, with the same load in turns.

Each row names the rate of each and the CPU time that its server (all of its
processes) takes for a unit.  Rows of GoDrive also say how that relates to the
bare handler in the same round.  Every server may use all cores; GoDrive and the
bare handler use one for their event loop.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import stage
from bench.clients import MissingClientError, curl, wrk
from bench.peers import PEERS, Peer, tree_cpu_seconds
from bench.report import Result, median_of, say
from bench.uploads import send
from bench.versus import client, finish, new_people
from tests.daemon import Daemon, MissingProgram, answers, free_port
from tests.drive_server import DriveServer, Tables, environment, merged
from tests.servers import PostgresServer

MIB = 1 << 20
FILES = 1000
LISTS = """
local tokens = {TOKENS}
local next = 0
function request()
    next = next % #tokens + 1
    return wrk.format("GET", "/v1/files?limit=20", {["Authorization"] = tokens[next]})
end
"""
LISTERS = 16
MARKS = {"list unchanged": 0.30, "list read anew": 0.20, "intent": 0.15, "upload, 2 requests": 0.08}
MARKS["upload, 1 request"] = 0.10

Round = tuple[float, float]
"""Units a second, and CPU seconds of the server for a unit."""


class Uncached(DriveServer):
    """GoDrive without its cache of encoded pages, so that each list is read from the database."""

    def command(self) -> list[str | Path]:
        command = super().command()
        at = command.index("-m")
        return [*command[:at], Path(__file__).with_name("uncached.py"), *command[at + 2 :]]


class Table:
    """Small requests of 32 connections (renames: 16), and one large file."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 1 if quick else 3
        self.seconds = 2.0 if quick else 3.0
        self.mib = 128 if quick else 1024

    def run(self) -> list[Result]:
        """All rows: lists, of one user and of several, renames, intents, small uploads, and one large file each way."""
        with ExitStack() as stack:
            base = stack.enter_context(_bare())
            drives = {"SQLite": stack.enter_context(_drive(stack, DriveServer))}
            fresh = {"SQLite": stack.enter_context(_drive(stack, Uncached))}
            try:
                for servers, kind in ((drives, DriveServer), (fresh, Uncached)):
                    servers["PostgreSQL"] = stack.enter_context(_drive(stack, kind, _postgres(stack)))
            except MissingProgram as missing:
                say(f"{'PostgreSQL':<34} skipped: {missing}")
            peers = dict(self._peers(stack))
            lists = {name: _Lists(server) for name, server in drives.items()}
            anew = {name: _Lists(server) for name, server in fresh.items()}
            many = {name: _Lists(server, LISTERS) for name, server in fresh.items()}
            found = self._row("list unchanged", base, {name: one.run for name, one in lists.items()})
            found += self._row("list read anew", base, {name: one.run for name, one in anew.items()})
            found += self._row(f"list read anew, {LISTERS} users", base, {name: one.run for name, one in many.items()})
            people = {name: new_people(server) for name, server in drives.items()}
            for row, load in (
                ("rename and list", "rename"),
                ("intent", "intent"),
                ("upload, 2 requests", "upload"),
                ("upload, 1 request", "post"),
            ):
                loaded = _Loaded if load == "rename" else _Sent
                runs: dict[str, Callable[[float], Round]] = {
                    name: loaded(server, people[name], load).run for name, server in drives.items()
                }
                if load == "post":
                    runs |= {name: _plain(peer) for name, peer in peers.items()}
                found += self._row(row, base, runs)
        return found + self._large()

    def _peers(self, stack: ExitStack) -> Iterator[tuple[str, Peer]]:
        for name, start in PEERS.items():
            try:
                yield name, stack.enter_context(start(stack.enter_context(stage.folder()) / "peer"))
            except MissingClientError as missing:
                say(f"{name:<34} skipped: {missing}")

    def _row(self, row: str, base: tuple[str, Daemon], runs: dict[str, Callable[[float], Round]]) -> list[Result]:
        """Run in alternating order, and return one result for each."""
        found: dict[str, list[Round]] = {name: [] for name in runs}
        bare: list[float] = []
        bare_cpu: list[float] = []
        for number in range(self.rounds):
            before = tree_cpu_seconds(base[1].pid)
            bare.append(wrk(base[0], seconds=self.seconds).rate)
            bare_cpu.append((tree_cpu_seconds(base[1].pid) - before) / (bare[-1] * self.seconds))
            for name, run in list(runs.items())[:: -1 if number % 2 else 1]:
                found[name].append(run(self.seconds))
        results = []
        for name, rounds in found.items():
            rate, cpu = median_of(each[0] for each in rounds), median_of(each[1] for each in rounds)
            parts = {
                "a second": rate,
                "CPU us": cpu * 1e6,
                "bare": median_of(bare),
                "its CPU us": median_of(bare_cpu) * 1e6,
            }
            ratio = median_of(ours / theirs for (ours, _), theirs in zip(rounds, bare, strict=True))
            mark = MARKS.get(row) if name == "SQLite" else None
            results.append(Result(f"{row}, {name}", ratio, "bare", mark, parts=parts))
        return results

    def _large(self) -> list[Result]:
        """One large file each way, by curl: GoDrive hashes it and syncs it, nginx does neither."""
        found: dict[str, list[tuple[Round, Round]]] = {"GoDrive": []}
        with ExitStack() as stack:
            place = stack.enter_context(stage.folder())
            source = place / "source.bin"
            with source.open("wb") as file:
                piece = os.urandom(MIB)
                for _ in range(self.mib):
                    file.write(piece)
            server = stack.enter_context(stage.drive(place / "drive"))
            ada = stage.person(server)
            peers = {name: peer for name, peer in self._peers(stack) if peer.upload.startswith("PUT")}
            found |= {name: [] for name in peers}
            for number in range(self.rounds):
                found["GoDrive"].append(self._ours(server, ada, source, number))
                for name, peer in peers.items():
                    url = f"{peer.url}/{number}.large"
                    up = self._timed(peer.cpu_seconds, "-T", str(source), url)
                    found[name].append((up, self._timed(peer.cpu_seconds, url)))
        results = []
        for way, at in (("up", 0), ("down", 1)):
            for name, rounds in found.items():
                rate, cpu = (median_of(each[at][part] for each in rounds) for part in (0, 1))
                parts = {"CPU s": cpu * self.mib}
                results.append(Result(f"{self.mib} MiB {way}, {name}", rate, "MiB/s", parts=parts))
        return results

    def _ours(self, server: DriveServer, ada: stage.Person, source: Path, number: int) -> tuple[Round, Round]:
        body = {"filename": f"{number}.bin", "mime": "application/octet-stream", "size_bytes": self.mib * MIB}
        intent = stage.request(server, "POST", "/v1/files/upload-intent", body, ada.token)
        headers = [part for name, value in intent["headers"].items() for part in ("-H", f"{name}: {value}")]
        up = self._timed(server.cpu_seconds, "-T", str(source), *headers, intent["upload_url"])
        file = stage.request(server, "GET", f"/v1/files?prefix={number}.bin", token=ada.token)["files"][0]
        url = stage.request(server, "GET", f"/v1/files/{file['id']}/download", token=ada.token)["url"]
        curl(url)  # a large upload goes past the page cache: read it from there, as the others do
        return up, self._timed(server.cpu_seconds, url)

    def _timed(self, cpu_seconds: Callable[[], float], *arguments: str) -> Round:
        before = cpu_seconds()
        seconds = curl(*arguments)
        return self.mib / seconds, (cpu_seconds() - before) / self.mib


@contextmanager
def _bare() -> Iterator[tuple[str, Daemon]]:
    port = free_port()
    with stage.folder() as place:
        daemon = Daemon([sys.executable, "-m", "bench.bare", str(port)], place / "log", env=environment())
        try:
            daemon.wait_until(lambda: answers(port))
            yield f"http://127.0.0.1:{port}/", daemon
        finally:
            daemon.stop()


@contextmanager
def _drive(stack: ExitStack, kind: type[DriveServer], tables: Tables | None = None) -> Iterator[DriveServer]:
    """GoDrive with :data:`FILES` files of one user."""
    place = stack.enter_context(stage.folder())
    limits: Tables = {"auth": {"max_entries": 10_000_000}}
    with kind(place, tables=merged(stage.OPEN_GATE, limits, tables or {}), quick=False) as server:
        yield server


def _postgres(stack: ExitStack) -> Tables:
    database = stack.enter_context(PostgresServer(durable=True))
    return {"catalog": {"driver": "postgres", "dsn": database.create_database()}}


class _Lists:
    """A list of 20 of the files of one user, or of each of several in turn."""

    def __init__(self, server: DriveServer, users: int = 1) -> None:
        self._server = server
        self._people = [stage.person(server, f"lists-{users}-{number}") for number in range(users)]
        with client(server, "post", self._people, units=FILES) as load:
            finish(load)

    def run(self, seconds: float) -> Round:
        before = self._server.cpu_seconds()
        tokens = ", ".join(f'"Bearer {person.token}"' for person in self._people)
        load = wrk(self._server.url, seconds=seconds, script=LISTS.replace("TOKENS", tokens))
        used = self._server.cpu_seconds() - before
        if load.refused:
            raise RuntimeError(f"{load.refused} requests were refused")
        return load.rate, used / (load.rate * seconds)


class _Loaded:
    """A row of ``bench.load``."""

    def __init__(self, server: DriveServer, people: list[stage.Person], row: str) -> None:
        self._server = server
        self._people = people
        self._row = row

    def run(self, seconds: float) -> Round:
        with client(self._server, self._row, self._people, seconds=seconds) as load:
            before = self._server.cpu_seconds()
            found = finish(load)
            used = self._server.cpu_seconds() - before
        return found["units"] / found["seconds"], used / found["units"]


class _Sent(_Loaded):
    """A row of ``bench.uploads``, by the client that also measures the bare handler."""

    def run(self, seconds: float) -> Round:
        before = self._server.cpu_seconds()
        load = send(self._server, self._row, self._people, seconds=seconds)
        return load.rate, (self._server.cpu_seconds() - before) / load.units


def _plain(peer: Peer) -> Callable[[float], Round]:
    """Return a function that sends small uploads to a server of others."""

    def run(seconds: float) -> Round:
        before = tree_cpu_seconds(peer.pid)
        load = send(peer, "plain", [], seconds=seconds, plain=peer.upload)
        return load.rate, (tree_cpu_seconds(peer.pid) - before) / load.units

    return run
