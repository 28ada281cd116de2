"""``python -m bench.versus OTHER [--rounds N] [ROW ...]``: this tree against another checkout, in alternating rounds.

OTHER is a worktree with a ``.venv`` of its own.  For each row and each round a
server of either tree starts, and the two carry the same load in turn, in slices
so short that the machine has the same speed for both.  The ratios are medians of
the rounds, this tree to the other: rate, and CPU time of the server for a unit.
Then each server runs once more under a profile function that counts the calls
of Python functions: a number that no noise of the machine changes.  A row is left
out if OTHER does not have the operation, and a line says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from bench import stage
from bench.clients import curl
from bench.report import number, say
from tests.drive_server import REPOSITORY, DriveServer, Tables, environment

CONNECTIONS, USERS, SMALL, MIB = 16, 4, 4096, 1 << 20
BIG = 256
SLICES = 6
"""Slices of a round, for each tree."""
UNITS_COUNTED = 400
ROWS = ("list", "rename", "intent", "upload", "post", "big")

OPEN_GATE: Tables = {"auth": {"attempts_per_address": 1_000_000, "attempts_per_account": 1_000_000}}
"""Limits that would restrict the load from a single client, as far as older trees have them."""

_UNKNOWN = HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED

Function = tuple[str, str, int]


class Refused(RuntimeError):
    """A server refuses the requests of a row."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__(f"{found['refused']} requests were refused: {found['status']} {found['reason']}")
        self.status: int = found["status"]


class Tree(DriveServer):
    """A server of the checkout in *tree*."""

    def __init__(self, tree: Path, place: Path, counts: Path | None = None) -> None:
        super().__init__(place, tables=OPEN_GATE, quick=False)
        self._tree = tree
        self._counts = counts

    def command(self) -> list[str | Path]:
        program = super().command()
        program[0] = self._tree / ".venv" / "bin" / "python"
        if self._counts is not None:
            program[1:3] = [Path(__file__).with_name("counted.py"), self._counts]
        program.insert(1, "-P")  # otherwise the working directory, which is this tree, comes first
        return ["env", f"PYTHONPATH={self._tree}", *program]


@dataclass(frozen=True)
class Round:
    """One load: units a second, and seconds of CPU time for a unit."""

    rate: float
    cpu: float


class Load(NamedTuple):
    """What a server did in a slice, and the CPU time that it took in seconds."""

    units: int
    seconds: float
    cpu: float


def new_people(server: DriveServer) -> list[stage.Person]:
    """Those who use the server."""
    return [stage.person(server, f"person-{index}") for index in range(USERS)]


