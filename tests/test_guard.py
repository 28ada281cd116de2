"""Nothing that a test started outlives the run, however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.guard import Guard
from tests.servers import NatsServer, answers

REPOSITORY = Path(__file__).resolve().parent.parent

CHILDREN = """
import subprocess, sys
from pathlib import Path
from tests.daemon import Daemon
from tests.guard import guard

folder = Path(sys.argv[1])
files = [folder / "grandchild", folder / "stranger"]
daemon = Daemon(["sh", "-c", "sleep 1000 & echo $! >$0; wait", files[0]], folder / "log")
stubborn = Daemon(["sh", "-c", "trap '' TERM HUP; setsid sleep 1000 & echo $! >$0; wait", files[1]], folder / "log2")
stopped = Daemon(["sleep", "1000"], folder / "log3")
ended = Daemon(["true"], folder / "log4")
ended.wait()
for process, file in zip((daemon, stubborn), files):
    process.wait_until(lambda: file.exists() and file.read_text())
# Before it is a sleep, it is the shell that notes it.  Stopped as that, it would have no note, and never end.
stopped.wait_until(lambda: Path(f"/proc/{stopped.pid}/comm").read_text().strip() == "sleep")
import signal
stopped.send(signal.SIGSTOP)
pids = [daemon.pid, stubborn.pid, stopped.pid, *(int(file.read_text()) for file in files)]
print(guard().folder, *pids, flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
"""

RUN = """
import os
from pathlib import Path

import pytest

from godrive.testing import quick_folder
from tests.daemon import Daemon

HERE = Path(__file__).parent


def note(name, *words):
    (HERE / f"{name}.tmp").write_text(" ".join(map(str, words)))
    (HERE / f"{name}.tmp").rename(HERE / name)


@pytest.mark.parametrize("number", [1, 2])
def test_wait(number, nats_server):
    own, drive = Daemon(["sleep", "1000"], HERE / "log"), quick_folder()
    note(f"ready-{number}", os.getpid(), own.pid, nats_server.port, nats_server.folder.parent, drive.name)
    while True:
        own.wait(100)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(check: Callable[[], bool], *, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def start(folder: Path, ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILDREN, str(folder), ending],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@pytest.mark.parametrize("ending", ["kill", "exit"])
def test_children_grandchildren_and_those_that_ignore_signals_end_with_their_owner(tmp_path: Path, ending: str) -> None:
    with start(tmp_path, "wait" if ending == "kill" else "exit") as owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        if ending == "kill":
            assert all(alive(int(pid)) for pid in pids)
            owner.kill()
    if ending == "kill":
        until(lambda: not Path(folder).exists())
    assert not Path(folder).exists(), "an orderly end waits for the watcher"
    assert not any(alive(int(pid)) for pid in pids)


def test_a_process_that_took_the_number_of_an_ended_one_is_left_alone(tmp_path: Path) -> None:
    guard = Guard.own()
    with subprocess.Popen(["sleep", "1000"]) as other:
        stat = Path(f"/proc/{other.pid}/stat").read_text().split()
        stat[21] = str(int(stat[21]) - 1)  # when it started
        (guard.folder / "processes" / "1.9").write_text(" ".join(stat))
        guard.close()
        assert not guard.folder.exists()
        assert alive(other.pid)
        other.kill()


def test_what_starts_after_its_owner_is_gone_does_not_run(tmp_path: Path) -> None:
    guard = Guard.own()
    command, _ = guard.command(["touch", tmp_path / "ran"])
    guard.close()
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Run pytest on a file of two tests that wait, in so many workers."""
    require(NatsServer)
    (tmp_path / "test_waiting.py").write_text(RUN)
    runs: list[subprocess.Popen[bytes]] = []

    def start(workers: int) -> subprocess.Popen[bytes]:
        options = [
            "-p",
            "xdist",
            "-n",
            str(workers),
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
        ]
        runs.append(
            subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return runs[-1]

    yield start
    for process in runs:
        process.kill()
        process.communicate()


def ready(folder: Path, count: int) -> list[tuple[int, int, int, Path, Path]]:
    """Of each test that waits: its process, its own server, the shared server's port, the folders of run and drive."""
    until(lambda: len([*folder.glob("ready-?")]) == count, within=60)
    found = []
    for path in sorted(folder.glob("ready-?")):
        worker, own, port, place, drive = path.read_text().split()
        found.append((int(worker), int(own), int(port), Path(place), Path(drive)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_servers_end_when_pytest_is_killed(
    run: Callable[[int], subprocess.Popen[bytes]], tmp_path: Path, workers: int
) -> None:
    process = run(workers)
    found = ready(tmp_path, max(workers, 1))
    port, place = found[0][2:4]
    assert {entry[2:4] for entry in found} == {(port, place)}, "one server for all workers"
    assert all(entry[4].exists() for entry in found)
    assert answers(port)
    process.kill()
    until(lambda: not place.exists())
    until(lambda: not answers(port))  # its last thread may still close the socket
    until(lambda: not any(alive(pid) for entry in found for pid in entry[:2]))
    assert not any(entry[4].exists() for entry in found)


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_own_servers_with_it_and_leaves_the_shared_ones(
    run: Callable[[int], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = run(2)
    (worker, own, port, place, _), (other, others_own, *_) = ready(tmp_path, 2)
    os.kill(worker, signal.SIGKILL)
    until(lambda: not alive(own))
    assert process.poll() is None
    assert alive(other)
    assert alive(others_own)
    assert answers(port)
    process.kill()
    until(lambda: not place.exists())
    until(lambda: not answers(port))  # its last thread may still close the socket
