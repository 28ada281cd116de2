"""A folder as a ZIP archive: whole, with the length that was announced, with safe names, within the memory budget."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive import archive
from godrive.archive import CHECK_EVERY, Archive, DamagedMember, safe_name
from godrive.drive import GoDrive
from godrive.errors import MailboxFull, NotFound, Unauthenticated
from godrive.messages.auth import Authenticate, LogIn, LogOut
from godrive.messages.files import MakeFolder, TrashFile
from godrive.messages.storage import DeleteBlob
from godrive.messages.users import SetUserState
from godrive.model import FileId, In, OnConflict, Root, Spot, User, UserState
from godrive.principal import SignedUrl, Verb
from godrive.testing import ManualClock, open_drive, sign_up, upload
from tests.cases import each
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio

FILE_ID = FileId("0000-0123456789ab")
RENAMED = {
    "a:b.txt": "a_b (0123456789ab).txt",
    'a"<>|?*': "a______ (0123456789ab)",
    "con": "_con (0123456789ab)",
    "CON.txt": "_CON (0123456789ab).txt",
    "lpt1 .md": "_lpt1  (0123456789ab).md",
    "com\u00b9": "_com\u00b9 (0123456789ab)",
    "dot.": "dot_ (0123456789ab)",
    "space ": "space_ (0123456789ab)",
    "invoice\u202efdp.exe": "invoicefdp (0123456789ab).exe",
    "\u202e": "_ (0123456789ab)",
    "a (ba9876543210).txt": "a (ba9876543210) (0123456789ab).txt",
    "a (BA9876543210)": "a (BA9876543210) (0123456789ab)",
}
KEPT = ["a.txt", "scan (202411).pdf", ".hidden", "console", "com10", "a b", "é", "日本", "a.b.c", "-rf", "~"]


@pytest.fixture
async def drive(anyio_backend: object) -> AsyncIterator[GoDrive]:
    async with open_drive() as drive:
        yield drive


@pytest.fixture
async def owner(drive: GoDrive) -> User:
    return await sign_up(drive)


async def folder(drive: GoDrive, owner: User, name: str, where: Spot) -> Spot:
    made = await drive.metadata.ask(MakeFolder(acting(owner.id), where, name))
    return In(folder_id=made.id)


async def read(drive: GoDrive, owner: User, where: Spot) -> dict[str, bytes]:
    """The archive as (path, content), after a check of its length and of every checksum."""
    made = await Archive.open(drive, acting(owner.id), where)
    try:
        content = b"".join([piece async for piece in made.pieces()])
    finally:
        made.close()
    assert made.length in (None, len(content))
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        assert opened.testzip() is None
        assert len(opened.namelist()) == len(set(opened.namelist()))
        return {name: opened.read(name) for name in opened.namelist()}


async def fill(drive: GoDrive, owner: User) -> dict[str, bytes]:
    """A tree with empty folders, empty files, and names in several scripts; what its archive contains."""
    top = await folder(drive, owner, "été", Root())
    inner = await folder(drive, owner, "inner", top)
    await folder(drive, owner, "empty", inner)
    await upload(drive, owner.id, "a.txt", b"a" * 100_000, where=top)
    await upload(drive, owner.id, "日本.txt", b"b", where=inner)
    await upload(drive, owner.id, "none", b"", where=inner)
    gone = await upload(drive, owner.id, "trashed", b"x", where=inner)
    await drive.metadata.ask(TrashFile(acting(owner.id), gone.id))
    await upload(drive, owner.id, "top", b"t")
    return {
        "été/": b"",
        "été/inner/": b"",
        "été/inner/empty/": b"",
        "été/a.txt": b"a" * 100_000,
        "été/inner/日本.txt": b"b",
        "été/inner/none": b"",
        "top": b"t",
    }


async def test_an_archive_contains_the_whole_tree_and_nothing_from_the_trash(drive: GoDrive, owner: User) -> None:
    expected = await fill(drive, owner)
    assert await read(drive, owner, Root()) == expected
    stranger = await sign_up(drive, "bob@example.org")
    assert await read(drive, stranger, Root()) == {}


async def test_a_larger_tree_has_no_length_and_comes_whole(
    drive: GoDrive, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await fill(drive, owner)
    monkeypatch.setattr(archive, "KNOWN", len(expected))
    assert (await Archive.open(drive, acting(owner.id), Root())).length is not None
    monkeypatch.setattr(archive, "KNOWN", 3)
    monkeypatch.setattr(archive, "_PAGE", 2)
    monkeypatch.setattr(archive, "_SMALLEST_PAGE", 1)
    assert (await Archive.open(drive, acting(owner.id), Root())).length is None
    assert await read(drive, owner, Root()) == expected


@pytest.mark.parametrize("limit", [0, 1, 200, 100_500, 101_000])
async def test_the_length_of_a_large_archive_is_exact(
    drive: GoDrive, owner: User, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """With low limits, small archives use the fields of large ones (ZIP64)."""
    await fill(drive, owner)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    made = await Archive.open(drive, acting(owner.id), Root())
    assert made.length == len(b"".join([piece async for piece in made.pieces()]))
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    assert await read(drive, owner, Root())


@each("name", RENAMED)
def test_a_name_that_a_system_does_not_allow_is_changed(name: str) -> None:
    assert safe_name(name, FILE_ID) == RENAMED[name]


@each("name", KEPT)
def test_other_names_are_kept(name: str) -> None:
    assert safe_name(name, FILE_ID) == name


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\"), min_size=1))
def test_a_safe_name_stays_safe(name: str) -> None:
    safe = safe_name(name, FILE_ID)
    assert not set(safe) & set('<>:"|?*/\\')
    assert not safe.endswith((".", " "))
    again = safe_name(safe, FileId("0000-ba9876543210"))
    assert again == safe if safe == name else again not in {safe, safe_name(name, FileId("0000-ba9876543210"))}


async def test_names_that_differ_only_in_case_do_not_meet(drive: GoDrive, owner: User) -> None:
    names = ["A.txt", "a.txt", "ß", "SS", "a:b", "a_b"]
    for name in names:
        await upload(drive, owner.id, name, name.encode())
    found = await read(drive, owner, Root())
    assert sorted(found.values()) == sorted(name.encode() for name in names)
    assert len({path.casefold() for path in found}) == len(names)


@pytest.mark.parametrize("name", ["a:b.txt", "a|b", "con"])
async def test_a_file_with_the_changed_name_of_another_does_not_meet_it(drive: GoDrive, owner: User, name: str) -> None:
    await upload(drive, owner.id, name, b"first")
    ((extracted, _),) = (await read(drive, owner, Root())).items()
    await upload(drive, owner.id, extracted, b"second")
    await upload(drive, owner.id, extracted.upper(), b"third")
    found = await read(drive, owner, Root())
    assert sorted(found.values()) == [b"first", b"second", b"third"]
    assert len({path.casefold() for path in found}) == 3


async def test_lost_bytes_end_the_archive(drive: GoDrive, owner: User) -> None:
    file = await upload(drive, owner.id, "a", b"1234")
    made = await Archive.open(drive, acting(owner.id), Root())
    (member,) = made._known
    await drive.storage.ask(DeleteBlob(member.object_key))
    with pytest.raises(DamagedMember) as raised:
        [piece async for piece in made.pieces()]
    assert (raised.value.kind, raised.value.member.file_id) == ("missing", file.id)


@pytest.mark.parametrize("ending", ["purged", "replaced"])
async def test_a_file_that_is_purged_meanwhile_ends_the_archive_and_is_no_damage(
    drive: GoDrive, owner: User, ending: str
) -> None:
    file = await upload(drive, owner.id, "a", b"1234")
    made = await Archive.open(drive, acting(owner.id), Root())
    if ending == "replaced":
        await upload(drive, owner.id, "a", b"12345", on_conflict=OnConflict.REPLACE)
    else:
        await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    await drive.storage.ask(DeleteBlob(made._known[0].object_key))
    with pytest.raises(NotFound):
        [piece async for piece in made.pieces()]


@pytest.mark.parametrize("ending", ["log-out", "disabled", "disabled, by a signed URL"])
async def test_an_archive_ends_before_its_next_file_when_the_session_or_the_user_does(ending: str) -> None:
    clock = ManualClock()
    async with open_drive(clock=clock) as drive:
        owner = await sign_up(drive)
        session = await drive.auth.ask(Authenticate((await drive.auth.ask(LogIn(owner.email, "correct horse"))).token))
        made = await drive.metadata.ask(MakeFolder(session, Root(), "folder"))
        place = In(folder_id=made.id)
        for name in ("a", "b", "c"):
            await upload(drive, owner.id, name, b"1" * 65_536, where=place)
        url = SignedUrl(user_id=owner.id, verb=Verb.READ, target_id=made.id)
        pieces = (await Archive.open(drive, url if "URL" in ending else session, place)).pieces()
        for _ in ("a", "b"):
            assert await anext(pieces)
            clock.advance(CHECK_EVERY)
        if ending == "log-out":
            await drive.auth.ask(LogOut(session))
        else:
            await drive.auth.ask(SetUserState(SYSTEM, owner.id, UserState.DISABLED))
        with pytest.raises(Unauthenticated):
            await anext(pieces)


async def test_a_folder_that_is_gone_or_foreign_has_no_archive(drive: GoDrive, owner: User) -> None:
    place = await folder(drive, owner, "folder", Root())
    file = await upload(drive, owner.id, "a", b"1234")
    stranger = await sign_up(drive, "bob@example.org")
    for person, where in ((stranger, place), (owner, In(folder_id=file.id)), (owner, In(folder_id=FileId("none")))):
        with pytest.raises(NotFound):
            await Archive.open(drive, acting(person.id), where)


async def test_an_archive_is_charged_to_the_memory_budget_and_ends_when_it_is_spent(anyio_backend: Any) -> None:
    async with open_drive() as drive:
        owner = await sign_up(drive)
        await fill(drive, owner)
        held = drive.memory.held
        made = await Archive.open(drive, acting(owner.id), Root())
        assert drive.memory.held >= held + 7 * 400
        drive.memory.limit = 1
        drive.memory.report(made, made.held_bytes())
        with pytest.raises(MailboxFull):
            [piece async for piece in made.pieces()]
        made.close()
        assert drive.memory.held == held
