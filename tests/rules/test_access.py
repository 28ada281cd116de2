"""Who may do what with which entry: every kind of principal with every verb on every kind of entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from godrive.catalog import Tx
from godrive.errors import DriveError, Forbidden, Invalid, NotFound
from godrive.messages.files import EmptyTrash, ListFiles, ListTrash, MakeFolder, RestoreFile
from godrive.messages.metadata import Metadata
from godrive.messages.uploads import AbortUpload, BeginUpload, GetUpload, ListUploads, TouchUpload
from godrive.model import File, FileId, SessionId, UserId, UserState
from godrive.principal import (
    SCOPE_OF,
    ApiToken,
    HostUser,
    Principal,
    Scope,
    ShareLink,
    SignedUrl,
    System,
    UserSession,
    Verb,
)
from godrive.rules import access, users
from godrive.runtime import Ask
from tests.contracts.rig import ANYWHERE, ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio

OK, HIDDEN, REFUSED = "ok", "not_found", "forbidden"

LIVE = frozenset(Verb) - {Verb.PURGE}
TRASHED = frozenset({Verb.DELETE, Verb.RESTORE, Verb.PURGE})

ENTRIES: dict[str, tuple[frozenset[Verb], bool]] = {
    # What may be done to the entry by its owner, and whether it is `folder` or lies in it.
    "folder": (LIVE, True),
    "file in folder": (LIVE, True),
    "file deep in folder": (LIVE, True),
    "trashed in folder": (TRASHED, True),
    "in a trashed folder in folder": (frozenset(), True),
    "beside": (LIVE, False),
    "folder beside": (LIVE, False),
    "trashed beside": (TRASHED, False),
    "in a trashed folder": (frozenset(), False),
    "purging": (frozenset(), False),
    "emptied": (frozenset(), False),
    "absent": (frozenset(), False),
}


class Drive:
    """A drive with one entry of each kind."""

    def __init__(self, rig: Rig, owner: UserId, other: UserId) -> None:
        self.rig, self.owner, self.other = rig, owner, other
        self.entries: dict[str, FileId] = {"absent": FileId("absent")}

    @classmethod
    async def made(cls, rig: Rig) -> Drive:
        drive = cls(rig, await rig.user(), await rig.user())
        owner, add = drive.owner, drive.add
        emptied = add("emptied", await rig.file(owner, "emptied"))
        await rig.trash(emptied)
        await rig.ask(EmptyTrash(by=host(owner)))
        folder = add("folder", await rig.folder(owner, "folder"))
        add("file in folder", await rig.file(owner, "a", where=inside(folder)))
        deep = await rig.folder(owner, "deep", where=inside(folder))
        add("file deep in folder", await rig.file(owner, "b", where=inside(deep)))
        await rig.trash(add("trashed in folder", await rig.file(owner, "c", where=inside(folder))))
        bin_ = await rig.folder(owner, "bin", where=inside(folder))
        add("in a trashed folder in folder", await rig.file(owner, "d", where=inside(bin_)))
        await rig.trash(bin_)
        add("beside", await rig.file(owner, "beside"))
        add("folder beside", await rig.folder(owner, "folder beside"))
        await rig.trash(add("trashed beside", await rig.file(owner, "e")))
        bin_ = await rig.folder(owner, "bin")
        add("in a trashed folder", await rig.file(owner, "f", where=inside(bin_)))
        await rig.trash(bin_)
        purging = add("purging", await rig.file(owner, "g"))
        await rig.trash(purging)
        await rig.purge(purging)
        assert set(drive.entries) == set(ENTRIES)
        return drive

    def add(self, kind: str, file: File) -> File:
        self.entries[kind] = file.id
        return file

    async def outcome(self, by: Principal, entry: str, verb: Verb) -> str:
        async def resolve(tx: Tx) -> access.Resolved:
            return await access.resolve(tx, by, self.entries[entry], verb)

        try:
            resolved = await self.rig.catalog.write(resolve)
        except (NotFound, Forbidden) as error:
            return error.code
        assert resolved.file.id == self.entries[entry]
        assert resolved.owner_id == self.owner
        return OK


Covers = Callable[[str], bool]


def principals(drive: Drive) -> dict[str, tuple[Principal, frozenset[Verb], Covers]]:
    """One of each kind: who, the verbs that it may use at all, and which of the owner's entries it covers."""
    owner, other, entries = drive.owner, drive.other, drive.entries
    every: frozenset[Verb] = frozenset(Verb)

    def all_of_them(entry: str) -> bool:
        return True

    def none_of_them(entry: str) -> bool:
        return False

    def inside_folder(entry: str) -> bool:
        return ENTRIES[entry][1]

    session = SessionId("session")
    found: dict[str, tuple[Principal, frozenset[Verb], Covers]] = {
        "system": (System(part="test"), every, all_of_them),
        "host user": (HostUser(user_id=owner), every, all_of_them),
        "session": (UserSession(user_id=owner, session_id=session), every, all_of_them),
        "another host user": (HostUser(user_id=other), every, none_of_them),
        "another session": (UserSession(user_id=other, session_id=session), every, none_of_them),
        "another token": (
            ApiToken(user_id=other, token_id="t", scopes=frozenset(Scope)),
            every,
            none_of_them,
        ),
        "another token for the folder": (
            ApiToken(user_id=other, token_id="t", scopes=frozenset(Scope), folder_id=entries["folder"]),
            every,
            none_of_them,
        ),
        "another link": (
            ShareLink(user_id=other, link_id="l", entry_id=entries["folder"], verbs=every),
            every,
            none_of_them,
        ),
    }
    for scope in Scope:
        verbs = frozenset(verb for verb in Verb if SCOPE_OF[verb] is scope)
        found[f"token {scope}"] = (
            ApiToken(user_id=owner, token_id="t", scopes=frozenset({scope})),
            verbs,
            all_of_them,
        )
        found[f"token {scope} for the folder"] = (
            ApiToken(user_id=owner, token_id="t", scopes=frozenset({scope}), folder_id=entries["folder"]),
            verbs,
            inside_folder,
        )
    for verb in Verb:
        only = frozenset({verb})
        found[f"link {verb}"] = (
            ShareLink(user_id=owner, link_id="l", entry_id=entries["folder"], verbs=only),
            only,
            inside_folder,
        )
        found[f"link {verb} to a file"] = (
            ShareLink(user_id=owner, link_id="l", entry_id=entries["file in folder"], verbs=only),
            only,
            lambda entry: entry == "file in folder",
        )
        for target in ("beside", "trashed beside"):
            found[f"url {verb} {target}"] = (
                SignedUrl(user_id=owner, verb=verb, target_id=entries[target]),
                only,
                lambda entry, target=target: entry == target,  # type: ignore[misc]
            )
        found[f"another url {verb}"] = (
            SignedUrl(user_id=other, verb=verb, target_id=entries["beside"]),
            only,
            none_of_them,
        )
    return found


