"""The lists of a backup that are too long for the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from godrive.backup.spool import Spool
from godrive.errors import StorageFull


def test_pages_come_as_they_were_added(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", str) as spool:
        for page in (["a", "b"], [], ["c"]):
            spool.add(page)
        assert list(spool.pages()) == [["a", "b"], [], ["c"]]


def test_a_disk_without_room_is_full_and_nothing_else() -> None:
    with pytest.raises(StorageFull, match="data folder"), Spool(Path("/dev/full"), str) as spool:
        spool.add(["a"])
