"""How many rows one user may have, and that they are counted right whatever becomes of them."""

from __future__ import annotations

import anyio
import pytest

from godrive.errors import Invalid, NameTaken, QuotaExceeded
from godrive.messages.files import EmptyTrash
from godrive.messages.system import FinishCleanup, Prune
from godrive.messages.uploads import AbortUpload, FailUpload
from godrive.model import Upload, UploadState, UserId, UserState
from godrive.rules import users
from godrive.rules.upload_chores import URL_MARGIN
from tests.contracts.rig import GRACE, RETENTION, SERVER, TTL, Rig, host, inside

pytestmark = pytest.mark.anyio


async def counts(rig: Rig, owner: UserId) -> tuple[int, int]:
    """The entries and the pending uploads that are counted for the user, which must be those there are."""
    assert await rig.drift() == 0
    (row,) = await rig.rows("SELECT entry_count, upload_count FROM users WHERE id = $1", owner)
    return int(row[0]), int(row[1])


async def test_no_more_uploads_are_pending_than_one_may_have(rig: Rig) -> None:
    rig.configure("auth", max_pending_uploads=3)
    owner, other = await rig.user(), await rig.user()
    pending = [await rig.begin(owner, f"{number}") for number in range(3)]
    for size in (0, 10):
        with pytest.raises(QuotaExceeded) as caught:
            await rig.begin(owner, "more", size=size)
        assert caught.value.field == "uploads"
    await rig.begin(other)
    await rig.publish(pending[0])
    await rig.begin(owner, "more")
    assert await counts(rig, owner) == (1, 3)


async def test_no_more_entries_are_made_than_one_may_have(rig: Rig) -> None:
    rig.configure("auth", max_entries=3)
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(owner)
    file = await rig.file(owner, where=inside(folder))
    upload = await rig.begin(owner, "pending")
    for make in (rig.begin, rig.folder):
        with pytest.raises(QuotaExceeded) as caught:
            await make(owner, "more")
        assert caught.value.field == "entries"
    await rig.folder(other)
    await rig.publish(upload)
    await rig.trash(file)
    with pytest.raises(QuotaExceeded):  # what is in the trash counts until it is purged
        await rig.folder(owner, "more")
    await rig.ask(EmptyTrash(by=host(owner)))
    with pytest.raises(QuotaExceeded):
        await rig.folder(owner, "more")
    await rig.purge_all()
    await rig.folder(owner, "more")
    assert await counts(rig, owner) == (3, 0)


async def test_the_quota_of_bytes_is_told_from_the_limits_of_rows(rig: Rig) -> None:
    owner = await rig.user(quota=10)
    with pytest.raises(QuotaExceeded) as caught:
        await rig.begin(owner, size=11)
    assert caught.value.field == "size_bytes"


async def test_a_user_with_all_the_rows_there_may_be_can_still_rename_trash_and_restore(rig: Rig) -> None:
    owner = await rig.user()
    file, folder = await rig.file(owner), await rig.folder(owner)
    rig.configure("auth", max_entries=1)
    await rig.rename(file, "renamed")
    for entry in (file, folder):
        await rig.trash(entry)
        await rig.restore(entry)
    assert await counts(rig, owner) == (2, 0)


@pytest.mark.parametrize("limit", ["max_entries", "max_pending_uploads"])
async def test_of_many_uploads_at_once_no_more_are_admitted_than_may_be(rig: Rig, limit: str) -> None:
    rig.configure("auth", **{limit: 4})
    owner = await rig.user()
    admitted: list[Upload] = []
    refused: list[str | None] = []

    async def begin(number: int) -> None:
        try:
            admitted.append(await rig.begin(owner, f"{number}"))
        except QuotaExceeded as error:
            refused.append(error.field)

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(begin, number)
    assert len(admitted) == 4
    assert refused == [{"max_entries": "entries", "max_pending_uploads": "uploads"}[limit]] * 8
    assert await counts(rig, owner) == (0, 4)


async def test_an_upload_is_counted_until_it_ends_in_whatever_way(rig: Rig) -> None:
    owner = await rig.user()
    by = host(owner)
    made = [await rig.begin(owner, f"{number}") for number in range(4)]
    assert await counts(rig, owner) == (0, 4)
    for _ in range(2):
        await rig.publish(made[0])
        assert await counts(rig, owner) == (1, 3)
    for _ in range(2):
        await rig.ask(AbortUpload(by, made[1].id))
        assert await counts(rig, owner) == (1, 2)
    for number, state in ((2, UploadState.FAILED), (3, UploadState.EXPIRED)):
        for _ in range(2):
            await rig.ask(FailUpload(SERVER, made[number].id, "because", state))
            assert await counts(rig, owner) == (1, 3 - number)
    rig.clock.advance(TTL + URL_MARGIN + RETENTION)
    for upload in made:
        await rig.ask(FinishCleanup(upload.id))
    assert (await rig.ask(Prune(10))).uploads == 4
    assert await counts(rig, owner) == (1, 0)


async def test_a_refused_upload_or_folder_is_not_counted(rig: Rig) -> None:
    owner = await rig.user(quota=5)
    await rig.folder(owner, "taken")
    refused = [("taken", 1, NameTaken), ("large", 6, QuotaExceeded), ("a/b", 1, Invalid)]
    for name, size, error in refused:
        with pytest.raises(error):
            await rig.begin(owner, name, size=size)
    with pytest.raises(NameTaken):
        await rig.folder(owner, "taken")
    assert await counts(rig, owner) == (1, 0)


async def test_an_entry_is_counted_until_its_row_is_gone(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    await rig.file(owner, where=inside(folder))
    inner = await rig.folder(owner, "inner", where=inside(folder))
    file = await rig.file(owner, where=inside(inner))
    assert await counts(rig, owner) == (4, 0)
    await rig.trash(file)
    await rig.trash(folder)
    await rig.settle(1)
    assert await counts(rig, owner) == (4, 0)
    rig.clock.advance(GRACE)
    await rig.purge_all()
    assert await counts(rig, owner) == (0, 0)


@pytest.mark.parametrize("deleted", [False, True])
async def test_the_uploads_of_a_user_who_is_disabled_or_deleted_are_counted_out(rig: Rig, deleted: bool) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    await rig.file(owner, where=inside(folder))
    for number in range(3):
        await rig.begin(owner, f"{number}", where=inside(folder))
    if deleted:
        await rig.write(users.delete, owner, now=rig.now)
    else:
        await rig.write(users.set_state, owner, UserState.DISABLED, now=rig.now)
    assert await counts(rig, owner) == (2, 0)
    if deleted:
        await rig.purge_all()
        assert await counts(rig, owner) == (0, 0)
