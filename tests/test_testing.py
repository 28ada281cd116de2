"""What godrive.testing promises to applications that test with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from godrive.blobs.memory import MemoryBlobStore
from godrive.drive import GoDrive
from godrive.errors import AskTimeout, EmailTaken, Invalid, StoreUnavailable, TooManyRequests
from godrive.messages.auth import Auth, GetUser, LogIn, SignUp
from godrive.messages.files import ListFiles
from godrive.messages.ingest import CommitUpload
from godrive.messages.storage import CheckStore
from godrive.messages.uploads import BeginUpload, GetUpload
from godrive.model import Anywhere, Root, UserId
from godrive.testing import (
    FaultPoints,
    LoopbackDrive,
    LoopbackRef,
    ManualClock,
    Probe,
    open_drive,
    quick_config,
    sign_up,
    upload,
)
from tests.faults import Fault, Faults, FaultyBlobs
from tests.principals import acting

pytestmark = pytest.mark.anyio


def test_a_manual_clock_moves_only_when_it_is_moved() -> None:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert (clock.now(), clock.monotonic()) == (clock.now(), clock.monotonic())
    clock.advance(1.5)
    assert clock.now() == datetime(2030, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert clock.monotonic() == 1.5
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_a_manual_clock_begins_at_the_time_that_files_are_stamped_with() -> None:
    assert abs(ManualClock().now() - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_drive_for_tests_leaves_nothing_behind() -> None:
    async with open_drive() as drive:
        folder = drive.config.data_dir
        await upload(drive, (await sign_up(drive)).id, "a.txt", b"hello")
        assert folder.exists()
    assert not folder.exists()


async def test_a_folder_of_ones_own_is_kept(tmp_path: Path) -> None:
    async with open_drive(data_dir=tmp_path) as drive:
        owner = await sign_up(drive)
    async with open_drive(data_dir=tmp_path) as drive:
        assert (await drive.auth.ask(GetUser(acting(owner.id)))).email == "ann@example.org"


def test_tables_are_laid_over_what_makes_a_drive_quick(tmp_path: Path) -> None:
    config = quick_config(tmp_path, auth={"signup": "closed"})
    assert (config.auth.signup, config.auth.bcrypt_cost) == ("closed", 4)
    with pytest.raises(msgspec.ValidationError, match="sign_up"):
        quick_config(tmp_path, auth={"sign_up": "closed"})


async def test_over_a_loopback_an_error_keeps_all_it_says() -> None:
    async with open_drive(drive_class=LoopbackDrive, auth={"attempts_per_address": 1}) as drive:
        assert isinstance(drive.auth, LoopbackRef)
        await drive.auth.ask(SignUp("ann@example.org", "correct horse", address="192.0.2.1"))
        with pytest.raises(TooManyRequests) as limited:
            await drive.auth.ask(LogIn("ann@example.org", "correct horse", address="192.0.2.1"))
        assert limited.value.retry_after
        with pytest.raises(EmailTaken) as taken:
            await drive.auth.ask(SignUp("ann@example.org", "correct horse"))
        with pytest.raises(Invalid) as invalid:
            await drive.auth.ask(SignUp("not an address", "correct horse"))
        assert invalid.value.field == "email"
        assert taken.value.__cause__ is None


@pytest.mark.parametrize("drive_class", [GoDrive, LoopbackDrive])
async def test_a_deadline_holds_over_any_ref(drive_class: type[GoDrive]) -> None:
    store = FaultyBlobs(MemoryBlobStore())
    async with open_drive(drive_class=drive_class, blob_store=store) as drive:
        store.faults = faults = Faults(0, Fault.HANGS)
        with pytest.raises(AskTimeout):
            await drive.storage.ask(CheckStore(), timeout=0.01)
        faults.heal()
        await drive.storage.ask(CheckStore())


async def test_what_arrives_over_a_loopback_is_equal_and_not_the_same() -> None:
    async with open_drive(drive_class=LoopbackDrive) as drive:
        owner = await sign_up(drive)
        file = await upload(drive, owner.id, "a.txt", b"hello")
        first, second = [await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere())) for _ in range(2)]
        assert first == second
        assert first.items == [file]
        assert first.items[0] is not second.items[0]


@pytest.mark.parametrize("drive_class", [GoDrive, LoopbackDrive])
async def test_an_answer_that_is_lost_is_to_a_message_that_was_handled(drive_class: type[GoDrive]) -> None:
    faults = FaultPoints()
    async with open_drive(faults=faults, drive_class=drive_class) as drive:
        faults.lose_answer(SignUp)
        with pytest.raises(AskTimeout):
            await sign_up(drive)
        with pytest.raises(EmailTaken):
            await sign_up(drive)


async def test_a_message_that_is_refused_is_not_handled() -> None:
    faults = FaultPoints()
    async with open_drive(faults=faults) as drive:
        faults.refuse(SignUp, TooManyRequests("busy"), times=2)
        for _ in range(2):
            with pytest.raises(TooManyRequests):
                await sign_up(drive)
        assert (await sign_up(drive)).email == "ann@example.org"


async def test_a_fault_also_meets_messages_between_actors() -> None:
    faults = FaultPoints()
    async with open_drive(faults=faults) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
        faults.refuse(GetUpload, StoreUnavailable("down"))
        with pytest.raises(StoreUnavailable):
            await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))  # asks GetUpload of the metadata actor


async def test_a_probe_answers_and_tells_what_it_was_asked() -> None:
    async with open_drive() as drive:
        ann = await sign_up(drive)
    probe, ask = Probe(Auth), GetUser(acting(ann.id))
    probe.answer(GetUser, lambda _: ann)
    assert await probe.ask(ask) == ann
    assert await probe.expect(GetUser) == ask
    assert probe.asked == []
    with pytest.raises(TimeoutError):
        await probe.expect(GetUser, within=0)
    with pytest.raises(AskTimeout):
        await probe.ask(SignUp("ann@example.org", "correct horse"), timeout=0)
    with pytest.raises(TypeError):
        await probe.ask(CheckStore())  # type: ignore[arg-type]


async def test_a_probe_waits_for_what_it_will_be_asked() -> None:
    probe = Probe(Auth)
    probe.answer(GetUser, lambda asked: asked.by)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(probe.expect, GetUser)
        await anyio.wait_all_tasks_blocked()
        await probe.ask(GetUser(acting(UserId("u"))))
    assert probe.asked == []
