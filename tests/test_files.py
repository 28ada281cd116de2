"""The drive of a user by path, as an application that embeds GoDrive uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest

from godrive.drive import GoDrive
from godrive.errors import Cycle, EmailTaken, Invalid, NameTaken, NotFound, QuotaExceeded
from godrive.files import Files, names
from godrive.messages.changes import Change
from godrive.messages.users import SetUserState
from godrive.model import OnConflict, UserState
from godrive.principal import System
from godrive.testing import open_drive
from tests.cases import each

pytestmark = pytest.mark.anyio


@pytest.fixture
async def drive(anyio_backend: object) -> AsyncIterator[GoDrive]:
    async with open_drive() as drive:
        yield drive


@pytest.fixture
async def files(drive: GoDrive) -> Files:
    return drive.files((await drive.user("ann-1", "ann@example.org")).id)


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"x" * 100_000


async def paths(files: Files, path: str = "") -> list[str]:
    return [name async for name, _ in files.walk(path)]


async def test_what_is_written_is_read_whole_or_in_part(files: Files) -> None:
    file = await files.write("a/b/c.txt", b"hello", mime="text/plain")
    assert (file.name, file.size_bytes, file.mime) == ("c.txt", 5, "text/plain")
    assert await files.read("a/b/c.txt") == b"hello"
    assert b"".join([piece async for piece in files.stream("/a/b/c.txt", start=1, end=3)]) == b"el"
    assert await files.get("a/b/c.txt") == file


async def test_a_body_of_unknown_length_is_written(files: Files) -> None:
    assert (await files.write("large", pieces())).size_bytes == 300_000
    assert len(await files.read("large")) == 300_000


async def test_writing_again_makes_a_version_unless_told_otherwise(files: Files) -> None:
    first = await files.write("a.txt", b"1")
    second = await files.write("a.txt", b"22")
    assert (second.id, second.size_bytes) == (first.id, 2)
    assert second.version_id != first.version_id
    with pytest.raises(NameTaken):
        await files.write("a.txt", b"3", on_conflict=OnConflict.FAIL)
    assert (await files.write("a.txt", b"3", on_conflict=OnConflict.RENAME)).name == "a (1).txt"
    assert await files.read("a.txt") == b"22"


async def test_a_tree_is_listed_walked_moved_and_trashed(files: Files) -> None:
    for path in ("b/2", "b/1", "a", "b/c/3"):
        await files.write(path, path.encode())
    made = await files.make_folder("b/empty")
    assert await files.make_folder("b/empty") == made
    assert [entry.name async for entry in files.list()] == ["a", "b"]
    assert [entry.name async for entry in files.list("b")] == ["1", "2", "c", "empty"]
    assert await paths(files) == ["a", "b", "b/1", "b/2", "b/c", "b/empty", "b/c/3"]
    assert await paths(files, "b/c") == ["b/c/3"]
    moved = await files.move("b/c", "new/d")
    assert await paths(files, "new") == ["new/d", "new/d/3"]
    with pytest.raises(Cycle):
        await files.move("new", "new/d/e")
    await files.trash("new/d")
    assert await paths(files, "new") == []
    await files.restore(moved.id)
    assert await files.read("new/d/3") == b"b/c/3"


async def test_users_see_only_their_own(drive: GoDrive, files: Files) -> None:
    await files.write("mine", b"1")
    stranger = drive.files((await drive.user("bob-2")).id)
    assert await paths(stranger) == []
    with pytest.raises(NotFound):
        await stranger.read("mine")
    assert (await drive.user("bob-2")).id == (await drive.user("bob-2")).id
    with pytest.raises(EmailTaken):
        await drive.user("other", "ann@example.org")


async def test_changes_are_followed_from_now_or_from_a_cursor(drive: GoDrive, files: Files) -> None:
    seen: list[Change] = []

    async def follow() -> None:
        async with aclosing(files.changes()) as changes:
            async for change in changes:
                seen.append(change)
                if len(seen) == 3:
                    return

    await files.write("before", b"1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        while not len(drive.watch):
            await anyio.sleep(0)
        await anyio.wait_all_tasks_blocked()
        await files.write("a", b"1")
        await files.move("a", "b")
        await files.trash("b")
    assert [change.change for change in seen] == ["created", "moved", "trashed"]
    async with aclosing(files.changes(seen[0].cursor)) as changes:
        again = [await anext(changes), await anext(changes)]
    assert [change.cursor for change in again] == [change.cursor for change in seen[1:]]
    assert not len(drive.watch)


async def test_changes_end_with_the_user(anyio_backend: object) -> None:
    async with open_drive(serving=True) as drive:
        user = await drive.user("ann-1")
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                assert [change async for change in drive.files(user.id).changes()] == []

            tasks.start_soon(follow)
            while not len(drive.watch):
                await anyio.sleep(0)
            await drive.auth.ask(SetUserState(System(part="host"), user.id, UserState.DISABLED))


async def test_a_folder_is_no_file_and_a_file_no_folder(files: Files) -> None:
    await files.write("file", b"1")
    await files.make_folder("folder")
    with pytest.raises(NotFound):
        await files.read("folder")
    with pytest.raises(NameTaken):
        await files.make_folder("file")
    with pytest.raises(NameTaken):
        await files.write("folder", b"1")
    with pytest.raises((NotFound, NameTaken)):
        await files.write("file/below", b"1")


async def test_a_failed_write_leaves_nothing(drive: GoDrive, files: Files) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"1"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await files.write("a/b", broken())
    async with open_drive(auth={"default_quota_bytes": 200_000}) as small:
        limited = small.files((await small.user("x")).id)
        with pytest.raises(QuotaExceeded):
            await limited.write("large", pieces())
        assert await paths(limited) == []


@each("path", ["", "/", "//", "a//b", "a/../b", ".", "a\\b", "a/\0"])
async def test_what_is_no_path_is_refused(files: Files, path: str) -> None:
    with pytest.raises(Invalid):
        await files.write(path, b"")
    with pytest.raises((Invalid, NotFound)):
        await files.get(path)


def test_a_path_is_its_names() -> None:
    assert names("/a/b c/") == ["a", "b c"] == names("a/b c")
