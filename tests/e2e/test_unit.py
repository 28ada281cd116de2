"""The server under what its systemd unit forbids: strace refuses the system calls, as the filter of the unit does."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.drive_server import DriveServer
from tests.e2e.client import Client

pytestmark = pytest.mark.anyio

UNIT = (files("godrive.commands") / "godrive.service").read_text()


def call_sets() -> dict[str, list[str]]:
    """The sets of system calls of systemd: what each has, which may be another set."""
    program = require_program("systemd-analyze", "systemd")
    text = subprocess.run([program, "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True).stdout
    sets: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            sets[line] = members = []
        elif re.fullmatch(r" +@?\w[\w-]*", line):
            members.append(line.strip())
    return sets


def forbidden() -> set[str]:
    """The system calls that the unit forbids."""
    sets = call_sets()

    def calls(name: str) -> set[str]:
        return set().union(*map(calls, sets[name])) if name.startswith("@") else {name}

    allowed: set[str] = calls("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT, re.MULTILINE):
        named = set().union(*map(calls, line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return calls("@known") - allowed


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[DriveServer]:
    strace = str(require_program("strace", "strace"))
    # A call that this strace does not know is none of ours.  With -DD the server keeps its process id.
    # The executable is tested in another root, which the server itself never changes.
    names = ",".join(f"?{name}" for name in sorted(forbidden() - {"chroot"}))
    refusing = ("-e", f"trace={names}", "-e", f"inject={names}:error=EPERM")
    prefix = (strace, "-f", "-DD", "--seccomp-bpf", "-qqq", "-o", str(tmp_path / "refused"), *refusing)
    with DriveServer(tmp_path, prefix=prefix) as server:
        yield server


async def test_the_server_does_its_work_with_the_calls_that_its_unit_allows(guarded: DriveServer) -> None:
    async with Client.connect(guarded.url, timeout=30) as client:
        await client.enter()
        for size in (0, 4096, 20_000_000):
            content = os.urandom(size)
            file = await client.upload(f"{size}.bin", content)
            assert await client.download(file["id"]) == content
        await client.request("POST", "/v1/folders", {"name": "a"})
        assert len(await client.files()) == 3
    guarded.stop()
    refused = set(re.findall(r"^\d+ +(\w+)\(", (guarded.folder / "refused").read_text(), re.MULTILINE))
    assert refused <= {"fchown"}  # which root does, so that a file is the owner's of the data folder