def expected(verbs: frozenset[Verb], covers: Covers, entry: str, verb: Verb) -> str:
    if verb not in verbs:
        return REFUSED
    return OK if covers(entry) and verb in ENTRIES[entry][0] else HIDDEN


async def test_every_principal_may_do_what_it_covers_and_nothing_else(rig: Rig) -> None:
    drive = await Drive.made(rig)
    everyone = principals(drive)
    assert {type(by) for by, _, _ in everyone.values()} == set(get_args(Principal)), "a kind of principal has no row"
    wrong = []
    for name, (by, verbs, covers) in everyone.items():
        for entry in ENTRIES:
            for verb in Verb:
                found = await drive.outcome(by, entry, verb)
                if found != (right := expected(verbs, covers, entry, verb)):
                    wrong.append(f"{name} {verb} {entry}: {found}, not {right}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("state", [UserState.DISABLED, UserState.DELETED])
async def test_nothing_is_left_to_anyone_when_the_owner_is_not_active(rig: Rig, state: UserState) -> None:
    drive = await Drive.made(rig)
    upload = await rig.begin(drive.owner, "upload")
    if state is UserState.DISABLED:
        await rig.write(users.set_state, drive.owner, state, now=rig.now)
    else:
        await rig.write(users.delete, drive.owner, now=rig.now)
    wrong = []
    for name, (by, verbs, _) in principals(drive).items():
        if isinstance(by, System):
            continue
        for entry in ENTRIES:
            for verb in verbs:
                if (found := await drive.outcome(by, entry, verb)) != HIDDEN:
                    wrong.append(f"{name} {verb} {entry}: {found}")
        asks: list[Ask[Metadata, Any]] = [
            MakeFolder(by, ROOT, "new"),
            BeginUpload(by, ROOT, "new", "a/b", 1),
            ListTrash(by),
            EmptyTrash(by),
            ListUploads(by),
        ]
        if not isinstance(by, UserSession):  # which ends with its user, before it comes here
            asks += [ListFiles(by, ROOT), ListFiles(by, ANYWHERE)]
        if by.user_id == drive.owner:
            for ask in asks:
                with pytest.raises((NotFound, Forbidden)):
                    await rig.ask(ask)
    assert not wrong, "\n".join(wrong)
    assert [row[0] for row in await rig.rows("SELECT state FROM uploads WHERE id = $1", upload.id)] == ["aborted"]


async def answer(rig: Rig, ask: Ask[Metadata, Any]) -> str:
    try:
        await rig.ask(ask)
    except DriveError as error:
        return error.code
    return OK


async def test_who_is_confined_to_one_entry_sees_it_as_the_root_and_nothing_of_the_drive(rig: Rig) -> None:
    drive = await Drive.made(rig)
    owner, folder = drive.owner, drive.entries["folder"]
    scopes, verbs = frozenset(Scope), frozenset(Verb)
    for by in (
        ApiToken(user_id=owner, token_id="t", scopes=scopes, folder_id=folder),
        ShareLink(user_id=owner, link_id="l", entry_id=folder, verbs=verbs),
    ):
        page = await rig.ask(ListFiles(by, ROOT))
        assert {file.name for file in page.items} == {"a", "deep"}
        made = await rig.ask(MakeFolder(by, ROOT, f"made by {type(by).__name__}"))
        assert made.parent_id == folder
        begun = await rig.ask(BeginUpload(by, ROOT, f"begun by {type(by).__name__}", "a/b", 1))
        assert begun.parent_id == folder
        await rig.trash(made)
        for ask in (ListFiles(by, ANYWHERE), ListTrash(by), EmptyTrash(by), ListUploads(by)):
            assert await answer(rig, ask) == REFUSED, ask
    await rig.trash(await rig.get(owner, folder))
    for by in (
        ApiToken(user_id=owner, token_id="t", scopes=scopes, folder_id=folder),
        ShareLink(user_id=owner, link_id="l", entry_id=folder, verbs=verbs),
        ApiToken(user_id=drive.other, token_id="t", scopes=scopes, folder_id=folder),
        ShareLink(user_id=owner, link_id="l", entry_id=drive.entries["beside"], verbs=verbs),
    ):
        hidden: list[Ask[Metadata, Any]] = [ListFiles(by, ROOT), MakeFolder(by, ROOT, "x")]
        hidden.append(BeginUpload(by, ROOT, "x", "a/b", 1))
        for nowhere in hidden:
            assert await answer(rig, nowhere) == HIDDEN, (by, nowhere)


async def test_a_signed_url_opens_no_list_and_puts_nothing_anywhere(rig: Rig) -> None:
    drive = await Drive.made(rig)
    for target in ("folder", "beside"):
        for verb in Verb:
            by = SignedUrl(user_id=drive.owner, verb=verb, target_id=drive.entries[target])
            for ask in (
                ListFiles(by, ROOT),
                ListFiles(by, ANYWHERE),
                MakeFolder(by, ROOT, "x"),
                BeginUpload(by, ROOT, "x", "a/b", 1),
                ListTrash(by),
                EmptyTrash(by),
                ListUploads(by),
            ):
                assert await answer(rig, ask) == REFUSED, (by, ask)


async def test_the_system_has_no_drive_of_its_own(rig: Rig) -> None:
    by = System(part="test")
    for ask in (ListFiles(by, ROOT), ListFiles(by, ANYWHERE), MakeFolder(by, ROOT, "x"), ListTrash(by), EmptyTrash(by)):
        assert await answer(rig, ask) == Invalid.code


async def test_an_upload_is_worked_on_by_its_owner_and_by_who_is_confined_to_its_folder(rig: Rig) -> None:
    drive = await Drive.made(rig)
    owner, entries, scopes = drive.owner, drive.entries, frozenset(Scope)
    within = await rig.begin(owner, "within", where=inside(await rig.get(owner, entries["folder"])))
    outside = await rig.begin(owner, "outside", where=inside(await rig.get(owner, entries["folder beside"])))
    top = await rig.begin(owner, "top")
    token = ApiToken(user_id=owner, token_id="t", scopes=scopes)
    confined = ApiToken(user_id=owner, token_id="t", scopes=scopes, folder_id=entries["folder"])
    link = ShareLink(user_id=owner, link_id="l", entry_id=entries["folder"], verbs=frozenset(Verb))
    for upload in (within, outside, top):
        rows: list[tuple[Principal, str]] = [
            (System(part="test"), OK),
            (host(owner), OK),
            (token, OK),
            (confined, OK if upload is within else HIDDEN),
            (SignedUrl(user_id=owner, verb=Verb.CREATE, target_id=upload.id), OK),
            (SignedUrl(user_id=owner, verb=Verb.CREATE, target_id=entries["folder"]), HIDDEN),
            (SignedUrl(user_id=owner, verb=Verb.READ, target_id=upload.id), REFUSED),
            (SignedUrl(user_id=drive.other, verb=Verb.CREATE, target_id=upload.id), HIDDEN),
            (host(drive.other), HIDDEN),
            (ApiToken(user_id=owner, token_id="t", scopes=scopes - {Scope.FILES_WRITE}), REFUSED),
            (link, HIDDEN),
        ]
        for by, right in rows:
            for ask in (GetUpload(by, upload.id), TouchUpload(by, upload.id, 1)):
                assert await answer(rig, ask) == right, (by, ask, upload.name)
        for by, right in reversed(rows):
            if right != OK:
                assert await answer(rig, AbortUpload(by, upload.id)) == right, (by, upload.name)
    assert await answer(rig, AbortUpload(confined, within.id)) == OK
    assert await rig.drift() == 0


async def test_what_a_confined_token_restores_stays_where_it_is_confined_to(rig: Rig) -> None:
    owner = await rig.user()
    top = await rig.folder(owner, "top")
    inner = await rig.folder(owner, "inner", where=inside(top))
    files = [await rig.file(owner, f"{number}", where=inside(inner)) for number in range(3)]
    for file in files:
        await rig.trash(file)
    await rig.trash(inner)
    by = ApiToken(user_id=owner, token_id="t", scopes=frozenset(Scope), folder_id=top.id)
    assert (await rig.ask(RestoreFile(by, files[0].id))).parent_id == top.id
    assert (await rig.restore(files[1])).parent_id is None
    await rig.trash(top)
    assert await answer(rig, RestoreFile(by, files[2].id)) == HIDDEN
    assert {file.id for file in await rig.binned(owner)} == {top.id, inner.id, files[2].id}
    assert await rig.drift() == 0


def test_every_verb_has_a_scope() -> None:
    assert set(SCOPE_OF) == set(Verb)
    assert Scope.ADMIN not in SCOPE_OF.values()
    assert Scope.ACCOUNT not in SCOPE_OF.values()
