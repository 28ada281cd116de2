"""Batches: many changes to files and folders in one request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from godrive.errors import (
    BY_CODE,
    Cycle,
    DriveError,
    Invalid,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    TooDeep,
)
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.api.paths import split_path
from godrive.http.api.problems import Problem, describe
from godrive.http.api.turns import InTurn
from godrive.http.routes.files import EntryId, Name, spot_of
from godrive.messages.batches import Act, Failure, RunBatch, Step, StepOutcome
from godrive.model import At, ETag, File, FileId, OnConflict, Root, Spot, Which
from godrive.principal import Scope
from godrive.rules.names import check_path
from godrive.runtime import request_id

routes = Routes("files")

MOST_OPERATIONS = 1000
_PIECE = 32
"""Operations of one message: few, so that others get a turn in between, and that the reply is never too long."""
_STATUS = {Act.COPY: HTTPStatus.CREATED, Act.MKDIR: HTTPStatus.CREATED, Act.PURGE: HTTPStatus.NO_CONTENT}

_OF_OPERATION = re.compile(r"(operations\[(\d+)\])\.(.+)")

Path = Annotated[str, Meta(max_length=8190, description="Names with a slash between them, from the root. Not encoded.")]


class _Step(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    """What all operations have in common.  ``step`` returns the step of the message, or raises ``Invalid``."""

    def field_of(self, error: DriveError) -> str | None:
        """Return the field of the operation that the error is about."""
        return error.field


class _OfEntry(_Step, kw_only=True, tag_field="op"):
    """Names an entry by its id or its path."""

    id: EntryId | UnsetType = UNSET
    path: Path | UnsetType = UNSET
    if_match: ETag | UnsetType = UNSET

    @property
    def which(self) -> Which:
        """The entry.  Raises ``Invalid``."""
        if isinstance(self.path, UnsetType):
            if isinstance(self.id, UnsetType):
                raise Invalid("Send an id or a path.", field="id")
            return FileId(self.id)
        if not isinstance(self.id, UnsetType):
            raise Invalid("Send an id or a path, not both.", field="path")
        return At(path=_names(self.path))

    @property
    def match(self) -> ETag | None:
        """The ETag that the entry must have."""
        return None if isinstance(self.if_match, UnsetType) else ETag(self.if_match.strip('"'))


class _Placed(_OfEntry, kw_only=True, tag_field="op"):
    """Puts an entry into a folder, named by its id or its path."""

    parent_id: EntryId | UnsetType | None = UNSET
    parent_path: Path | UnsetType = UNSET
    parents: bool = False
    name: Name | UnsetType = UNSET
    on_conflict: OnConflict = OnConflict.FAIL

    def field_of(self, error: DriveError) -> str | None:
        """See ``_Step``.  The rules call both paths ``path``."""
        if error.field != "path" or isinstance(self.parent_path, UnsetType) or _is_wrong(self.path):
            return error.field
        return "parent_path"

    def placed(self, act: Act) -> Step:
        """Return the step of that kind.  Raises ``Invalid``."""
        return Step(
            act=act,
            which=self.which,
            where=_where(self.parent_id, self.parent_path, parents=self.parents),
            name=None if isinstance(self.name, UnsetType) else self.name,
            on_conflict=self.on_conflict,
            if_match=self.match,
        )


class MoveStep(_Placed, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="move"):
    """Move an entry to another folder (`null` or `root` for the root).  With `name`, rename it too."""

    def step(self) -> Step:
        """Return the step for the message.  Raises ``Invalid``."""
        step = self.placed(Act.MOVE)
        if step.where is None:
            raise Invalid("Send a parent_id or a parent_path.", field="parent_id")
        return step


class CopyStep(_Placed, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="copy"):
    """Copy an entry.  By default, the copy has the folder and the name of its source."""

    def step(self) -> Step:
        """Return the step for the message.  Raises ``Invalid``."""
        return self.placed(Act.COPY)


class RenameStep(_OfEntry, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="rename"):
    """Rename an entry."""

    name: Name
    on_conflict: OnConflict = OnConflict.FAIL

    def step(self) -> Step:
        """Return the step for the message.  Raises ``Invalid``."""
        return Step(act=Act.RENAME, which=self.which, name=self.name, on_conflict=self.on_conflict, if_match=self.match)


class TrashStep(_OfEntry, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="trash"):
    """Move an entry to the trash."""

    def step(self) -> Step:
        """Return the step for the message.  Raises ``Invalid``."""
        return Step(act=Act.TRASH, which=self.which, if_match=self.match)


class RestoreStep(_Step, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="restore"):
    """Restore an entry from the trash."""

    id: EntryId
    on_conflict: OnConflict = OnConflict.FAIL

    def step(self) -> Step:
        """Return the step for the message."""
        return Step(act=Act.RESTORE, which=FileId(self.id), on_conflict=self.on_conflict)


class PurgeStep(_Step, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="purge"):
    """Purge an entry in the trash."""

    id: EntryId

    def step(self) -> Step:
        """Return the step for the message."""
        return Step(act=Act.PURGE, which=FileId(self.id))


class MkdirStep(_Step, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="mkdir"):
    """Create a folder at `path`, or with `name` in the folder that is named, by default the root."""

    name: Name | UnsetType = UNSET
    path: Path | UnsetType = UNSET
    parent_id: EntryId | UnsetType | None = UNSET
    parent_path: Path | UnsetType = UNSET
    parents: bool = False

    def field_of(self, error: DriveError) -> str | None:
        """See ``_Step``.  The last name of a path is a name to the rules."""
        if not isinstance(self.path, UnsetType):
            return "path" if error.field == "name" else error.field
        return "parent_path" if error.field == "path" else error.field

    def step(self) -> Step:
        """Return the step for the message.  Raises ``Invalid``."""
        if isinstance(self.path, UnsetType):
            if isinstance(self.name, UnsetType):
                raise Invalid("Send a name or a path.", field="name")
            where = _where(self.parent_id, self.parent_path, parents=self.parents)
            return Step(act=Act.MKDIR, where=Root() if where is None else where, name=self.name)
        for field in ("name", "parent_id", "parent_path"):
            if getattr(self, field) is not UNSET:
                raise Invalid("Send either a path, or a name and a folder.", field=field)
        *above, name = split_path(self.path)
        return Step(act=Act.MKDIR, where=At(path=tuple(above), parents=self.parents), name=name)


def _where(parent_id: str | UnsetType | None, parent_path: str | UnsetType, *, parents: bool) -> Spot | None:
    """Return the folder that is named, if one is.  Raises ``Invalid`` for two."""
    if isinstance(parent_path, UnsetType):
        return None if isinstance(parent_id, UnsetType) else spot_of(parent_id)
    if not isinstance(parent_id, UnsetType):
        raise Invalid("Send a parent_id or a parent_path, not both.", field="parent_path")
    return At(path=_names(parent_path), parents=parents)


AnyStep = MoveStep | CopyStep | RenameStep | TrashStep | RestoreStep | PurgeStep | MkdirStep


class BatchBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The operations, in the order in which they are carried out."""

    operations: Annotated[list[AnyStep], Meta(max_length=MOST_OPERATIONS)]
    atomic: bool = False


