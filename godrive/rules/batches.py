"""Batches: the rules of single messages, several in one transaction.

A batch has no rules of its own.  Each step is the message of its operation, and
the rule of that message checks the principal, the conditions and the quota.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import msgspec

from godrive.catalog import Catalog, Tx
from godrive.errors import DriveError, Invalid, TooLarge
from godrive.messages.batches import Act, Failure, RunBatch, Step, StepOutcome
from godrive.messages.files import CopyFile, MakeFolder, PurgeFile, RestoreFile, TrashFile, UpdateFile
from godrive.model import At, File, FileId, Spot, Which
from godrive.principal import Principal
from godrive.rules import copies, files, folders, rows, trash, tree_copies
from godrive.rules.registry import Env, procedure

MOST_TOUCHED = 10_000
"""Entries that an atomic batch may touch.  It is one transaction, during which SQLite has no other writer."""
MOST_STEPS_AT_ONCE = 32
"""Steps of a batch that is not atomic in one transaction.  It takes about 10 milliseconds, so others hardly wait."""
MOST_REPLY = 900_000
"""Bytes of the reply to an atomic batch, written as JSON.  A message between processes has at most 1 MiB."""

_TRASHED = f"SELECT {rows.FILE} FROM entries WHERE id = $1"


@procedure(RunBatch)
async def run(catalog: Catalog, ask: RunBatch, env: Callable[[], Env]) -> list[StepOutcome]:
    """As ``RunBatch`` says."""
    if ask.atomic:
        return await catalog.write(lambda tx: _run_all(tx, ask, env()), chore=True)
    outcomes: list[StepOutcome] = []
    for copies_, group in groupby(ask.steps, key=lambda step: step.act is Act.COPY):
        steps = list(group)
        if copies_:
            outcomes += [await _copy(catalog, ask.by, step, env) for step in steps]
            continue
        for start in range(0, len(steps), MOST_STEPS_AT_ONCE):
            outcomes += await _run_some(catalog, ask.by, steps[start : start + MOST_STEPS_AT_ONCE], env)
    return outcomes


async def _copy(catalog: Catalog, by: Principal, step: Step, env: Callable[[], Env]) -> StepOutcome:
    """Copy in as many transactions as the tree needs."""
    try:
        return StepOutcome(file=await tree_copies.copy(catalog, _copy_of(by, step), env))
    except DriveError as error:
        return _failed(error)


async def _run_some(
    catalog: Catalog, by: Principal, steps: Sequence[Step], env: Callable[[], Env]
) -> list[StepOutcome]:
    """Carry out some steps in one transaction, in which each can fail alone."""

    async def together(tx: Tx) -> list[StepOutcome]:
        now, outcomes = env(), list[StepOutcome]()
        for step in steps:
            try:
                file, _ = await tx.attempt(lambda step=step: _run(tx, by, step, now, 1))  # type: ignore[misc]
                outcomes.append(StepOutcome(file=file))
            except DriveError as error:
                outcomes.append(_failed(error))
        return outcomes

    return await catalog.write(together, chore=True)


async def _run_all(tx: Tx, ask: RunBatch, env: Env) -> list[StepOutcome]:
    """Carry out all steps or, by raising the error of the first that fails, none."""
    outcomes: list[StepOutcome] = []
    room = MOST_TOUCHED
    for number, step in enumerate(ask.steps):
        try:
            file, touched = await _run(tx, ask.by, step, env, room)
        except DriveError as error:
            error.field = f"operations[{number}]" + (f".{error.field}" if error.field else "")
            raise
        room -= touched
        outcomes.append(StepOutcome(file=file))
    if len(msgspec.json.encode(outcomes)) > MOST_REPLY:
        raise TooLarge(f"The answer would have more than {MOST_REPLY} bytes. Send fewer operations.")
    return outcomes


async def _run(tx: Tx, by: Principal, step: Step, env: Env, room: int) -> tuple[File | None, int]:
    """Carry out one step.  Return its entry, and how many entries it touched.  Raises ``Invalid`` beyond *room*."""
    if room < 1:
        raise _too_many()
    match step.act:
        case Act.MOVE | Act.RENAME:
            where = _where(step) if step.act is Act.MOVE else None
            name = _name(step) if step.act is Act.RENAME else step.name
            update = UpdateFile(by, _which(step), name, where, step.on_conflict, step.if_match)
            return await files.update(tx, update, env), 1
        case Act.COPY:
            copied = await copies.copy_at_once(tx, _copy_of(by, step), env, room)
            if copied is None:
                raise _too_many()
            return copied
        case Act.TRASH:
            tombstone = await trash.put(tx, TrashFile(by, _which(step), step.if_match), env)
            return rows.file(rows.found(await tx.one(_TRASHED, tombstone.file_id))), 1
        case Act.RESTORE:
            return await trash.restore(tx, RestoreFile(by, _id(step), step.on_conflict, step.if_match), env), 1
        case Act.PURGE:
            await trash.purge(tx, PurgeFile(by, _id(step), step.if_match), env)
            return None, 1
        case Act.MKDIR:
            return await folders.make_folder(tx, MakeFolder(by, _where(step), _name(step)), env), 1


def _copy_of(by: Principal, step: Step) -> CopyFile:
    return CopyFile(by, _which(step), step.where, step.name, step.on_conflict, step.if_match)


def _which(step: Step) -> Which:
    if step.which is None:
        raise Invalid(f"{step.act.value} needs an entry.", field="id")
    return step.which


def _id(step: Step) -> FileId:
    which = _which(step)
    if isinstance(which, At):
        raise Invalid("No path leads to an entry in the trash: send its id.", field="id")
    return which


def _where(step: Step) -> Spot:
    if step.where is None:
        raise Invalid(f"{step.act.value} needs a folder.", field="parent_id")
    return step.where


def _name(step: Step) -> str:
    if step.name is None:
        raise Invalid(f"{step.act.value} needs a name.", field="name")
    return step.name


def _too_many() -> Invalid:
    return Invalid(f"An atomic batch can touch at most {MOST_TOUCHED} entries. Nothing was changed.")


def _failed(error: DriveError) -> StepOutcome:
    failure = Failure(code=error.code, detail=error.detail, field=error.field, retry_after=error.retry_after)
    return StepOutcome(failure=failure)
