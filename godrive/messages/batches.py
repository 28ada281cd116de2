"""Batches of changes to files and folders."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import ETag, File, OnConflict, Spot, Value, Which
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class Act(StrEnum):
    """What a step of a batch does, as the message of that name."""

    MOVE = "move"
    COPY = "copy"
    RENAME = "rename"
    TRASH = "trash"
    RESTORE = "restore"
    PURGE = "purge"
    MKDIR = "mkdir"


class Step(Value):
    """One operation of a batch.  The fields that *act* does not have are ``None``.

    All except ``mkdir`` need *which*; ``move`` and ``mkdir`` need *where*;
    ``rename`` and ``mkdir`` need *name*.
    """

    act: Act
    which: Which | None = None
    where: Spot | None = None
    name: str | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class Failure(Value):
    """The error of one step, by its code (``godrive.errors``)."""

    code: str
    detail: str
    field: str | None = None
    retry_after: float | None = None


class StepOutcome(Value):
    """What became of one step: the entry (none after ``purge``), or the failure."""

    file: File | None = None
    failure: Failure | None = None


class RunBatch(Ask[Metadata, list[StepOutcome]]):
    """Carry out the steps in order.  Returns an outcome for each.

    A step that fails changes nothing.  The others are carried out, in
    transactions of a few steps each, between which others write.

    With *atomic*, all steps are one transaction, and the first that fails fails
    the batch with its error, whose ``field`` begins with ``operations[number]``.
    Nothing is changed then.  Raises ``Invalid`` if such a batch would touch more
    than 10 000 entries: each step touches one, a copy as many as it creates.
    Raises ``TooLarge`` if its reply would be too long to send.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    timeout: ClassVar[float] = 600.0

    by: Principal
    steps: list[Step]
    atomic: bool = False