class BatchResult(msgspec.Struct, kw_only=True):
    """What became of one operation: `entry` as it is now (absent after `purge`), or `problem`."""

    status: int
    entry: File | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class BatchResults(msgspec.Struct, kw_only=True):
    """A result for each operation, in the same order."""

    results: list[BatchResult]


@routes.post(
    "/v1/batch",
    needs=frozenset({Scope.FILES_WRITE, Scope.FILES_DELETE}),
    replays=True,
    paced=True,
    raises=[Invalid, NotFound, NameTaken, Cycle, PreconditionFailed, QuotaExceeded],
)
async def run_batch(call: Call, body: BatchBody) -> BatchResults:
    """Carry out up to 1000 operations, and return a result for each.

    An operation needs the scope of its own route (`copy` needs `files:read` too); without it, its result is `403`.
    An operation that fails changes nothing, and the others are carried out.  With `atomic`, all are carried out or
    none: the answer is then the problem of the first that fails, whose `field` begins with `operations[number]`.
    """
    steps = [_step(number, operation) for number, operation in enumerate(body.operations)]
    if body.atomic:
        turns = InTurn(call.drive.metadata, call.lanes.batches, call.owner)
        try:
            outcomes = await turns.ask(RunBatch(call.by, steps, atomic=True))
        except DriveError as error:
            if (found := _OF_OPERATION.fullmatch(error.field or "")) is not None:
                error.field = found[3]
                error.field = f"{found[1]}.{body.operations[int(found[2])].field_of(error)}"
            raise
    else:
        outcomes = await _run_pieces(call, steps)
    return BatchResults(results=list(map(_result, body.operations, steps, outcomes)))


def _step(number: int, operation: AnyStep) -> Step:
    try:
        return operation.step()
    except Invalid as error:
        error.field = f"operations[{number}].{error.field}"
        raise


async def _run_pieces(call: Call, steps: Sequence[Step]) -> list[StepOutcome]:
    """Carry out the steps, a few at a time.

    If no answer comes for a piece (the database is down), that is the result of its steps and of all after it.
    """
    outcomes: list[StepOutcome] = []
    for piece in _pieces(steps):
        # A copy may take long, and never needs the few turns of batches.
        lane = call.lanes.writes if piece[0].act is Act.COPY else call.lanes.batches
        try:
            found = await InTurn(call.drive.metadata, lane, call.owner).ask(RunBatch(call.by, piece))
        except DriveError as error:
            if not outcomes:
                raise
            failure = Failure(code=error.code, detail=error.detail, retry_after=error.retry_after)
            return outcomes + [StepOutcome(failure=failure)] * (len(steps) - len(outcomes))
        outcomes += found
    return outcomes


def _pieces(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Split the steps: each copy by itself, the others into short runs."""
    piece: list[Step] = []
    for step in steps:
        if piece and (len(piece) == _PIECE or step.act is Act.COPY or piece[0].act is Act.COPY):
            yield piece
            piece = []
        piece.append(step)
    if piece:
        yield piece


def _result(operation: AnyStep, step: Step, outcome: StepOutcome) -> BatchResult:
    if (failure := outcome.failure) is not None:
        error = BY_CODE.get(failure.code, DriveError)(failure.detail, field=failure.field)
        error.field = operation.field_of(error)
        return BatchResult(status=error.status, problem=describe(error, request_id.get() or ""))
    return BatchResult(status=_STATUS.get(step.act, HTTPStatus.OK), entry=outcome.file or UNSET)


def _is_wrong(path: str | UnsetType) -> bool:
    """Whether no entry can have the path."""
    try:
        check_path(() if isinstance(path, UnsetType) else _names(path))
    except (Invalid, TooDeep):
        return True
    return False


def _names(path: str) -> tuple[str, ...]:
    """Return the names of a path; the empty one is the root."""
    return tuple(split_path(path)) if path else ()
