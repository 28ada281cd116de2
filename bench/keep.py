"""A drive of a million files that is checked, backed up and restored, and planted faults that must all be found."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from bench import stage
from bench.report import Result, median_of
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.packs.files import PackFiles
from godrive.blobs.packs.index import Index
from godrive.blobs.packs.writer import PackWriter, Put
from godrive.model import ObjectKey
from godrive.reserve import Reserve
from tests.drive_server import PROGRAM, DriveServer, environment
from tests.test_checker import planted

CONTENT = b"the same in every file"
_CHANGES = 1000
_IN_A_SHARD = 5000
_WRITING = 10.0
"""Seconds for which writes are counted without a backup, before and after each: as long as one may take."""


class Keep:
    """A drive on SQLite and disk.  Half of the blobs are in packs, half are files of their own."""

    def __init__(self, *, quick: bool) -> None:
        self.files = 50_000 if quick else 1_000_000
        self.faults = 100 if quick else 1000
        self.rounds = 1 if quick else 5

    def found(self) -> Result:
        """The planted faults that fsck or verify did not find, or named without a reason."""
        with stage.folder() as place:
            wrong = asyncio.run(planted(place, blobs=3 * self.faults, faults=self.faults))
        for command, lines in wrong.items():
            for line in lines:
                print(command, line)
        missed = sum(map(len, wrong.values()))
        return Result(f"faults missed of 2 x {self.faults:,}", missed, "", 0, lower=True)

    def scale(self) -> list[Result]:
        """Seconds of fsck by stat, of a backup of few changes beside a writer, of a restore to the first answer."""
        with stage.folder() as place:
            backup = place / "backup"
            with stage.drive(place) as server:
                ada = stage.person(server)
                file = stage.upload_one(server, ada, "first.txt", CONTENT)
            self._fill(server.data, file["id"])
            results = [self._fsck(server)]
            backup.mkdir()
            shutil.copytree(server.data / "blobs", backup, copy_function=os.link, dirs_exist_ok=True)
            for pack in (backup / "packs").iterdir():  # these are written to, so they are no links
                shutil.copy(pack, pack.with_suffix(".copy"))
                pack.with_suffix(".copy").replace(pack)
            (backup / "blobs.lock").unlink()
            _run(server, "backup", "create", backup)
            server.tables["auth"]["max_entries"] = 10**9
            with server:
                ada = stage.log_in(server, ada)
                with _Writer(server, ada.token) as writer:
                    rounds = [_round(server, backup, writer) for _ in range(self.rounds)]
            besides = [each.beside / each.alone for each in rounds]
            took, cpu, alone, beside, changes = map(median_of, zip(*rounds, strict=True))
            parts = {"alone": alone, "beside": beside, "least": min(besides), "most": max(besides)}
            results += [
                Result(
                    f"backup of {_CHANGES:,} changes and more of {self.files:,}",
                    took,
                    "s",
                    10,
                    lower=True,
                    parts={"changes": changes, "CPU s": cpu},
                ),
                Result("writes beside the backup", median_of(besides), "", 0.9, parts=parts),
            ]
            results.append(self._restore(server, backup, ada.token))
            return results

    def _fsck(self, server: DriveServer) -> Result:
        took, cpu, _ = _timed(server, "fsck")
        return Result(f"fsck of {self.files:,} by stat", took, "s", 60, lower=True, parts={"CPU s": cpu})

    def _restore(self, server: DriveServer, backup: Path, token: str) -> Result:
        """The catalog is lost, and the blobs are still there."""
        for path in server.data.glob("*"):
            if path.is_file():
                path.unlink()
        start = time.monotonic()
        took, cpu, _ = _timed(server, "backup", "restore", backup)
        with server:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", "/v1/files?limit=20", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            listed = json.loads(answer.read())["files"]
            if answer.status != 200 or len(listed) != 20:
                raise RuntimeError(f"the restored drive answers {answer.status}")
            until = time.monotonic() - start
        parts = {"restore": took, "CPU s": cpu}
        return Result(f"restore of {self.files:,} rows to an answer", until, "s", 60, lower=True, parts=parts)

    def _fill(self, data: Path, like: str) -> None:
        """Give the drive so many files, and the store their blobs."""
        stage.preload(data / "godrive.db", files=self.files, users=1, like=like)
        with closing(sqlite3.connect(data / "godrive.db")) as catalog, catalog:
            catalog.execute(
                f"UPDATE versions SET object_key = printf('%08x', rowid / {_IN_A_SHARD}) || '/' || id "
                "WHERE file_id <> ?",
                (like,),
            )
            catalog.execute("DELETE FROM unindexed")  # the index of names would be made beside what is measured
            keys = [row[0] for row in catalog.execute("SELECT object_key FROM versions WHERE file_id <> ?", (like,))]
        path = data / "blobs" / "packs" / "index.db"
        index = Index(path)
        files = PackFiles(data / "blobs" / "packs")
        writer = PackWriter(files, index, lambda _key: False, Reserve(path))
        packed = [key for key in keys if int(key[:8], 16) % 2]
        for start in range(0, len(packed), _IN_A_SHARD):
            some = packed[start : start + _IN_A_SHARD]
            writer.commit([Put(ObjectKey(key), [CONTENT], BodyCheck(None), "") for key in some], [])
        index.close()
        files.close()
        objects = data / "blobs" / "objects"
        for key in keys:
            if int(key[:8], 16) % 2 == 0:
                path = objects / key
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(CONTENT)


class _Round(NamedTuple):
    """A backup: its seconds, those of the processor, the writes a second without it and beside it, its changes."""

    took: float
    cpu: float
    alone: float
    beside: float
    changes: float


def _round(server: DriveServer, backup: Path, writer: _Writer) -> _Round:
    """Make a backup beside the writer.  Those from the one before are not its changes, so they are backed up first."""
    alone = [writer.rate()]
    with writer.paused():
        _run(server, "backup", "create", backup)
    until = len(writer.written) + _CHANGES
    while len(writer.written) < until:
        writer.wait(0.01)
    before = len(writer.written)
    took, cpu, said = _timed(server, "backup", "create", backup, "--background", "--json")
    beside = (len(writer.written) - before) / took
    alone.append(writer.rate())
    return _Round(took, cpu, sum(alone) / 2, beside, json.loads(said)[0]["added_blobs"])


class _Writer:
    """Uploads one small file after the other, and notes when each was stored."""

    def __init__(self, server: DriveServer, token: str) -> None:
        self.written: list[float] = []
        self._ended = threading.Event()
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._thread = threading.Thread(target=self._write, args=(server, token))

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it upload no more until the end of the block, but what it has begun."""
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()

    def wait(self, seconds: float) -> None:
        """Let it write for that long."""
        if self._ended.wait(seconds):
            raise RuntimeError("the writer has ended")

    def rate(self) -> float:
        """Return the writes a second, as long as a backup takes."""
        before, start = len(self.written), time.monotonic()
        self.wait(_WRITING)
        return (len(self.written) - before) / (time.monotonic() - start)

    def _write(self, server: DriveServer, token: str) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        while self._goes_on.wait() and not self._ended.is_set():
            connection.request("PUT", f"/v1/files/by-path/new/{len(self.written)}.txt?parents=true", CONTENT, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 201:
                self._ended.set()
                raise RuntimeError(f"an upload was answered with {answer.status}")
            self.written.append(time.monotonic())


def _run(server: DriveServer, *arguments: str | Path) -> str:
    """Run the command to its end, in a session of its own, as a timer does.  Returns what it says."""
    command = [*PROGRAM, *arguments, "--config", server.folder / "config.toml"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def _timed(server: DriveServer, *arguments: str | Path) -> tuple[float, float, str]:
    """Run the command.  Returns its seconds, those of the processor, and what it says."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = _run(server, *arguments)
    took, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said
