"""Data folders of releases are opened by this one, and lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from godrive.catalog import migrations
from tests import golden

pytestmark = pytest.mark.anyio

RELEASED = {1: "0c03ee21c4ad7d6682c4962cdd9afd85"}
"""The digest of each migration that a release has run.  One that is here is never edited: the next one changes more."""


@pytest.mark.parametrize("archive", sorted(golden.ARCHIVES.glob("*.tar.xz")), ids=lambda path: path.name)
async def test_the_data_folder_of_a_release_is_opened_and_nothing_is_lost(archive: Path, tmp_path: Path) -> None:
    golden.unpack(archive, tmp_path)
    await golden.check(tmp_path)


@pytest.mark.slow
async def test_a_folder_of_this_release_can_be_made_and_comes_back(tmp_path: Path) -> None:
    made, back = tmp_path / "made", tmp_path / "back"
    await golden.make(made)
    golden.pack(made, tmp_path / "archive.tar.xz")
    assert (tmp_path / "archive.tar.xz").stat().st_size < 200_000
    golden.unpack(tmp_path / "archive.tar.xz", back)
    await golden.check(back)


def test_a_migration_that_a_release_has_run_is_never_edited() -> None:
    digests = {step.version: step.digest for step in migrations.migrations()}
    assert {version: digests.get(version) for version in RELEASED} == RELEASED
    assert list(golden.ARCHIVES.glob("*.tar.xz")), "scripts/golden makes the folder of a release"
