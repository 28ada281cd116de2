"""The scrub: every blob is read again, damage is recorded and told, and nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from godrive.config import Scrub
from godrive.drive import GoDrive
from godrive.errors import DriveError, StoreUnavailable
from godrive.messages.expected import Fault, ListDamage, ReadScrub
from godrive.messages.files import OpenContent, PurgeFile, TrashFile
from godrive.messages.janitor import Sweep
from godrive.model import File, ObjectKey
from godrive.scrub import LEAST, LOOK_EVERY, Scrubbed, Scrubber, is_scrubbed
from godrive.testing import ManualClock, chunks, open_drive, quick_config, sign_up, upload
from tests.ceph import ProbedOnce, own_bucket
from tests.principals import acting
from tests.servers import CephGateway

pytestmark = pytest.mark.anyio

SIZES = (0, 5, 20_000, 300_000, 7)
FAST = Scrub(rate=2**40)


@asynccontextmanager
async def small_drive(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[GoDrive, list[File]]]:
    async with open_drive(data_dir=tmp_path, clock=ManualClock(), blobs={"driver": "disk"}, **options) as drive:
        owner = (await sign_up(drive)).id
        yield drive, [await upload(drive, owner, f"{size}.bin", bytes(size)) for size in SIZES]


class Steps:
    """A scrubber whose steps a test takes, and what it told."""

    def __init__(self, drive: GoDrive, settings: Scrub = FAST) -> None:
        self.told: list[Scrubbed] = []
        self.errors: list[DriveError] = []
        self.scrubber = Scrubber(
            settings,
            drive.clock,
            drive.metadata,
            drive.storage,
            drive.blobs,
            on_step=self.told.append,
            on_error=self.errors.append,
        )

    async def a_pass(self) -> int:
        """Take steps until there is nothing to do, and return how many pages were read."""
        pages = 0
        while not await self.scrubber.step():
            pages += 1
        return pages

    @property
    def found(self) -> dict[ObjectKey, Fault]:
        return {finding.object_key: finding.fault for step in self.told for finding in step.found}


async def key_of(drive: GoDrive, file: File) -> ObjectKey:
    return (await drive.metadata.ask(OpenContent(acting(file.owner_id), file.id))).object_key


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


async def test_a_pass_reads_every_blob_and_the_next_begins_when_it_is_due(tmp_path: Path) -> None:
    async with small_drive(tmp_path) as (drive, _):
        steps, clock = Steps(drive), drive.clock
        assert isinstance(clock, ManualClock)
        await steps.a_pass()
        state = await drive.metadata.ask(ReadScrub())
        assert (state.blobs, state.bytes, state.after, state.damaged) == (5, sum(SIZES), "", {})
        assert state.ended_at == state.begun_at == drive.clock.now()
        clock.advance(FAST.every - 1)
        assert await steps.a_pass() == 0
        clock.advance(1)
        assert await steps.a_pass() == 1
        assert steps.found == {}


async def test_rot_in_packs_and_files_is_found_recorded_and_told_and_nothing_is_moved(tmp_path: Path) -> None:
    async with small_drive(tmp_path) as (drive, files):
        keys = [await key_of(drive, file) for file in files]
        flip(tmp_path / "blobs" / "objects" / keys[3], 100_000)
        (tmp_path / "blobs" / "objects" / keys[2]).unlink()
        (pack,) = (tmp_path / "blobs" / "packs").glob("*.pack")
        flip(pack, pack.read_bytes().rindex(bytes(7)))
        before = sorted(path.name for path in tmp_path.rglob("*"))
        steps = Steps(drive)
        await steps.a_pass()
        expected = {keys[2]: Fault.MISSING, keys[3]: Fault.DIGEST, keys[4]: Fault.UNREADABLE}
        assert steps.found == expected
        damage = await drive.metadata.ask(ListDamage(10))
        assert {each.finding.object_key: each.finding.fault for each in damage} == expected
        assert {each.finding.file_id for each in damage} == {files[n].id for n in (2, 3, 4)}
        assert (await drive.metadata.ask(ReadScrub())).damaged == {"missing": 1, "digest": 1, "unreadable": 1}
        assert sorted(path.name for path in tmp_path.rglob("*")) == before


async def test_what_was_restored_or_purged_is_forgotten_at_the_next_look(tmp_path: Path) -> None:
    async with small_drive(tmp_path) as (drive, files):
        keys = [await key_of(drive, file) for file in files]
        paths = [tmp_path / "blobs" / "objects" / key for key in keys]
        flip(paths[3], 0)
        flip(paths[2], 0)
        steps = Steps(drive)
        await steps.a_pass()
        assert (await drive.metadata.ask(ReadScrub())).damaged == {"digest": 2}
        flip(paths[3], 0)
        assert await steps.scrubber.step() == LOOK_EVERY
        (left,) = await drive.metadata.ask(ListDamage(10))
        assert left.finding.object_key == keys[2]
        owner = acting(files[2].owner_id)
        await drive.metadata.ask(TrashFile(owner, files[2].id))
        await drive.metadata.ask(PurgeFile(owner, files[2].id))
        await drive.janitor.ask(Sweep())
        await steps.scrubber.step()
        assert await drive.metadata.ask(ListDamage(10)) == []
        assert steps.told[-1].state is not None
        assert steps.told[-1].state.damaged == {}


async def test_a_pass_continues_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godrive.scrub.PAGE", 2)
    async with small_drive(tmp_path) as (drive, files):
        first = Steps(drive)
        await first.scrubber.step()
        assert (await drive.metadata.ask(ReadScrub())).blobs == 2
        last = await key_of(drive, files[3])
        await first.scrubber._lease.release(drive.metadata)
    async with open_drive(data_dir=tmp_path, clock=ManualClock(), blobs={"driver": "disk"}) as drive:
        state = await drive.metadata.ask(ReadScrub())
        assert (state.blobs, bool(state.after), state.ended_at) == (2, True, None)
        flip(tmp_path / "blobs" / "objects" / last, 5)
        second = Steps(drive)
        assert await second.a_pass() == 2
        assert second.found == {last: Fault.DIGEST}
        assert (await drive.metadata.ask(ReadScrub())).blobs == 5


async def test_one_process_at_a_time_scrubs(tmp_path: Path) -> None:
    async with small_drive(tmp_path) as (drive, _):
        first, second = Steps(drive), Steps(drive)
        await first.scrubber.step()
        assert await second.scrubber.step() == LOOK_EVERY
        assert second.told == []


async def test_it_reads_no_faster_than_its_rate_and_small_blobs_count_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with small_drive(tmp_path) as (drive, _):
        monkeypatch.setattr("godrive.scrub.asyncio", type("Time", (), {"sleep": staticmethod(sleep)}))
        await Steps(drive, Scrub(rate=100_000)).a_pass()
        assert sum(slept) == pytest.approx((4 * LEAST + 300_000) / 100_000)


async def test_a_store_that_is_down_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with small_drive(tmp_path) as (drive, _):

        async def down(*_: object, **__: object) -> AsyncIterator[bytes]:
            raise StoreUnavailable
            yield b""

        async def never(*_: object) -> None:
            raise StoreUnavailable

        monkeypatch.setattr(drive.blobs, "get", down)
        monkeypatch.setattr(drive.blobs, "list", down)
        monkeypatch.setattr(drive.blobs, "head", never)
        steps = Steps(drive)
        with pytest.raises(StoreUnavailable):
            await steps.scrubber.step()
        assert await drive.metadata.ask(ListDamage(10)) == []
        assert (await drive.metadata.ask(ReadScrub())).blobs == 0


async def test_the_server_scrubs_by_itself_and_tells_in_log_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godrive import logs
    from godrive.http.observe.metrics import Metrics

    monkeypatch.setattr("godrive.scrub.START_AFTER", 0.0)
    async with small_drive(tmp_path) as (drive, files):
        key = await key_of(drive, files[3])
    flip(tmp_path / "blobs" / "objects" / key, 5)
    events: list[Any] = []
    told = asyncio.Event()

    def on_event(event: Any) -> None:
        if isinstance(getattr(event, "reply", None), Scrubbed):
            events.append(event)
            told.set()

    config = quick_config(tmp_path, blobs={"driver": "disk"}, scrub={"rate": 2**40})
    async with GoDrive(config, clock=ManualClock(), on_event=on_event) as drive:
        await asyncio.wait_for(told.wait(), 30)
        with_damage = Metrics(drive).render({}).decode()
        assert 'godrive_damaged_blobs{fault="digest"} 1.0' in with_damage
        assert 'godrive_scrubbed_total{unit="blobs"} 5.0' in with_damage
        assert "godrive_scrub_ended_timestamp_seconds" in with_damage
    lines: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def error(self, event: str, **fields: Any) -> None:
            lines.append((event, fields))

    monkeypatch.setattr(logs, "log", Log())
    logs.on_event(events[0])
    assert lines[0][0] == "blob_damaged"
    assert lines[0][1]["object_key"] == key


def test_the_disk_is_scrubbed_unless_it_is_turned_off_and_s3_only_on_request(tmp_path: Path) -> None:
    def scrubbed(driver: str, **scrub: Any) -> bool:
        return is_scrubbed(quick_config(tmp_path, blobs={"driver": driver}, scrub=scrub))

    assert scrubbed("disk")
    assert not scrubbed("disk", every=0.0)
    assert not scrubbed("memory")
    assert not scrubbed("s3")
    assert scrubbed("s3", bucket=True)


@pytest.mark.servers
async def test_damage_in_a_bucket_is_found_and_forgotten_when_it_is_well(
    tmp_path: Path, ceph_gateway: CephGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godrive.blobs.s3.S3BlobStore", ProbedOnce)
    bucket = {**msgspec.to_builtins(own_bucket(ceph_gateway)), "create_bucket": True}
    blobs, clock = {"driver": "s3", "s3": bucket}, ManualClock()
    async with open_drive(data_dir=tmp_path, clock=clock, blobs=blobs, scrub={"bucket": True}) as drive:
        assert is_scrubbed(drive.config)
        owner = (await sign_up(drive)).id
        files = [await upload(drive, owner, f"{size}.bin", bytes(size)) for size in SIZES]
        keys = [await key_of(drive, file) for file in files]
        steps = Steps(drive)
        assert await steps.a_pass() == 1
        assert (steps.told[0].blobs, steps.found) == (len(SIZES), {})

        async def put(key: ObjectKey, content: bytes) -> None:
            await drive.blobs.delete(key)
            await drive.blobs.put(key, chunks(content, 50_000))

        await drive.blobs.delete(keys[1])
        await put(keys[2], b"short")
        await put(keys[3], bytes(SIZES[3] - 1) + b"x")
        clock.advance(drive.config.scrub.every)
        await steps.a_pass()
        assert steps.found == {keys[1]: Fault.MISSING, keys[2]: Fault.SIZE, keys[3]: Fault.DIGEST}
        for key, size in zip(keys[1:4], SIZES[1:4], strict=True):
            await put(key, bytes(size))
        await steps.scrubber.step()
        assert await drive.metadata.ask(ListDamage(10)) == []
