"""Create folders: one by name, and those that are missing on a path."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.messages.files import EnsureFolder, MakeFolder
from godrive.model import At, Ensured, File, FileEventKind, FileId, FileKind, Spot, UserId, new_id
from godrive.principal import Principal, Verb
from godrive.rules import changes, entries, rows
from godrive.rules.access import Folder, reach, resolve_folder
from godrive.rules.names import check_depth, check_name
from godrive.rules.registry import Env, rule


@rule(MakeFolder, writes=True)
async def make_folder(tx: Tx, ask: MakeFolder, env: Env) -> File:
    """As ``MakeFolder`` says."""
    await tx.grow()
    check_name(ask.name)
    return await _make(tx, await target(tx, ask.by, ask.where, env), ask.name, env)


@rule(EnsureFolder, writes=True)
async def ensure_folder(tx: Tx, ask: EnsureFolder, env: Env) -> Ensured:
    """As ``EnsureFolder`` says."""
    await tx.grow()
    check_name(ask.name)
    parent = await target(tx, ask.by, ask.where, env)
    # The owner is locked, so nobody else creates a folder.  A file may still get the name; then _make raises.
    found = await entries.find(tx, parent, ask.name)
    if found is None:
        return Ensured(folder=await _make(tx, parent, ask.name, env), created=True)
    if found.file.kind is not FileKind.FOLDER:
        raise entries.name_taken(ask.name)
    return Ensured(folder=found.file, created=False)


async def _make(tx: Tx, parent: Folder, name: str, env: Env) -> File:
    await changes.check_room(tx, parent.owner_id, env.config.auth, entries=1)
    folder = _new(parent.owner_id, parent.id, name, env)
    if not await entries.place(tx, parent, folder):
        raise entries.name_taken(name)
    await changes.record(tx, FileEventKind.CREATED, folder.owner_id, folder.id, folder, now=env.now, entries=1)
    return folder


async def target(tx: Tx, by: Principal, where: Spot, env: Env, *, lock: bool = True) -> Folder:
    """Return the folder in which *by* may create something, for the rules that do.

    With *parents*, the missing folders on the path are created; they go again
    if the rule raises.  *lock* and the errors are those of ``resolve_folder``;
    also raises ``NameTaken`` (a file is in the way) and ``QuotaExceeded``.
    """
    if not (isinstance(where, At) and where.parents and where.path):
        return await resolve_folder(tx, by, where, Verb.CREATE, lock=lock)
    folder, missing = await reach(tx, by, where, Verb.CREATE)
    if not missing:
        return folder
    check_depth(folder.depth + len(missing) + 1, "path")
    # No other transaction creates folders of this owner now, because the owner is locked.
    await changes.check_room(tx, folder.owner_id, env.config.auth, entries=len(missing))
    chain: list[File] = []
    parent_id = folder.id
    for name in missing:
        chain.append(_new(folder.owner_id, parent_id, name, env))
        parent_id = chain[-1].id
    if not await entries.place(tx, folder, chain[0], height=len(chain) - 1):
        raise entries.name_taken(missing[0], "path")
    await entries.place_chain(tx, chain[1:])
    for made in chain:
        await changes.record(tx, FileEventKind.CREATED, made.owner_id, made.id, made, now=env.now, entries=1)
    return Folder(folder.owner_id, chain[-1].id, folder.depth + len(chain))


def _new(owner_id: UserId, parent_id: FileId | None, name: str, env: Env) -> File:
    folder_id = FileId(new_id())
    return File(
        id=folder_id,
        owner_id=owner_id,
        name=name,
        created_at=env.now,
        updated_at=env.now,
        modified_at=env.now,
        kind=FileKind.FOLDER,
        parent_id=parent_id,
        mime="",
        revision=rows.micros(env.now),
        etag=rows.etag(folder_id, rows.micros(env.now)),
    )
