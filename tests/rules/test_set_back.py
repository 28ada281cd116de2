"""A clock that ran ahead and was set back: nothing that it made due waits until that time comes again."""

from __future__ import annotations

import pytest

from godrive.messages.system import ClaimPurges, DueCleanups
from godrive.messages.uploads import AbortUpload
from tests.contracts.rig import GRACE, Rig, host

pytestmark = pytest.mark.anyio

AHEAD = 40 * 86_400.0


async def test_a_purge_that_was_claimed_ahead_is_due_again_at_once(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    await rig.trash(file)
    rig.clock.jump(AHEAD)
    assert [purge.file_id for purge in await rig.ask(ClaimPurges(10))] == [file.id]
    rig.clock.jump(-AHEAD)
    assert [purge.file_id for purge in await rig.ask(ClaimPurges(10))] == [file.id]


async def test_a_file_that_was_trashed_ahead_is_purged_after_its_grace(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    rig.clock.jump(AHEAD)
    await rig.trash(file)
    rig.clock.jump(-AHEAD)
    assert await rig.ask(ClaimPurges(10)) == []
    rig.clock.advance(GRACE)
    assert [purge.file_id for purge in await rig.ask(ClaimPurges(10))] == [file.id]


async def test_a_cleanup_of_an_upload_that_was_aborted_ahead_is_due_at_once(rig: Rig) -> None:
    owner = await rig.user()
    rig.clock.jump(AHEAD)
    upload = await rig.begin(owner)
    await rig.ask(AbortUpload(by=host(owner), upload_id=upload.id))
    rig.clock.jump(-AHEAD)
    assert [cleanup.upload_id for cleanup in await rig.ask(DueCleanups(10))] == [upload.id]
