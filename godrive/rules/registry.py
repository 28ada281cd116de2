"""The rules of the metadata actor, by message.

A rule takes a transaction, its message and the :class:`Env` of this run::

    @rule(UpdateFile, writes=True)
    async def update(tx: Tx, ask: UpdateFile, env: Env) -> File: ...

The catalog may retry a rule (see ``Catalog``), so a rule has no effects except
through *tx*, and takes its time and configuration from *env*.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from godrive.catalog import Catalog, ReadsAtOnce, Row, Tx
from godrive.config import Config
from godrive.messages.metadata import Metadata
from godrive.rules.page_tokens import PageTokens
from godrive.runtime import Ask, Lane

R = TypeVar("R")
M = TypeVar("M")


class Env(msgspec.Struct, frozen=True, gc=False):
    """The inputs of a rule besides its message: time, configuration and page-token keys.

    *seen* is the row that its ``sees`` has asked for, if it has.
    """

    now: datetime
    config: Config
    tokens: PageTokens
    seen: Row | None = None


LARGE_PAGE = 100
"""Rows of a page up to which it is read on the event loop."""


class Question(NamedTuple):
    """A statement that always returns one row, and its values."""

    sql: str
    values: tuple[Any, ...]


def one_request(_: object) -> int:
    """Most messages are sent by a request."""
    return 1


class Rule(msgspec.Struct, frozen=True):
    """A rule, and whether it needs a transaction that *writes*, or is a *large* read."""

    message: type[Ask[Metadata, Any]]
    run: Callable[[Tx, Any, Env], Awaitable[Any]]
    writes: bool
    large: bool
    has_limit: bool
    sees: Callable[[Any], Question | None] | None = None
    """What it asks before the transaction where each statement is a round trip, if anything."""
    answers: Callable[[Any], int] = one_request
    """How many requests are answered after a message of this kind."""
    due: str = ""
    """A statement that finds a row if there is anything to do."""

    def is_large(self, ask: Ask[Metadata, Any]) -> bool:
        """Whether this read should not begin on the event loop: it would be interrupted there, and done twice."""
        return self.large or (self.has_limit and ask.limit > LARGE_PAGE)  # type: ignore[attr-defined]


RULES: dict[type[Ask[Metadata, Any]], Rule] = {}
"""All rules, after the modules of the package are imported."""

PROCEDURES: dict[type[Ask[Metadata, Any]], Callable[[Catalog, Any, Callable[[], Env]], Awaitable[Any]]] = {}
"""What takes several transactions, by message."""


async def perform(catalog: Catalog, ask: Ask[Metadata, R], env: Env) -> R:
    """Run the rule of *ask* in its own transaction, or its procedure, without the actor."""
    if type(ask) in PROCEDURES:
        result: R = await PROCEDURES[type(ask)](catalog, ask, lambda: env)
        return result
    found = RULES[type(ask)]
    if found.sees is not None and not isinstance(catalog, ReadsAtOnce) and (question := found.sees(ask)) is not None:
        env = msgspec.structs.replace(env, seen=await catalog.read(lambda tx: tx.one(question.sql, *question.values)))
    if found.writes:
        reply: R = await catalog.write(lambda tx: found.run(tx, ask, env))
        return reply
    read: R = await catalog.read(lambda tx: found.run(tx, ask, env), large=found.is_large(ask))
    return read


def rule(
    message: type[Ask[Metadata, R]],
    *,
    writes: bool = False,
    large: bool = False,
    sees: Callable[[M], Question | None] | None = None,
    answers: Callable[[M], int] = one_request,
    due: str = "",
) -> Callable[[Callable[[Tx, M, Env], Awaitable[R]]], Callable[[Tx, M, Env], Awaitable[R]]]:
    """Register the decorated function as the rule of *message*.

    A read is *large*, or if the message has a ``limit``, when that is above
    :data:`LARGE_PAGE`.  With *sees*, a rule may learn before its transaction what
    it would else read in it, one round trip after the other; the transaction must
    check that it is still so.  *answers* tells how many requests are answered after
    a message.  If *due* finds no row, the reply is ``False`` and nothing is written:
    for chores, which mostly find nothing to do.  The type checker compares the reply
    types.  Raises ``TypeError`` at import if the function takes another message, if
    the message already has a rule, or if a rule that writes is in the lane of reads.
    """

    def register(function: Callable[[Tx, M, Env], Awaitable[R]]) -> Callable[[Tx, M, Env], Awaitable[R]]:
        if message in RULES:
            raise TypeError(f"{message.__name__} has a rule already")
        if not _takes(function, message):
            raise TypeError(f"{function.__qualname__} must take `ask: {message.__name__}`")
        if writes and message.lane is Lane.READ:
            raise TypeError(f"{message.__name__} writes, so it must not be in the lane of reads")
        has_limit = message.lane is Lane.READ and "limit" in message.__struct_fields__
        RULES[message] = Rule(
            message, function, writes=writes, large=large, has_limit=has_limit, sees=sees, answers=answers, due=due
        )
        return function

    return register


def procedure(
    message: type[Ask[Metadata, R]],
) -> Callable[
    [Callable[[Catalog, M, Callable[[], Env]], Awaitable[R]]], Callable[[Catalog, M, Callable[[], Env]], Awaitable[R]]
]:
    """Register the decorated function as the procedure of *message*, for work that takes several transactions.

    It gets a function that returns the :class:`Env` of the moment.  If the
    process dies between two transactions, what the procedure has done so far
    must be invisible, and something must remove it.
    """

    def register(
        function: Callable[[Catalog, M, Callable[[], Env]], Awaitable[R]],
    ) -> Callable[[Catalog, M, Callable[[], Env]], Awaitable[R]]:
        if message in PROCEDURES or message in RULES:
            raise TypeError(f"{message.__name__} has a rule already")
        if not _takes(function, message):
            raise TypeError(f"{function.__qualname__} must take `ask: {message.__name__}`")
        PROCEDURES[message] = function
        return function

    return register


def _takes(function: Callable[..., Any], message: type[Any]) -> bool:
    """Whether its parameter ``ask`` is a *message*.  Its other annotations are not evaluated: each start would."""
    annotation = function.__annotations__.get("ask")
    return getattr(sys.modules[function.__module__], annotation, None) is message if annotation else False
