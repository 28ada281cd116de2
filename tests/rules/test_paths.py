"""Entries and folders by path: the same as by id, and never what is in the trash."""

from __future__ import annotations

import asyncio
import unicodedata
from typing import Any

import pytest

from godrive.errors import Forbidden, Invalid, NameTaken, NotFound, QuotaExceeded
from godrive.messages.files import (
    EnsureFolder,
    GetFile,
    ListFiles,
    MakeFolder,
    OpenContent,
    TrashFile,
    UpdateFile,
)
from godrive.messages.metadata import Metadata
from godrive.messages.uploads import BeginUpload
from godrive.model import At, Ensured, File, FileKind, SessionId, Sort, UserId
from godrive.principal import ApiToken, Principal, Scope, ShareLink, SignedUrl, System, UserSession, Verb
from godrive.runtime import Ask
from tests.cases import each
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio


def at(path: str, *, parents: bool = False) -> At:
    return At(path=tuple(path.split("/")) if path else (), parents=parents)


def token(owner: UserId, folder: File | None = None) -> ApiToken:
    scopes = frozenset({Scope.FILES_READ, Scope.FILES_WRITE, Scope.FILES_DELETE})
    return ApiToken(user_id=owner, token_id="t", scopes=scopes, folder_id=None if folder is None else folder.id)


async def made(rig: Rig, owner: UserId, path: str) -> File:
    """The folder at the path, with those above it."""
    parent, _, name = path.rpartition("/")
    return await rig.ask(MakeFolder(host(owner), at(parent, parents=True), name))


async def test_an_entry_is_found_by_its_path(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner, "a")
    inner = await rig.folder(owner, "b", where=inside(folder))
    file = await rig.file(owner, "c.txt", where=inside(inner))
    top = await rig.file(owner, "c.txt")
    for path, entry in (("a", folder), ("a/b", inner), ("a/b/c.txt", file), ("c.txt", top)):
        assert await rig.ask(GetFile(host(owner), at(path))) == entry


@each("path", ["b", "a/c", "a/b/c", "c.txt/d", "A", "a/b/c.txt/d", "a/c.txt", "a a", "a%2Fb"])
async def test_a_path_that_leads_nowhere_is_not_found(rig: Rig, path: str) -> None:
    owner = await rig.user()
    inner = await made(rig, owner, "a/b")
    await rig.file(owner, "c.txt", where=inside(inner))
    await rig.file(owner, "c.txt")
    with pytest.raises(NotFound):
        await rig.ask(GetFile(host(owner), at(path)))


@each("path", [("",), (".",), ("..",), ("a", "..", "b"), ("a/b",), ("a\\b",), ("a\0",), ("\ud800",), ("x" * 256,)])
async def test_a_path_with_what_is_no_name_is_refused(rig: Rig, path: tuple[str, ...]) -> None:
    owner = await rig.user()
    asks: list[Ask[Metadata, Any]] = [
        GetFile(host(owner), At(path=path)),
        MakeFolder(host(owner), At(path=path, parents=True), "x"),
    ]
    for ask in asks:
        with pytest.raises(Invalid) as refusal:
            await rig.ask(ask)
        assert refusal.value.field == "path"


async def test_names_on_a_path_are_compared_in_nfc_and_with_case(rig: Rig) -> None:
    owner = await rig.user()
    composed, decomposed = "é가", unicodedata.normalize("NFD", "é가")
    assert composed != decomposed
    inner = await made(rig, owner, f"{decomposed}/{composed}/x")
    for path in (f"{composed}/{composed}/x", f"{decomposed}/{decomposed}/x"):
        assert await rig.ask(GetFile(host(owner), at(path))) == inner
    assert await made(rig, owner, f"{composed}/{decomposed}/y") is not None
    with pytest.raises(NotFound):
        await rig.ask(GetFile(host(owner), at(f"{composed}/{composed}/X")))


async def test_the_names_of_a_path_are_never_joined_otherwise(rig: Rig) -> None:
    """The names travel to the database in one text, each behind its length, so some names here are digits."""
    owner = await rig.user()
    names = ["0001", "0001a0001b", "1", "0004", "a0001b", "\U0001f600" * 200, "00010001"]
    expected = await made(rig, owner, "/".join(names))
    assert await rig.ask(GetFile(host(owner), At(path=tuple(names)))) == expected
    for wrong in (["0001", "0001a0001b0001", "0004"], ["0001", "0001a", "0001b"], ["0001", "0001a0001b", "10004"]):
        with pytest.raises(NotFound):
            await rig.ask(GetFile(host(owner), At(path=tuple(wrong))))


