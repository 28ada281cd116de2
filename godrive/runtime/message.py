"""Messages: frozen values that name the actor they are for and the reply they get.

A :class:`Contract` is the tag of an actor.  Asks are declared for a contract, an
actor implements it, and a ref points to it; the type checker holds the three
together::

    class Metadata(Contract, name="metadata"):
        "Owns the catalog."

    class TrashFile(Ask[Metadata, Tombstone]):
        "Move a file to the trash.  Idempotent."

        lane: ClassVar[Lane] = Lane.WRITE
        owner: UserId
        file_id: FileId
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from enum import IntEnum
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

import msgspec
from typing_extensions import dataclass_transform

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request being served.  Every envelope carries it to the handler's context."""


class Lane(IntEnum):
    """What a message does, and so what it may wait for.

    An actor can serve each lane from a mailbox and slots of its own.  Then slow
    writes do not delay reads, and housekeeping delays neither.
    """

    READ = 0
    WRITE = 1
    CHORE = 2


class Contract:
    """What may be said to one actor.

    ``name`` is its stem everywhere, ``messages`` its vocabulary, and ``lane``
    the lane of messages that do not declare one.
    """

    name: ClassVar[str]
    lane: ClassVar[Lane]
    messages: ClassVar[dict[str, type[Message[Any]]]]

    def __init_subclass__(cls, *, name: str, lane: Lane = Lane.READ) -> None:
        cls.name = name
        cls.lane = lane
        cls.messages = {}


A = TypeVar("A", bound=Contract)
R = TypeVar("R")
M = TypeVar("M")
S = TypeVar("S")

Handler = Callable[[S, M], Coroutine[Any, Any, R]]


_OPTIONS = {"frozen": True, "omit_defaults": True, "forbid_unknown_fields": True}
"""See :mod:`godrive.runtime.codec` for what two releases say to one another."""


class _MessageMeta(msgspec.StructMeta):
    """Freezes each message and enters it in its contract's vocabulary."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        cls: Any = super().__new__(mcls, name, bases, namespace, **{**options, **_OPTIONS})
        for base in namespace.get("__orig_bases__", ()):
            arguments = get_args(base)
            if get_origin(base) in _KINDS and isinstance(arguments[0], type):
                contract: Any = arguments[0]
                if name in contract.messages:
                    raise TypeError(f"the {contract.name} contract has a {name} already")
                cls.contract = contract
                cls.reply = arguments[1]
                cls.action = _snake_case(name)
                if "lane" not in namespace:
                    cls.lane = contract.lane
                cls.contract.messages[name] = cls
        return cls


_KINDS: list[Any] = []


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, Generic[A], metaclass=_MessageMeta, frozen=True):
    """Base of :class:`Ask`."""

    contract: ClassVar[type[Contract]]
    reply: ClassVar[Any]
    """The type of the reply; ``None`` for an ask that only confirms."""
    action: ClassVar[str]
    """The name of the handler: the message in snake case."""
    lane: ClassVar[Lane]
    """The lane that carries it; the contract's unless the message declares another."""
    order_key: ClassVar[str | None] = None
    """A field.  Messages of this type with the same value are handled in order, one at a time; others beside them."""
    timeout: ClassVar[float] = 15.0
    """Seconds that an ask of this type waits, unless the asker says otherwise."""


class Ask(Message[A], Generic[A, R]):
    """A message that is answered with an *R* or an error, before a deadline."""

    @classmethod
    def handler(cls: type[M], method: Handler[S, M, R]) -> Handler[S, M, R]:
        """Mark *method* as the handler of this message."""
        method.__handles__ = cls  # type: ignore[attr-defined]
        return method


_KINDS.append(Ask)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
