"""Files made of blobs that were stored before: the same rules as for uploads, in one transaction, and idempotent."""

from __future__ import annotations

import hashlib
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from godrive.catalog import Tx
from godrive.errors import Forbidden, Invalid, NameTaken, NotFound, PreconditionFailed, QuotaExceeded
from godrive.messages.uploads import BeginUpload, CheckRoom, ListUploads, MakeFiles, PublishUpload, StoreFile
from godrive.model import (
    At,
    BlobInfo,
    ETag,
    File,
    FileId,
    In,
    ObjectKey,
    OnConflict,
    Root,
    Spot,
    UploadId,
    UserId,
    UserState,
    VersionId,
    new_id,
)
from godrive.principal import ApiToken, Principal, Scope
from godrive.rules import users
from tests.cases import each
from tests.contracts.rig import Rig, host, inside

pytestmark = pytest.mark.anyio


def stored(by: Principal, name: str = "a.txt", content: bytes = b"abc", **options: Any) -> StoreFile:
    key = new_id()
    blob = BlobInfo(
        key=ObjectKey(f"{key[:8]}/{key}"),
        size_bytes=len(content),
        etag=ETag(key),
        modified_at=options.pop("at"),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    where = options.pop("where", Root())
    return StoreFile(by, where, name, "text/plain", blob, UploadId(new_id()), **options)


async def store(rig: Rig, owner: UserId, *values: Any, **options: Any) -> File:
    return await rig.ask(stored(host(owner), *values, at=rig.now, **options))


async def test_a_stored_file_is_listed_charged_and_needs_no_upload(rig: Rig) -> None:
    owner = await rig.user()
    file = await store(rig, owner)
    assert await rig.files(owner) == [file]
    usage = await rig.usage(owner)
    assert (usage.live_bytes, usage.reserved_bytes) == (3, 0)
    assert (await rig.ask(ListUploads(by=host(owner)))).items == []
    assert await rig.drift() == 0


async def published(rig: Rig, owner: UserId, name: str) -> PublishUpload:
    upload = await rig.ask(BeginUpload(host(owner), Root(), name, "text/plain", 3))
    blob = BlobInfo(key=upload.object_key, size_bytes=3, etag=ETag("b"), modified_at=rig.now, sha256="a" * 64)
    return PublishUpload(host(owner), upload.id, blob, upload)


async def joins(tx: Tx) -> bool:
    return tx.joins


async def test_several_files_are_made_at_once_but_for_those_that_are_not_simple(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    by, at = host(owner), rig.now
    await store(rig, owner, "taken")
    commands = [
        stored(by, "a", at=at),
        stored(by, "taken", at=at),
        stored(by, "twice", at=at),
        stored(by, "twice", at=at),
        stored(by, "no/name", at=at),
        stored(host(other), "a", at=at),
        stored(by, "replaced", at=at, on_conflict=OnConflict.REPLACE, if_match=ETag("*")),
        stored(by, "nowhere", at=at, where=In(folder_id=FileId(new_id()))),
    ]
    uploads = [await published(rig, owner, "b"), await published(rig, owner, "c")]
    made = await rig.ask(MakeFiles(commands, [uploads[0], uploads[0], replace(uploads[1], upload=None)]))
    simple = set() if await rig.catalog.read(joins) else {0, 2, 5, 8}
    assert len(made) == 11
    assert {number for number, file in enumerate(made) if file is not None} == simple
    assert len(await rig.files(owner)) == 1 + len(simple - {5})
    assert len(await rig.files(other)) == len(simple & {5})
    assert await rig.drift() == 0
    for command, file in zip([*commands, uploads[0]], made, strict=False):
        if file is not None:
            assert await rig.ask(command) == file, "to ask again changes nothing"


async def test_files_that_are_made_at_once_are_as_if_each_were_made_alone(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(owner, "folder")
    await rig.file(owner, "first", where=inside(folder))  # the first file of a folder raises the heights above it
    empty, away = await rig.folder(owner, "empty"), await rig.folder(owner, "away")
    await rig.file(owner, "first", where=inside(away))
    await rig.trash(away)
    at, before = rig.now, len(await log_of(rig, owner))
    places: list[Spot] = [
        Root(),
        inside(folder),
        inside(empty),
        inside(away),
        At(path=("folder",)),
        At(path=("nowhere",)),
    ]
    places += [At(path=("new",), parents=True), *[Root()] * 17]
    commands = [stored(host(owner), f"{number}", at=at, where=where) for number, where in enumerate(places)]
    uploads = [await published(rig, each, f"upload {number}") for number, each in enumerate([owner, other, owner])]
    uploads[2] = replace(uploads[2], upload=uploads[2].upload and replace(uploads[2].upload, name="stale"))
    made = await rig.ask(MakeFiles([*commands, stored(host(other), "x", at=at)], uploads))
    if await rig.catalog.read(joins):
        assert made == [None] * 28
        return
    assert [number for number, file in enumerate(made) if file is None] == [2, 3, 5, 6, 27]
    assert made[4] is not None
    assert made[4].parent_id == folder.id
    for file in made:
        if file is not None:
            assert await rig.get(file.owner_id, file.id) == file
    of_owner = [file.id for file in made if file is not None and file.owner_id == owner]
    logged = (await log_of(rig, owner))[before:]
    assert [(what, entry_id) for _, what, entry_id in logged] == [("created", id_) for id_ in of_owner]
    assert [number - logged[0][0] for number, _, _ in logged] == list(range(len(logged)))
    assert await rig.rows("SELECT changes FROM users WHERE id = $1", owner) == [(logged[-1][0],)]
    assert await rig.rows("SELECT id FROM uploads WHERE state = 'pending'") == [(uploads[2].upload_id,)]
    assert await rig.drift() == 0
    (again,) = await rig.ask(MakeFiles([stored(host(owner), "by path", at=at, where=places[4])], []))
    assert again is not None
    assert again.parent_id == folder.id
    alone = await rig.ask(commands[2])
    like = made[0]
    assert like is not None
    assert alone == replace(
        alone,
        **{name: getattr(like, name) for name in ("owner_id", "mime", "size_bytes", "sha256", "kind", "modified_at")},
    )


async def log_of(rig: Rig, owner: UserId) -> list[tuple[int, str, str]]:
    """The log of changes: number, what, and the entry."""
    found = await rig.rows("SELECT change, what, entry_id FROM changes WHERE owner_id = $1 ORDER BY change", owner)
    return [(row[0], row[1], row[2]) for row in found]


async def test_files_for_which_there_is_not_room_together_are_not_made_at_once(rig: Rig) -> None:
    owner, other, disabled = await rig.user(quota=5), await rig.user(quota=6), await rig.user()
    await rig.run("UPDATE users SET state = 'disabled' WHERE id = $1", disabled)
    people = owner, owner, other, other, disabled
    commands = [stored(host(each), f"{number}", at=rig.now) for number, each in enumerate(people)]
    made = await rig.ask(MakeFiles(commands, []))
    simple = set() if await rig.catalog.read(joins) else {2, 3}
    assert {number for number, file in enumerate(made) if file is not None} == simple
    assert await rig.files(owner) == []
    assert await rig.drift() == 0


@each("on_conflict", list(OnConflict))
async def test_the_same_message_again_gets_the_same_file(rig: Rig, on_conflict: OnConflict) -> None:
    owner = await rig.user()
    message = stored(host(owner), f"{on_conflict.value}.txt", at=rig.now, on_conflict=on_conflict)
    first = await rig.ask(message)
    again = await rig.ask(message)
    assert (again.id, again.version_id) == (first.id, VersionId(message.upload_id))
    assert len(await rig.files(owner)) == 1
    assert await rig.drift() == 0


async def test_a_name_that_is_taken_is_refused_replaced_or_numbered(rig: Rig) -> None:
    owner = await rig.user()
    first = await store(rig, owner)
    with pytest.raises(NameTaken):
        await store(rig, owner, "a.txt", b"other")
    replaced = await store(rig, owner, "a.txt", b"other", on_conflict=OnConflict.REPLACE, if_match=first.etag)
    assert (replaced.id, replaced.size_bytes) == (first.id, 5)
    with pytest.raises(PreconditionFailed):
        await store(rig, owner, "a.txt", b"third", on_conflict=OnConflict.REPLACE, if_match=first.etag)
    same = await store(rig, owner, "a.txt", b"other", on_conflict=OnConflict.REPLACE)
    assert same.version_id == replaced.version_id
    assert (await store(rig, owner, "a.txt", b"third", on_conflict=OnConflict.RENAME)).name == "a (1).txt"
    assert await rig.drift() == 0


async def test_what_the_quota_does_not_cover_is_refused_and_leaves_nothing(rig: Rig) -> None:
    owner = await rig.user(quota=5)
    await rig.ask(CheckRoom(host(owner), 5))
    with pytest.raises(QuotaExceeded):
        await rig.ask(CheckRoom(host(owner), 6))
    with pytest.raises(QuotaExceeded):
        await store(rig, owner, "a.txt", b"123456")
    file = await store(rig, owner, "a.txt", b"123")
    with pytest.raises(QuotaExceeded):
        await store(rig, owner, "a.txt", b"12345", on_conflict=OnConflict.REPLACE)
    assert await rig.files(owner) == [file]
    assert await rig.drift() == 0


async def test_of_stored_files_that_race_for_the_room_only_what_fits_is_stored(rig: Rig) -> None:
    owner = await rig.user(quota=10)
    outcomes: list[bool] = []

    async def race(name: str) -> None:
        try:
            await store(rig, owner, name)
            outcomes.append(True)
        except QuotaExceeded:
            outcomes.append(False)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(race, f"{number}.txt")
    assert sorted(outcomes) == [False] * 5 + [True] * 3
    assert (await rig.usage(owner)).live_bytes == 9
    assert await rig.drift() == 0


@pytest.mark.parametrize(
    ("table", "key", "field"), [("auth", "max_entries", "entries"), ("auth", "max_pending_uploads", "uploads")]
)
async def test_the_limits_on_rows_hold(rig: Rig, table: str, key: str, field: str) -> None:
    owner = await rig.user()
    await store(rig, owner)
    rig.configure(table, **{key: 1})
    if field == "uploads":
        await rig.begin(owner, "pending")
    with pytest.raises(QuotaExceeded) as refused:
        await store(rig, owner, "b.txt")
    assert refused.value.field in (field, "entries")
    with pytest.raises(QuotaExceeded):
        await rig.ask(CheckRoom(host(owner), 0))


async def test_who_may_not_upload_may_not_store(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(owner)
    reader = ApiToken(user_id=owner, token_id="t", scopes=frozenset({Scope.FILES_READ}))
    with pytest.raises(Forbidden):
        await rig.ask(stored(reader, at=rig.now))
    with pytest.raises(Forbidden):
        await rig.ask(CheckRoom(reader, 1))
    with pytest.raises(NotFound):
        await store(rig, other, where=inside(folder))
    with pytest.raises(Invalid):
        await store(rig, owner, "a/b")
    await rig.write(users.set_state, owner, UserState.DISABLED, now=rig.now)
    with pytest.raises(NotFound):
        await store(rig, owner)
    with pytest.raises(NotFound):
        await rig.ask(CheckRoom(host(owner), 1))
