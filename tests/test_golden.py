"""Data folders of releases are opened by this one, and lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import golden

pytestmark = pytest.mark.anyio


async def test_a_folder_of_this_release_can_be_made_and_comes_back(tmp_path: Path) -> None:
    made, back = tmp_path / "made", tmp_path / "back"
    await golden.make(made)
    golden.pack(made, tmp_path / "archive.tar.xz")
    assert (tmp_path / "archive.tar.xz").stat().st_size < 200_000
    golden.unpack(tmp_path / "archive.tar.xz", back)
    await golden.check(back)
