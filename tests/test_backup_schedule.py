"""The schedule of backups: when one is due, and that the server makes it in a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from godrive import logs
from godrive.backup.target import open_target
from godrive.backup_schedule import BackupSchedule, Look, is_due, is_late
from godrive.clock import SystemClock
from godrive.config import Backup
from godrive.doctor import Report, stores
from godrive.drive import GoDrive
from godrive.errors import ConfigError, DriveError, StoreUnavailable
from godrive.http.observe.metrics import Metrics
from godrive.runtime.supervision_events import Ticked
from godrive.testing import ManualClock, quick_config, sign_up, upload
from tests.cases import each

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@each(
    ("at", "last", "started", "due"),
    [
        ("", None, 0, True),
        ("", 23.9, 100, False),
        ("", 24, 100, True),
        ("", -1, 100, True),  # of a clock that was ahead
        ("03:00", None, 1, False),  # the first one waits for the night
        ("03:00", None, 10, True),
        ("03:00", 8.9, 100, False),
        ("03:00", 9.1, 100, True),
        ("12:00", 1, 100, True),
        ("12:01", 24.1, 100, True),
        ("12:01", 23.9, 100, False),
    ],
)
def test_a_backup_is_due_after_its_time_or_once_a_day(at: str, last: float | None, started: float, due: bool) -> None:
    made_at = None if last is None else NOON - timedelta(hours=last)
    assert is_due(Backup(target="/b", at=at), made_at, NOON, NOON - timedelta(hours=started)) is due


def test_a_backup_is_late_after_twice_its_time() -> None:
    for settings in (Backup(target="/b"), Backup(target="/b", at="03:00", every=60.0)):
        assert is_late(settings, None, NOON)
        assert not is_late(settings, NOON - timedelta(hours=48), NOON)
        assert is_late(settings, NOON - timedelta(hours=50), NOON)


@pytest.mark.parametrize("wrong", ["3:00", "24:00", "03:60", "noon"])
def test_a_time_that_is_none_and_a_target_that_is_relative_are_refused(tmp_path: Path, wrong: str) -> None:
    from godrive.configfile import load

    with pytest.raises(ConfigError):
        load(overrides={"backup.at": wrong})
    with pytest.raises(ConfigError, match="whole path"):
        load(overrides={"backup.target": "backups"})


@pytest.mark.slow
async def test_the_server_backs_itself_up_prunes_and_tells_its_age(tmp_path: Path) -> None:
    target = tmp_path / "backup"
    config = quick_config(
        tmp_path / "drive",
        blobs={"driver": "disk"},
        backup={"target": str(target), "keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0, "passphrase": "pass word"},
    )
    looks: list[Look] = []
    errors: list[DriveError] = []
    async with GoDrive(config) as drive:
        await upload(drive, (await sign_up(drive)).id, "a.txt", b"hello")
        assert await doctor(drive) == ("warning", True)

        def on_look(look: Look) -> None:
            looks.append(look)
            drive._on_event(Ticked("backup", look))

        for later in (0.0, 0.9, 1.1):
            clock = ManualClock(datetime.now(UTC) + timedelta(days=later))
            await BackupSchedule(config, clock, drive.metadata, on_look=on_look, on_error=errors.append).look()
        assert [look.is_new for look in looks] == [True, False, True]
        last = looks[-1].last
        assert last is not None
        async with open_target(str(target), config, SystemClock()) as opened:
            assert [snapshot.id for snapshot in await opened.snapshots()] == [last.snapshot_id]
        (line,) = [
            line for line in Metrics(drive).render({}).decode().splitlines() if line.startswith("godrive_backup_age")
        ]
        assert 0 <= float(line.split()[1]) < 600
        assert await doctor(drive) == ("ok", False)
        assert await doctor(drive, later=timedelta(hours=50)) == ("warning", False)
        target.rename(tmp_path / "unmounted")
        clock = ManualClock(datetime.now(UTC) + timedelta(days=3))
        again = BackupSchedule(config, clock, drive.metadata, on_look=on_look, on_error=errors.append)
        with pytest.raises(StoreUnavailable, match=r"is not there\. Mount its disk"):
            await again.look()
        assert not target.exists()
        (target / "objects").mkdir(parents=True)  # as the error says, to begin another one
        await again.look()
        assert looks[-1].is_new
        failing = replace(config, backup=replace(config.backup, passphrase="another"))
        clock = ManualClock(datetime.now(UTC) + timedelta(days=3))
        again = BackupSchedule(failing, clock, drive.metadata, on_look=on_look, on_error=errors.append)
        with pytest.raises(StoreUnavailable, match="The passphrase is not that of the backup"):
            await again.look()
    logs.on_event(Ticked("backup", looks[-1]))


async def doctor(drive: GoDrive, later: timedelta = timedelta()) -> tuple[str, bool]:
    """The verdict about the backup, and whether it says that there is none."""
    report = Report()
    await stores.catalog(drive.config, ManualClock(datetime.now(UTC) + later), report)
    (finding,) = [finding for finding in report.findings if finding.check == "backup"]
    return finding.verdict.value, "no backup" in finding.detail
