"""A backup is beside the drive, not in it or around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from godrive.backup.target import open_target
from godrive.clock import SystemClock
from godrive.config import Config
from godrive.configfile import load
from godrive.errors import ConfigError
from godrive.testing import quick_config
from tests.cases import each
from tests.drive_server import run

pytestmark = pytest.mark.anyio

NESTED = ["drive", "drive/backup", "drive/blobs", "link/backup", "drive/out/backup", ".", "round", "elsewhere/b"]
"""Folders of a backup that have the data in them, or are in it or in the blobs, some through links."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "drive").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("drive")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "drive" / "out").symlink_to(tmp_path / "elsewhere")
    return quick_config(tmp_path / "drive", blobs={"driver": "disk", "path": str(tmp_path / "drive" / "out")})


@each("folder", NESTED)
async def test_a_backup_in_the_drive_or_around_it_is_refused_and_makes_no_folder(
    tmp_path: Path, config: Config, folder: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="a folder of the drive") as refused:
        async with open_target(str(tmp_path / folder), config, SystemClock(), create=True):
            pass
    assert "Choose one beside it" in (refused.value.hint or "")
    assert sorted(tmp_path.rglob("*")) == before
    data, blobs = str(config.data_dir), str(config.blobs_path)
    with pytest.raises(ConfigError, match="a folder of the drive") as in_the_file:
        load(overrides={"server.data_dir": data, "blobs.path": blobs, "backup.target": f"{tmp_path / folder}"})
    assert in_the_file.value.field == "backup.target"


async def test_one_beside_it_is_taken_whatever_its_name_begins_with(tmp_path: Path, config: Config) -> None:
    async with open_target(str(tmp_path / "drive-backup"), config, SystemClock(), create=True) as target:
        assert target.name == str(tmp_path / "drive-backup")
    load(overrides={"server.data_dir": str(config.data_dir), "backup.target": f"{tmp_path / 'drive-backup'}"})


@each("command", ["serve", "check-config"])
def test_a_scheduled_one_in_the_drive_is_a_mistake_in_the_configuration(tmp_path: Path, command: str) -> None:
    data = tmp_path / "data"
    file = tmp_path / "config.toml"
    file.write_text(f'[server]\ndata_dir = "{data}"\nport = 0\n[backup]\ntarget = "{data}/backup"\n')
    done = run(command, "--config", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"backup, {data}/backup, is inside {data}" in done.stderr
    assert not data.exists()
