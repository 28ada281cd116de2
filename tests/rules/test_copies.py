"""Copies: bytes shared and counted, trees whole or not at all, whatever happens while they are built."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from godrive.catalog import Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import (
    Conflict,
    Cycle,
    DriveError,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    TooDeep,
    TooManyRequests,
)
from godrive.messages.files import CopyFile, GetFile, ListByProperty, ListFavorites, MakeFolder, OpenContent, UpdateFile
from godrive.messages.system import ClaimPurges, ClaimVersions, ClearCopies, DueEvents, FinishPurge, FinishVersion
from godrive.messages.versions import DeleteVersion
from godrive.model import At, ETag, File, FileEventKind, FileKind, In, OnConflict, Root, Usage, UserId, UserState
from godrive.principal import ApiToken, Scope
from godrive.rules import copies, tree_copies, users
from godrive.rules.names import MOST_DEPTH
from godrive.rules.registry import PROCEDURES
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Names = dict[str, Any]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trees of more than three entries take several transactions."""
    monkeypatch.setattr(copies, "MOST_AT_ONCE", 3)


class Killed(BaseException):
    """The process ends between two transactions."""


class Stepwise:
    """A catalog that calls *between* after each write."""

    def __init__(self, rig: Rig, between: Callable[[], Awaitable[None]]) -> None:
        self.rig, self.between = rig, between

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False) -> T:
        return await self.rig.catalog.read(operation, chore=chore)

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        value = await self.rig.catalog.write(operation, chore=chore)
        await self.between()
        return value


async def copy_stepwise(rig: Rig, file: File, between: Callable[[], Awaitable[None]], **options: Any) -> File:
    """Copy, and call *between* after each transaction."""
    copied: File = await PROCEDURES[CopyFile](
        Stepwise(rig, between),  # type: ignore[arg-type]
        CopyFile(by=host(file.owner_id), file_id=file.id, **options),
        lambda: rig.env,
    )
    return copied


async def tree(rig: Rig, owner: UserId, name: str = "top") -> File:
    """Three levels: 3 folders, 7 files of 10 bytes, one empty folder."""
    top = await rig.folder(owner, name)
    inner = await rig.folder(owner, "inner", where=inside(top))
    await rig.folder(owner, "empty", where=inside(top))
    for number in range(4):
        await rig.file(owner, f"{number}", where=inside(top))
    for number in range(3):
        await rig.file(owner, f"deep {number}", where=inside(inner))
    return top


SIZE, ENTRIES = 70, 10
NAMES: Names = {"inner": {f"deep {n}": None for n in range(3)}, "empty": {}, **{f"{n}": None for n in range(4)}}


async def names(rig: Rig, folder: File) -> Names:
    """Everything in the folder, by name."""
    listed = await rig.files(folder.owner_id, where=inside(folder))
    return {f.name: await names(rig, f) if f.kind is FileKind.FOLDER else None for f in listed}


async def keys(rig: Rig, folder: File) -> set[str]:
    """The object keys of all files below the folder."""
    found: set[str] = set()
    for file in await rig.files(folder.owner_id, where=inside(folder)):
        if file.kind is FileKind.FOLDER:
            found |= await keys(rig, file)
        else:
            found.add((await rig.ask(OpenContent(by=host(folder.owner_id), file_id=file.id))).object_key)
    return found


async def entry_count(rig: Rig, owner: UserId) -> int:
    ((count,),) = await rig.rows("SELECT entry_count FROM users WHERE id = $1", owner)
    return int(count)