async def test_a_path_never_leads_into_the_trash(rig: Rig) -> None:
    owner = await rig.user()
    inner = await made(rig, owner, "a/b")
    folder = await rig.ask(GetFile(host(owner), at("a")))
    file = await rig.file(owner, "c", where=inside(inner))
    await rig.trash(folder)
    asks: list[Ask[Metadata, Any]] = [
        *[GetFile(host(owner), at(path)) for path in ("a", "a/b", "a/b/c")],
        OpenContent(host(owner), at("a/b/c")),
        TrashFile(host(owner), at("a/b/c")),
        TrashFile(host(owner), at("a")),
        ListFiles(host(owner), at("a/b")),
        UpdateFile(host(owner), at("a/b"), "x"),
        MakeFolder(host(owner), at("a/b"), "x"),
    ]
    for ask in asks:
        with pytest.raises(NotFound):
            await rig.ask(ask)
    again = await made(rig, owner, "a/b")
    assert again.id != inner.id
    with pytest.raises(NotFound):
        await rig.ask(GetFile(host(owner), at("a/b/c")))
    await rig.trash(again)
    await rig.restore(folder, on_conflict="rename")
    assert await rig.ask(GetFile(host(owner), at("a (1)/b/c"))) == file


async def test_another_user_sees_nothing_by_path(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    await made(rig, owner, "a/b")
    with pytest.raises(NotFound):
        await rig.ask(GetFile(host(other), at("a/b")))
    assert (await made(rig, other, "a/b")).owner_id == other


async def test_the_empty_path_is_the_root(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    session = UserSession(user_id=owner, session_id=SessionId("s"))
    root = await rig.ask(GetFile(session, at("")))
    assert (root.id, root.kind, root.name, root.parent_id) == ("root", FileKind.FOLDER, "", None)
    assert root == await rig.ask(GetFile(host(owner), at("")))
    assert root.etag != (await rig.ask(GetFile(host(other), at("")))).etag
    asks: list[Ask[Metadata, Any]] = [
        UpdateFile(host(owner), at(""), "x"),
        UpdateFile(host(owner), at(""), "x", ROOT),
        TrashFile(host(owner), at("")),
    ]
    for ask in asks:
        with pytest.raises(Forbidden):
            await rig.ask(ask)
    with pytest.raises(NotFound):
        await rig.ask(OpenContent(host(owner), at("")))
    folder = await rig.ask(MakeFolder(host(owner), at(""), "folder"))
    assert folder.parent_id is None
    assert [file.id for file in (await rig.ask(ListFiles(host(owner), at("")))).items] == [folder.id]


async def test_paths_of_a_confined_token_begin_at_its_folder(rig: Rig) -> None:
    owner = await rig.user()
    inner = await made(rig, owner, "a/b")
    outer = await rig.ask(GetFile(host(owner), at("a")))
    by = token(owner, outer)
    assert await rig.ask(GetFile(by, at(""))) == outer
    assert await rig.ask(GetFile(by, at("b"))) == inner
    for path in ("a", "a/b", "c"):
        with pytest.raises(NotFound):
            await rig.ask(GetFile(by, at(path)))
    new = await rig.ask(MakeFolder(by, at("c/d", parents=True), "e"))
    assert await rig.ask(GetFile(host(owner), at("a/c/d/e"))) == new
    await rig.trash(outer)
    asks: list[Ask[Metadata, Any]] = [
        GetFile(by, at("b")),
        GetFile(by, at("")),
        TrashFile(by, at("b")),
        MakeFolder(by, at("x", parents=True), "y"),
    ]
    for ask in asks:
        with pytest.raises(NotFound):
            await rig.ask(ask)


async def test_a_token_confined_to_a_folder_of_another_user_sees_nothing(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    await made(rig, owner, "a/b")
    folder = await rig.ask(GetFile(host(owner), at("a")))
    for by in (
        token(other, folder),
        ShareLink(user_id=other, link_id="l", entry_id=folder.id, verbs=frozenset({Verb.READ})),
    ):
        for path in ("", "b", "a/b"):
            with pytest.raises(NotFound):
                await rig.ask(GetFile(by, at(path)))


async def test_who_has_no_drive_has_no_paths(rig: Rig) -> None:
    owner = await rig.user()
    inner = await made(rig, owner, "a/b")
    link = ShareLink(user_id=owner, link_id="l", entry_id=inner.id, verbs=frozenset({Verb.READ}))
    cases: list[tuple[Principal, type[Exception]]] = [
        (System(part="test"), Invalid),
        (SignedUrl(user_id=owner, verb=Verb.READ, target_id=inner.id), Forbidden),
        (ApiToken(user_id=owner, token_id="t", scopes=frozenset({Scope.FILES_WRITE})), Forbidden),
        (link, NotFound),
    ]
    for by, error in cases:
        with pytest.raises(error):
            await rig.ask(GetFile(by, at("a/b")))
    with pytest.raises(Forbidden):
        await rig.ask(MakeFolder(link, at(""), "x"))


async def test_a_disabled_user_has_no_paths(rig: Rig) -> None:
    owner = await rig.user()
    await made(rig, owner, "a/b")
    await rig.run("UPDATE users SET state = 'disabled' WHERE id = $1", owner)
    for path in ("a", "x", ""):
        with pytest.raises(NotFound):
            await rig.ask(GetFile(host(owner), at(path)))
    with pytest.raises(NotFound):
        await rig.ask(MakeFolder(host(owner), at("x", parents=True), "y"))


async def test_missing_parents_are_created_and_counted(rig: Rig) -> None:
    owner = await rig.user()
    await made(rig, owner, "a/b")
    folder = await made(rig, owner, "a/b/c/d/e")
    assert folder.name == "e"
    assert await rig.names(owner, where=at("a"), sort=Sort.NAME) == ["b"]
    assert await rig.names(owner, where=at("a/b/c/d"), sort=Sort.NAME) == ["e"]
    upload = await rig.begin(owner, "f.txt", where=at("a/x/y", parents=True))
    assert upload.parent_id == (await rig.ask(GetFile(host(owner), at("a/x/y")))).id
    file = await rig.publish(upload)
    moved = await rig.ask(UpdateFile(host(owner), at("a/x/y/f.txt"), where=at("m/n", parents=True)))
    assert (moved.id, moved.parent_id) == (file.id, (await rig.ask(GetFile(host(owner), at("m/n")))).id)
    assert await rig.drift() == 0


@each("where", [at("a"), at("a/b/c"), at("f"), at("f/g"), at("a b")])
async def test_without_parents_a_missing_folder_is_not_found(rig: Rig, where: At) -> None:
    owner = await rig.user()
    await rig.file(owner, "f")
    asks: list[Ask[Metadata, Any]] = [
        MakeFolder(host(owner), where, "x"),
        BeginUpload(host(owner), where, "x", "a/b", 1),
    ]
    for ask in asks:
        with pytest.raises(NotFound) as refusal:
            await rig.ask(ask)
        assert refusal.value.field == "path"


async def test_a_file_in_the_way_of_parents_is_a_conflict_and_nothing_is_left(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, "f")
    for path in ("f", "f/g"):
        with pytest.raises(NameTaken) as refusal:
            await rig.ask(MakeFolder(host(owner), at(path, parents=True), "x"))
        assert refusal.value.field == "path"
    assert await rig.names(owner, where=ROOT) == ["f"]


async def test_parents_go_again_if_what_they_are_for_fails(rig: Rig) -> None:
    owner = await rig.user(quota=10)
    with pytest.raises(QuotaExceeded):
        await rig.begin(owner, size=11, where=at("a/b", parents=True))
    rig.configure("auth", max_entries=2)
    with pytest.raises(QuotaExceeded) as refusal:
        await rig.ask(MakeFolder(host(owner), at("a/b", parents=True), "c"))
    assert refusal.value.field == "entries"
    assert await rig.names(owner, where=ROOT) == []
    assert await rig.drift() == 0
    await rig.ask(MakeFolder(host(owner), at("a", parents=True), "c"))


async def test_two_writers_of_one_path_make_it_once(rig: Rig) -> None:
    owner = await rig.user()
    where = at("a/b/c/d", parents=True)
    await asyncio.gather(*[rig.ask(MakeFolder(host(owner), where, f"x{number}")) for number in range(8)])
    assert sorted(await rig.names(owner, where=at("a/b/c/d"))) == [f"x{number}" for number in range(8)]
    assert await rig.names(owner, where=at("")) == ["a"]
    assert await rig.drift() == 0


async def test_parents_race_with_uploads_of_the_same_name(rig: Rig) -> None:
    """An upload into the root takes no lock, so the name may go to the file while the folders are being made."""
    owner = await rig.user()
    for number in range(2):
        upload = await rig.begin(owner, f"a{number}")
        made, file = await asyncio.gather(
            rig.ask(MakeFolder(host(owner), at(f"a{number}/b", parents=True), "c")),
            rig.publish(upload),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, NameTaken) for outcome in (made, file)) == 1, (made, file)
        entry = await rig.ask(GetFile(host(owner), at(f"a{number}")))
        assert entry.kind is (FileKind.FOLDER if isinstance(file, NameTaken) else FileKind.FILE)
    assert await rig.drift() == 0


async def test_a_folder_that_is_ensured_by_many_is_created_by_one(rig: Rig) -> None:
    owner = await rig.user()
    ask = EnsureFolder(host(owner), at("a/b", parents=True), "c")
    ensured = await asyncio.gather(*[rig.ask(ask) for _ in range(8)])
    assert sum(found.created for found in ensured) == 1
    assert len({found.folder.id for found in ensured}) == 1
    assert await rig.ask(GetFile(host(owner), at("a/b/c"))) == ensured[0].folder
    assert await rig.drift() == 0


async def test_what_is_ensured_is_a_folder_and_not_in_the_trash(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, "file")
    with pytest.raises(NameTaken):
        await rig.ask(EnsureFolder(host(owner), ROOT, "file"))
    first = (await rig.ask(EnsureFolder(host(owner), ROOT, "folder"))).folder
    await rig.trash(first)
    again = await rig.ask(EnsureFolder(host(owner), ROOT, "folder"))
    assert again.created
    assert again.folder.id != first.id
    decomposed = await rig.ask(EnsureFolder(host(owner), ROOT, "e\u0301"))
    assert await rig.ask(EnsureFolder(host(owner), ROOT, "\u00e9")) == Ensured(folder=decomposed.folder, created=False)


async def test_what_is_trashed_deep_on_a_path_is_passed_over_for_what_has_its_name_now(rig: Rig) -> None:
    owner = await rig.user()
    gone = await made(rig, owner, "a/b/c")
    await rig.trash(await rig.ask(GetFile(host(owner), at("a/b"))))
    for path in ("a/b", "a/b/c"):
        with pytest.raises(NotFound):
            await rig.ask(GetFile(host(owner), at(path)))
    new = await made(rig, owner, "a/b/c")
    assert new.id != gone.id
    assert await rig.ask(GetFile(host(owner), at("a/b/c"))) == new
    await rig.trash(new)
    with pytest.raises(NotFound):
        await rig.ask(GetFile(host(owner), at("a/b/c")))


async def test_a_path_may_begin_in_a_folder_that_the_principal_reaches(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder, aside = await made(rig, owner, "a/b"), await made(rig, owner, "aside")
    file = await rig.file(owner, "file", where=inside(folder))
    made_below = await rig.ask(MakeFolder(host(owner), At(path=("c", "d"), parents=True, below=folder.id), "e"))
    assert await rig.ask(GetFile(host(owner), at("a/b/c/d/e"))) == made_below
    assert await rig.ask(GetFile(host(owner), At(path=("c", "d", "e"), below=folder.id))) == made_below
    assert (await rig.ask(MakeFolder(host(owner), At(path=(), below=folder.id), "f"))).parent_id == folder.id
    confined = token(owner, folder)
    assert (await rig.ask(MakeFolder(confined, At(path=("c",), below=folder.id), "g"))).name == "g"
    for by, below in ((host(other), folder), (confined, aside), (host(owner), file)):
        for path in ((), ("c",)):
            with pytest.raises(NotFound):
                await rig.ask(MakeFolder(by, At(path=path, below=below.id), "x"))
        with pytest.raises((NotFound, NameTaken)):
            await rig.ask(MakeFolder(by, At(path=("y", "z"), parents=True, below=below.id), "x"))
    await rig.trash(folder)
    for path in ((), ("c",), ("new",)):
        with pytest.raises(NotFound):
            await rig.ask(MakeFolder(host(owner), At(path=path, parents=True, below=folder.id), "x"))
    assert await rig.drift() == 0