@contextmanager
def client(
    server: DriveServer, row: str, people: list[stage.Person] | None = None, **bounds: float | str
) -> Iterator[subprocess.Popen[str]]:
    """A load, of new people unless they are given, that is prepared and begins when it reads a line."""
    if people is None:
        people = new_people(server)
    tokens = [person.token for person in people]
    order = {"row": row, "port": server.port, "tokens": tokens, "connections": CONNECTIONS, "size": SMALL} | bounds
    with subprocess.Popen(
        [sys.executable, "-m", "bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    ) as process:
        _tell(process, json.dumps(order))
        _hear(process)
        yield process


def _tell(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the load has failed")
    return line


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Run a prepared load, and return what it found.  Raises ``Refused``."""
    _tell(process)
    found: dict[str, Any] = json.loads(_hear(process))
    if found["refused"]:
        raise Refused(found)
    return found


def side_by_side(other: Path, row: str, seconds: float) -> tuple[Round, Round]:
    """One round of a row of small requests: this tree, and the other.  Each is loaded for *seconds* altogether."""
    with (
        stage.folder() as one_place,
        stage.folder() as other_place,
        Tree(REPOSITORY, one_place) as this,
        Tree(other, other_place) as that,
    ):
        people = {server: new_people(server) for server in (this, that)}
        loads: dict[Tree, list[Load]] = {this: [], that: []}
        for index in range(SLICES):
            for server in (this, that) if index % 2 else (that, this):
                loads[server].append(carry(server, row, people[server], seconds / SLICES))
        return together(loads[this]), together(loads[that])


def carry(server: Tree, row: str, people: list[stage.Person], seconds: float) -> Load:
    """Load a server once."""
    with client(server, row, people, seconds=seconds) as load:
        before = server.cpu_seconds()
        found = finish(load)
        return Load(found["units"], found["seconds"], server.cpu_seconds() - before)


def together(loads: list[Load]) -> Round:
    """The round that several loads make."""
    units, seconds, cpu = (sum(each) for each in zip(*loads, strict=True))
    return Round(units / seconds, cpu / units)


def has(tree: Path, row: str) -> bool:
    """Whether the tree has the operations of the row."""
    with stage.folder() as place, Tree(tree, place) as server, client(server, row, units=1) as load:
        try:
            finish(load)
        except Refused as refused:
            if refused.status not in _UNKNOWN:
                raise
            return False
    return True


def big(tree: Path, source: Path) -> Round:
    """One upload of a large file."""
    with stage.folder() as place, Tree(tree, place) as server:
        ada = stage.person(server)
        stage.upload_one(server, ada, "warm.bin", b"warm")
        body = {"filename": "big.bin", "mime": "application/octet-stream", "size_bytes": BIG * MIB}
        intent = stage.request(server, "POST", "/v1/files/upload-intent", body, ada.token)
        headers = [part for name, value in intent["headers"].items() for part in ("-H", f"{name}: {value}")]
        before = server.cpu_seconds()
        seconds = curl("-T", str(source), *headers, intent["upload_url"])
        return Round(1 / seconds, server.cpu_seconds() - before)


def count(tree: Path, row: str) -> Counter[Function]:
    """The calls of each Python function in :data:`UNITS_COUNTED` units."""
    with stage.folder() as place:
        counts = place / "counts.json"
        with Tree(tree, place, counts) as server, client(server, row, units=UNITS_COUNTED) as load:
            _counted(server, counts)
            finish(load)
            found = _counted(server, counts)
    calls: Counter[Function] = Counter()
    for file, name, line, number_of_calls in found:
        calls[file.removeprefix(f"{tree}/"), name, line] += number_of_calls
    return calls


def _counted(server: DriveServer, counts: Path) -> list[Any]:
    os.kill(server.pid, signal.SIGUSR2)
    deadline = time.monotonic() + 10
    while not counts.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the server has not written its counts")
        time.sleep(0.01)
    found: list[Any] = json.loads(counts.read_text())
    counts.unlink()
    return found


def compare(row: str, other: Path, *, rounds: int, seconds: float) -> None:
    """Run one row in alternating rounds and print the ratios."""
    ours: list[Round] = []
    theirs: list[Round] = []
    with stage.folder() as place:
        source = place / "source.bin"
        if row == "big":
            source.write_bytes(os.urandom(MIB) * BIG)
        for index in range(rounds):
            if row == "big":
                for tree, found in ((REPOSITORY, ours), (other, theirs))[:: 1 if index % 2 else -1]:
                    found.append(big(tree, source))
            else:
                this, that = side_by_side(other, row, seconds)
                ours.append(this)
                theirs.append(that)
    rate = statistics.median(a.rate / b.rate for a, b in zip(ours, theirs, strict=True))
    cpu = statistics.median(a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True))
    say(
        f"{row:<8} rate {rate:5.2f} ({_median(theirs, 'rate')} -> {_median(ours, 'rate')} /s)   "
        f"CPU {cpu:5.2f} ({_median(theirs, 'cpu', 1e6)} -> {_median(ours, 'cpu', 1e6)} us)"
    )


def _median(found: list[Round], name: str, factor: float = 1) -> str:
    return number(statistics.median(getattr(each, name) for each in found) * factor)


def compare_calls(row: str, other: Path, *, verbose: bool) -> None:
    """Count calls in both trees and print them for one unit."""
    theirs, ours = count(other, row), count(REPOSITORY, row)
    parts = [
        f"{label} {_per_unit(theirs, mine)} -> {_per_unit(ours, mine)}"
        for label, mine in (("calls", False), ("calls of ours", True))
    ]
    say(f"{row:<8} {', '.join(parts)}, functions of ours {_functions(theirs)} -> {_functions(ours)}")
    if verbose:
        for function in sorted(ours, key=lambda each: -ours[each]):
            if ours[function] > UNITS_COUNTED // 20:
                file, name, line = function
                say(f"  {ours[function] / UNITS_COUNTED:7.2f}  {file.rpartition('site-packages/')[2]}:{line} {name}")


def _is_ours(function: Function) -> bool:
    return function[0].startswith("godrive/")


def _per_unit(calls: Counter[Function], mine: bool) -> str:
    total = sum(made for function, made in calls.items() if _is_ours(function) or not mine)
    return f"{total / UNITS_COUNTED:.0f}"


def _functions(calls: Counter[Function]) -> int:
    """The number of functions that at least every other unit calls."""
    return sum(_is_ours(function) and made >= UNITS_COUNTED // 2 for function, made in calls.items())


def main() -> None:
    """Compare the selected rows."""
    parser = argparse.ArgumentParser("python -m bench.versus", description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="0: count calls only")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--verbose", action="store_true", help="print the calls of each function")
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help=f"one of {', '.join(ROWS)}")
    options = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises, so that the servers are stopped
    other = options.other.resolve()
    for row in options.rows or ROWS:
        if row != "big" and not has(other, row):
            say(f"{row:<8} left out: {other} does not have it")
            continue
        if options.rounds:
            compare(row, other, rounds=options.rounds, seconds=options.seconds)
        if row != "big":
            compare_calls(row, other, verbose=options.verbose)


if __name__ == "__main__":
    main()