async def test_a_copy_of_a_file_shares_its_bytes_and_counts_with_its_size(rig: Rig) -> None:
    owner = await rig.user()
    modified_at = rig.now - timedelta(days=1)
    file, folder = await rig.file(owner, "a.txt", modified_at=modified_at), await rig.folder(owner)
    rig.clock.advance(1)
    copied = await rig.copy(file, where=inside(folder))
    assert (copied.name, copied.parent_id, copied.created_at) == ("a.txt", folder.id, rig.now)
    assert (copied.size_bytes, copied.mime, copied.sha256) == (file.size_bytes, file.mime, file.sha256)
    assert (copied.updated_at, copied.modified_at) == (rig.now, modified_at)
    assert copied.id != file.id
    assert copied.version_id != file.version_id
    assert copied == await rig.get(owner, copied.id)
    contents = [await rig.ask(OpenContent(by=host(owner), file_id=f.id)) for f in (file, copied)]
    assert contents[0].object_key == contents[1].object_key
    assert await rig.usage(owner) == Usage(live_bytes=20)
    assert await entry_count(rig, owner) == 3
    assert sorted(await rig.names(owner)) == ["a.txt", "a.txt"]
    assert await rig.drift() == 0


@pytest.mark.parametrize("most", [3, 100])
async def test_a_copy_has_the_properties_of_its_source_and_is_no_favorite(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(copies, "MOST_AT_ONCE", most)
    owner = await rig.user()
    top = await tree(rig, owner)
    (deep,) = [file for file in await rig.files(owner) if file.name == "deep 1"]
    for file in (top, deep):
        await rig.ask(UpdateFile(by=host(owner), file_id=file.id, properties={"color": "red"}, favorite=True))
    copied = await rig.copy(top, name="copy")
    assert (copied.properties, copied.favorite) == ({"color": "red"}, False)
    await rig.settle()
    found = await rig.ask(ListByProperty(by=host(owner), key="color"))
    assert sorted(file.name for file in found.items) == ["copy", "deep 1", "deep 1", "top"]
    favorites = await rig.ask(ListFavorites(by=host(owner)))
    assert {file.id for file in favorites.items} == {top.id, deep.id}
    assert all(file.properties == {"color": "red"} for file in found.items)


async def test_a_copy_beside_its_source_needs_another_name(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    file = await rig.file(owner, "a.txt", where=inside(folder))
    with pytest.raises(NameTaken):
        await rig.copy(file)
    numbered = await rig.copy(file, on_conflict=OnConflict.RENAME)
    assert (numbered.name, numbered.parent_id) == ("a (1).txt", folder.id)
    assert (await rig.copy(file, name="b.txt")).name == "b.txt"
    assert (await rig.copy(file, where=ROOT)).parent_id is None
    assert (await rig.copy(folder, name="other")).parent_id is None


@pytest.mark.usefixtures("small_steps")
async def test_a_tree_is_copied_whole_in_small_steps(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    copied = await rig.copy(top, name="copy")
    assert await names(rig, copied) == await names(rig, top) == NAMES
    assert await keys(rig, copied) == await keys(rig, top)
    await rig.settle()
    assert await rig.usage(owner) == Usage(live_bytes=2 * SIZE)
    assert sorted(await rig.names(owner)) == sorted(2 * [*NAMES["inner"], *"0123"])
    assert await entry_count(rig, owner) == 2 * ENTRIES
    assert await rig.drift() == 0
    assert await rig.rows("SELECT id FROM copies UNION ALL SELECT folder_id FROM uncopied") == []


async def test_a_small_tree_is_listed_at_once(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    copied = await rig.copy(top, name="copy")
    assert await names(rig, copied) == NAMES
    assert len(await rig.names(owner)) == 14
    assert await rig.usage(owner) == Usage(live_bytes=2 * SIZE)
    assert await rig.drift() == 0


@pytest.mark.parametrize("most", [3, 100])
async def test_a_copy_of_a_tree_is_one_event(rig: Rig, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(copies, "MOST_AT_ONCE", most)
    owner = await rig.user()
    top = await tree(rig, owner)
    before = await rig.ask(DueEvents(limit=100))
    copied = await rig.copy(top, name="copy")
    (event,) = (await rig.ask(DueEvents(limit=100)))[len(before) :]
    assert (event.kind, event.file_id, event.file) == (FileEventKind.CREATED, copied.id, copied)


@pytest.mark.usefixtures("small_steps")
async def test_what_is_built_of_a_copy_is_nowhere_to_be_seen_and_is_charged_in_advance(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    before = {file.id for file in await rig.files(owner)}, {file.id for file in await rig.files(owner, where=ROOT)}
    steps = 0

    async def look() -> None:
        nonlocal steps
        steps += 1
        built = await rig.rows("SELECT id, kind FROM entries WHERE created_at = $1", at)
        assert await rig.drift() == 0
        if not await rig.rows("SELECT id FROM copies"):
            return
        assert {file.id for file in await rig.files(owner)} == before[0]
        assert {file.id for file in await rig.files(owner, where=ROOT)} == before[1]
        assert await rig.binned(owner) == []
        assert await rig.usage(owner) == Usage(live_bytes=SIZE, reserved_bytes=SIZE)
        assert await entry_count(rig, owner) == 2 * ENTRIES
        assert built
        for id_, kind in built:
            with pytest.raises(NotFound):
                await rig.get(owner, id_)
            if kind == "folder":
                with pytest.raises(NotFound):
                    await rig.ask(CopyFile(by=host(owner), file_id=top.id, where=In(folder_id=id_)))

    rig.clock.advance(1)
    at = int(rig.now.timestamp() * 1_000_000)
    await copy_stepwise(rig, top, look, name="copy")
    assert steps > 5


async def test_a_copy_beyond_the_quota_is_refused_before_anything_is_built(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await rig.user(quota=2 * SIZE - 1)
    top = await tree(rig, owner)
    for most in (copies.MOST_AT_ONCE, 3):
        monkeypatch.setattr(copies, "MOST_AT_ONCE", most)
        rows = await rig.rows("SELECT id FROM entries")
        with pytest.raises(QuotaExceeded) as refused:
            await copy_stepwise(rig, top, _nothing, name="copy")
        assert refused.value.field == "size_bytes"
        assert await rig.rows("SELECT id FROM entries") == rows
        rig.configure("auth", max_entries=2 * ENTRIES - 1)
        await rig.run("UPDATE users SET quota_bytes = NULL")
        with pytest.raises(QuotaExceeded) as refused:
            await rig.copy(top, name="copy")
        assert refused.value.field == "entries"
        assert await rig.usage(owner) == Usage(live_bytes=SIZE)
        rig.configure("auth", max_entries=2 * ENTRIES)
        await rig.run("UPDATE users SET quota_bytes = $1", 2 * SIZE - 1)
    await rig.run("UPDATE users SET quota_bytes = $1", 2 * SIZE)
    assert await names(rig, await rig.copy(top, name="copy")) == NAMES
    assert await rig.drift() == 0


async def _nothing() -> None:
    pass


@pytest.mark.usefixtures("small_steps")
async def test_wherever_a_copy_is_interrupted_it_is_cleared_and_its_charge_given_back(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    shared = await keys(rig, top)
    for last in range(2, 9):
        steps = 0

        async def die(last: int = last) -> None:
            nonlocal steps
            steps += 1
            if steps == last:
                raise Killed

        attached = False
        try:
            await copy_stepwise(rig, top, die, name="copy")
        except Killed:
            attached = await rig.rows("SELECT id FROM copies") == []
        assert await rig.names(owner, where=ROOT) == (["copy", "top"] if attached else ["top"])
        assert not await rig.ask(ClearCopies())  # it may still be built
        rig.clock.advance(tree_copies.PATIENCE)
        assert await rig.ask(ClearCopies()) is not attached
        assert await rig.drift() == 0
        if attached:
            break
        for purge in await rig.purge_all():
            assert not shared.intersection(purge.object_keys)
        await rig.settle()
        assert await rig.usage(owner) == Usage(live_bytes=SIZE)
        assert await entry_count(rig, owner) == ENTRIES
        assert await rig.drift() == 0
    else:
        raise AssertionError("the copy was never attached")


@pytest.mark.usefixtures("small_steps")
async def test_a_copy_that_was_cleared_is_not_built_on(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)

    async def clear() -> None:
        rig.clock.advance(tree_copies.PATIENCE)
        await rig.ask(ClearCopies())
        await rig.purge_all()

    with pytest.raises(Conflict):
        await copy_stepwise(rig, top, clear, name="copy")
    assert await rig.names(owner, where=ROOT) == ["top"]
    assert await rig.usage(owner) == Usage(live_bytes=SIZE)
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("step", range(1, 8))
async def test_a_source_that_is_purged_meanwhile_leaves_a_copy_with_its_bytes_or_none(rig: Rig, step: int) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    steps, deleted = 0, set[str]()

    async def purge() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            await rig.trash(top)
            await rig.purge(top)
        if steps >= step:
            for item in await rig.ask(ClaimPurges(limit=1)):
                deleted.update(item.object_keys)
                await rig.ask(FinishPurge(item.file_id, item.revision))

    try:
        copied = await copy_stepwise(rig, top, purge, name="copy")
    except NotFound:
        assert await rig.names(owner, where=ROOT) == []
    else:
        assert await keys(rig, copied) == await keys(rig, copied) - deleted
    await rig.settle()
    for item in await rig.purge_all():
        deleted.update(item.object_keys)
    left = {row[0] for row in await rig.rows("SELECT object_key FROM versions")}
    assert not left & deleted
    assert len(left | deleted) == 7
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
async def test_a_folder_trashed_in_the_source_meanwhile_ends_there_and_the_rest_is_copied(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    (inner,) = [file for file in await rig.files(owner, where=inside(top)) if file.name == "inner"]
    trashed = False

    async def trash() -> None:
        nonlocal trashed
        if not trashed and await rig.rows("SELECT 1 FROM uncopied WHERE source_id = $1", inner.id):
            trashed = True
            await rig.trash(inner)

    copied = await copy_stepwise(rig, top, trash, name="copy")
    found = await names(rig, copied)
    assert trashed
    assert found == {**NAMES, "inner": found["inner"]}
    assert found["inner"] == {}
    await rig.settle()
    assert (await rig.usage(owner)).used_bytes == SIZE + 40
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
async def test_a_tree_that_grows_meanwhile_is_charged_for_what_is_copied(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    added = 0

    async def add() -> None:
        nonlocal added
        rig.clock.advance(1)
        if added < 9:
            added += 1
            await rig.file(owner, f"added {added}", where=inside(top))

    copied = await copy_stepwise(rig, top, add, name="copy")
    found = await names(rig, copied)
    assert {**found, **NAMES} == found
    assert len(found) > len(NAMES)
    await rig.settle()
    assert (await rig.usage(owner)).live_bytes == 2 * SIZE + 10 * (added + len(found) - len(NAMES))
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
async def test_a_name_that_wanders_in_the_source_meanwhile_is_numbered_in_the_copy(rig: Rig) -> None:
    owner = await rig.user()
    top = await rig.folder(owner, "top")
    files = []
    for number in range(6):
        rig.clock.advance(1)
        files.append(await rig.file(owner, f"{number}", where=inside(top)))
    steps = 0

    async def swap() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:  # the first are copied
            await rig.rename(files[0], "x")
            await rig.rename(files[5], "0")

    copied = await copy_stepwise(rig, top, swap, name="copy")
    assert set(await names(rig, copied)) == {"0", "1", "2", "3", "4", "0 (1)"}


@pytest.mark.usefixtures("small_steps")
async def test_a_target_that_goes_meanwhile_ends_the_copy_and_nothing_is_left(rig: Rig) -> None:
    owner = await rig.user()
    top, target = await tree(rig, owner), await rig.folder(owner, "target")
    trashed = False

    async def trash() -> None:
        nonlocal trashed
        if not trashed and await rig.rows("SELECT 1 FROM copies"):
            trashed = True
            await rig.trash(target)

    with pytest.raises(NotFound) as missing:
        await copy_stepwise(rig, top, trash, where=inside(target))
    assert missing.value.field == "parent_id"
    await rig.purge_all()
    await rig.settle()
    assert await rig.usage(owner) == Usage(live_bytes=SIZE)
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
async def test_an_owner_who_is_disabled_meanwhile_gets_the_charge_of_the_copy_back_once(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    await rig.begin(owner, size=5)
    disabled = False

    async def disable() -> None:
        nonlocal disabled
        if not disabled and await rig.rows("SELECT 1 FROM copies"):
            disabled = True
            await rig.catalog.write(lambda tx: users.set_state(tx, owner, UserState.DISABLED, now=rig.now))
            assert await rig.drift() == 0

    with pytest.raises(NotFound):
        await copy_stepwise(rig, top, disable, name="copy")
    assert await rig.drift() == 0
    await rig.catalog.write(lambda tx: users.set_state(tx, owner, UserState.ACTIVE, now=rig.now))
    await rig.purge_all()
    await rig.settle()
    assert await rig.usage(owner) == Usage(live_bytes=SIZE)
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("on_conflict", [OnConflict.FAIL, OnConflict.RENAME])
async def test_a_name_taken_meanwhile_is_a_conflict_like_any_other(rig: Rig, on_conflict: OnConflict) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)

    async def take() -> None:
        if await rig.rows("SELECT 1 FROM copies") and "copy" not in await rig.names(owner, where=ROOT):
            await rig.folder(owner, "copy")

    if on_conflict is OnConflict.RENAME:
        copied = await copy_stepwise(rig, top, take, name="copy", on_conflict=on_conflict)
        assert copied.name == "copy (1)"
    else:
        with pytest.raises(NameTaken):
            await copy_stepwise(rig, top, take, name="copy", on_conflict=on_conflict)
        assert await rig.names(owner, where=ROOT) == ["copy", "top"]
    assert await rig.drift() == 0


@pytest.mark.usefixtures("small_steps")
async def test_an_owner_builds_at_most_two_copies_at_a_time(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)

    async def die() -> None:
        if await rig.rows("SELECT 1 FROM uncopied WHERE after_id <> ''"):
            raise Killed

    for number in range(tree_copies.MOST_BUILDING):
        await rig.run("UPDATE uncopied SET after_id = ''")
        with pytest.raises(Killed):
            await copy_stepwise(rig, top, die, name=f"copy {number}")
    with pytest.raises(TooManyRequests):
        await rig.copy(top, name="third")
    other = await rig.user()
    assert await names(rig, await rig.copy(await tree(rig, other), name="copy")) == NAMES
    rig.clock.advance(tree_copies.PATIENCE)  # those that nobody builds any more do not count
    assert await names(rig, await rig.copy(top, name="third")) == NAMES
    while await rig.ask(ClearCopies()):
        pass
    assert await rig.drift() == 0


async def test_a_folder_is_not_copied_into_itself(rig: Rig) -> None:
    owner = await rig.user()
    top = await rig.folder(owner, "top")
    inner = await rig.folder(owner, "inner", where=inside(top))
    for where in (inside(top), inside(inner)):
        with pytest.raises(Cycle):
            await rig.copy(top, where=where)
    assert (await rig.copy(inner, where=inside(top), name="beside")).parent_id == top.id


async def test_a_copy_needs_the_right_to_read_its_source_and_to_write_its_target(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file, foreign = await rig.file(owner, "a.txt"), await rig.folder(other)
    inner, outer = await rig.folder(owner, "inner"), await rig.folder(owner, "outer")
    with pytest.raises(NotFound):
        await rig.ask(CopyFile(by=host(other), file_id=file.id))
    with pytest.raises(NotFound):
        await rig.copy(file, where=inside(foreign))
    both = frozenset({Scope.FILES_READ, Scope.FILES_WRITE})
    for scope in both:
        token = ApiToken(user_id=owner, token_id="t", scopes=frozenset({scope}))
        with pytest.raises(DriveError) as refused:
            await rig.ask(CopyFile(by=token, file_id=file.id, name="b"))
        assert refused.value.code == "forbidden"
    confined = ApiToken(user_id=owner, token_id="t", scopes=both, folder_id=inner.id)
    mine = await rig.file(owner, "mine", where=inside(inner))
    for file_id, where in ((file.id, inside(inner)), (mine.id, inside(outer)), (inner.id, None)):
        with pytest.raises(DriveError) as refused:
            await rig.ask(CopyFile(by=confined, file_id=file_id, where=where, name="b"))
        assert refused.value.code in ("not_found", "cycle")
    copied = await rig.ask(CopyFile(by=confined, file_id=mine.id, where=Root(), name="b"))
    assert copied.parent_id == inner.id
    with pytest.raises(PreconditionFailed):
        await rig.copy(file, name="c", if_match=ETag("other"))


async def test_a_purge_of_the_source_leaves_the_bytes_to_the_copy_and_the_last_purge_takes_them(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner, "a.txt")
    copied = await rig.copy(file, name="b.txt")
    key = (await rig.ask(OpenContent(by=host(owner), file_id=copied.id))).object_key
    await rig.trash(file)
    await rig.purge(file)
    (purge,) = await rig.purge_all()
    assert purge.object_keys == []
    assert (await rig.ask(OpenContent(by=host(owner), file_id=copied.id))).object_key == key
    await rig.trash(copied)
    await rig.purge(copied)
    (purge,) = await rig.purge_all()
    assert purge.object_keys == [key]
    assert await rig.usage(owner) == Usage()
    assert await rig.drift() == 0


async def test_a_version_that_is_deleted_leaves_the_bytes_to_the_copy_of_it(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner, "a.txt")
    copied = await rig.copy(file, name="b.txt")
    key = (await rig.ask(OpenContent(by=host(owner), file_id=copied.id))).object_key
    replaced = await rig.file(owner, "a.txt", size=20, on_conflict=OnConflict.REPLACE)
    assert replaced.id == file.id
    assert file.version_id is not None
    await rig.ask(DeleteVersion(by=host(owner), file_id=file.id, version_id=file.version_id))
    (purge,) = await rig.ask(ClaimVersions(limit=10))
    assert purge.object_key is None
    await rig.ask(FinishVersion(version_id=purge.version_id))
    assert (await rig.ask(OpenContent(by=host(owner), file_id=copied.id))).object_key == key
    again = await rig.copy(replaced, name="c.txt")
    assert again.size_bytes == 20
    assert await rig.rows("SELECT COUNT(*) FROM versions WHERE file_id = $1", again.id) == [(1,)]
    await rig.trash(copied)
    await rig.purge(copied)
    (last,) = await rig.purge_all()
    assert last.object_keys == [key]
    assert await rig.drift() == 0


async def test_an_entry_that_is_being_purged_cannot_be_copied(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    (inner,) = [file for file in await rig.files(owner, where=inside(top)) if file.name == "inner"]
    (deep, *_) = await rig.files(owner, where=inside(inner))
    await rig.trash(top)
    for entry in (top, inner, deep):
        with pytest.raises(NotFound):
            await rig.copy(entry, where=ROOT, name="copy")
    await rig.purge(top)
    await rig.ask(ClaimPurges(limit=10))
    for entry in (top, inner, deep):
        with pytest.raises(NotFound):
            await rig.copy(entry, where=ROOT, name="copy")


@pytest.mark.usefixtures("small_steps")
async def test_a_clock_that_is_set_back_clears_an_abandoned_copy_all_the_same(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    rig.clock.jump(40 * 86_400)

    async def die() -> None:
        if await rig.rows("SELECT 1 FROM copies"):
            raise Killed

    with pytest.raises(Killed):
        await copy_stepwise(rig, top, die, name="copy")
    rig.clock.jump(-40 * 86_400)
    assert not await rig.ask(ClearCopies())
    rig.clock.advance(tree_copies.PATIENCE)
    assert await rig.ask(ClearCopies())
    assert await rig.drift() == 0


@pytest.mark.parametrize("most", [3, 100])
async def test_a_copy_is_addressed_by_path_and_creates_the_folders_on_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(copies, "MOST_AT_ONCE", most)
    owner = await rig.user(quota=3 * SIZE - 1)
    await tree(rig, owner)
    by, top = host(owner), At(path=("top",))
    with pytest.raises(NotFound):
        await rig.ask(CopyFile(by=by, file_id=top, where=At(path=("a", "b"))))
    with pytest.raises(Cycle):
        await rig.ask(CopyFile(by=by, file_id=top, where=At(path=("top", "new"), parents=True)))
    with pytest.raises(DriveError):
        await rig.ask(CopyFile(by=by, file_id=At(path=()), where=At(path=("a",), parents=True)))
    copied = await rig.ask(CopyFile(by=by, file_id=top, where=At(path=("a", "b"), parents=True)))
    assert copied == await rig.ask(GetFile(by=by, file_id=At(path=("a", "b", "top"))))
    assert await names(rig, copied) == NAMES
    with pytest.raises(QuotaExceeded):
        await rig.ask(CopyFile(by=by, file_id=top, where=At(path=("c",), parents=True)))
    assert await rig.names(owner, where=ROOT) == ["a", "top"]
    assert await rig.drift() == 0


@pytest.mark.parametrize("most", [3, 100])
async def test_a_copy_does_not_lie_deeper_than_a_path_reaches(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(copies, "MOST_AT_ONCE", most)
    owner = await rig.user()
    top, by = await tree(rig, owner), host(owner)
    path = tuple(f"{number}" for number in range(MOST_DEPTH - 2))
    await rig.ask(MakeFolder(by=by, where=At(path=path[:-1], parents=True), name=path[-1]))
    with pytest.raises(TooDeep):
        await rig.ask(CopyFile(by=by, file_id=top.id, where=At(path=path)))
    copied = await rig.ask(CopyFile(by=by, file_id=top.id, where=At(path=path[:-1])))
    assert await names(rig, copied) == NAMES
    highest = await rig.rows("SELECT MAX(height) FROM entries WHERE parent_id = ''")
    assert highest == [(MOST_DEPTH - 1,)]
    assert await rig.rows("SELECT id FROM copies") == []


@pytest.mark.usefixtures("small_steps")
async def test_a_tree_that_becomes_higher_meanwhile_is_as_high_as_its_copy(rig: Rig) -> None:
    owner = await rig.user()
    top = await tree(rig, owner)
    grown = False

    async def grow() -> None:
        nonlocal grown
        if not grown and await rig.rows(
            "SELECT 1 FROM uncopied u JOIN entries e ON e.id = u.source_id WHERE e.name = $1", "inner"
        ):
            grown = True
            where = At(path=("top", "inner", "a", "b"), parents=True)
            await rig.ask(MakeFolder(by=host(owner), where=where, name="c"))

    copied = await copy_stepwise(rig, top, grow, name="copy")
    assert grown
    assert (await names(rig, copied))["inner"]["a"] == {"b": {"c": {}}}
    low = await rig.rows("SELECT p.name FROM entries e JOIN entries p ON p.id = e.parent_id WHERE p.height <= e.height")
    assert low == []


@pytest.mark.slow
async def test_a_tree_of_1000_levels_is_moved_trashed_restored_and_copied(rig: Rig) -> None:
    owner = await rig.user()
    levels = 1000 if isinstance(rig.catalog, SqliteCatalog) else 200  # there, each level takes milliseconds
    by, path = host(owner), tuple("x" * levels)
    deepest = await rig.ask(MakeFolder(by=by, where=At(path=path[:-1], parents=True), name="x"))
    file = await rig.file(owner, "file", where=inside(deepest))
    top, target = await rig.ask(GetFile(by=by, file_id=At(path=("x",)))), await rig.folder(owner, "target")
    await rig.ask(UpdateFile(by=by, file_id=top.id, where=inside(target)))
    await rig.trash(top)
    with pytest.raises(NotFound):
        await rig.get(owner, deepest.id)
    await rig.restore(top)
    assert (await rig.get(owner, deepest.id)) == deepest
    copied = await rig.copy(top, where=ROOT, name="copy")
    found = await rig.ask(GetFile(by=by, file_id=At(path=("copy", *path[1:], "file"))))
    contents = [await rig.ask(OpenContent(by=by, file_id=file_id)) for file_id in (file.id, found.id)]
    assert contents[0].object_key == contents[1].object_key
    assert (await rig.get(owner, copied.id)).name == "copy"
    assert (await rig.usage(owner)).used_bytes == 20
    assert await entry_count(rig, owner) == 2 * levels + 3
    assert await rig.drift() == 0
