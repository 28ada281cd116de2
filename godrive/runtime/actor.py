"""Actors: state behind a mailbox, and the cell that keeps one alive.

An :class:`Actor` is what people write: handlers and two hooks.  An
:class:`ActorCell` is what a supervisor runs: it owns the mailbox, builds a
fresh actor for each life and feeds it messages, up to *concurrency* at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Generic, get_args, get_origin

import anyio
from anyio.abc import TaskGroup

from godrive.errors import ActorCrashed, DeliveryError, DriveError
from godrive.runtime.events import DeadLetter, OnEvent
from godrive.runtime.mailbox import Envelope, Mailbox
from godrive.runtime.message import A, Contract, Message, request_id


class Actor(Generic[A]):
    """Base of all actors.

    A subclass names its contract (``class MetadataActor(Actor[Metadata])``)
    and has one handler for each of the contract's messages; a missing or
    misnamed handler is a ``TypeError`` when the module is imported.

    A handler that raises a ``DriveError`` has answered.  Anything else is a
    crash: the asker gets ``ActorCrashed`` and this object is thrown away.
    """

    contract: ClassVar[type[Contract]]
    handlers: ClassVar[dict[type[Message[Any]], Callable[[Any, Any], Coroutine[Any, Any, Any]]]]

    def __init_subclass__(cls) -> None:
        contract = _contract_of(cls)
        if contract is None:
            return
        cls.contract = contract
        cls.handlers = {}
        for owner in reversed(cls.__mro__):
            for name, member in vars(owner).items():
                message = getattr(member, "__handles__", None)
                if message is None:
                    continue
                if message.contract is not contract:
                    raise TypeError(f"{cls.__name__}.{name} handles {message.__name__}, which is not said to it")
                if name != message.action:
                    raise TypeError(f"{cls.__name__}.{name} must be called {message.action}")
                cls.handlers[message] = member
        if missing := [name for name, m in contract.messages.items() if m not in cls.handlers]:
            raise TypeError(f"{cls.__name__} has no handler for {', '.join(missing)}")

    async def on_start(self) -> None:
        """Called before the first message of this life.  An error here is a crash."""

    async def on_stop(self) -> None:
        """Called once after the last message of this life, crashed or not."""


def _contract_of(cls: type) -> type[Contract] | None:
    for owner in cls.__mro__:
        for base in vars(owner).get("__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Actor):
                (argument, *_) = get_args(base)
                if isinstance(argument, type):
                    return argument
    return None


class Crash(Exception):
    """An actor's life ended by a bug; the cause is chained.  ``doing`` names the message in hand."""

    def __init__(self, doing: str | None) -> None:
        super().__init__(doing)
        self.doing = doing


class ActorCell:
    """One actor's place in the tree: its mailbox, and one life after another."""

    def __init__(
        self,
        name: str,
        build: Callable[[], Actor[Any]],
        *,
        concurrency: int,
        capacity: int,
        on_event: OnEvent,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(capacity)
        self.in_flight = 0
        self._build = build
        self._concurrency = concurrency
        self._on_event = on_event
        self._slots = 0
        self._crash: Crash | None = None

    async def run(self, started: Callable[[], None]) -> None:
        """Live one life: until told to stop, or until a crash, which is raised as :class:`Crash`.

        On a crash with ``concurrency`` above one, siblings in flight finish first.
        """
        actor = self._build()
        try:
            await actor.on_start()
        except Exception as error:
            await self._end(actor)
            raise Crash("on_start") from error
        self._crash = None
        if not self.mailbox.closed:
            self.mailbox.resume()
        started()
        try:
            async with anyio.create_task_group() as slots:
                self._spawn(slots, actor)
        finally:
            await self._end(actor)
        if self._crash is not None:
            raise self._crash

    def request_stop(self) -> None:
        """Take no more messages; ``run`` returns when those in hand are done."""
        self.mailbox.close()
        self.mailbox.pause()

    def bury(self) -> None:
        """Turn everything still queued into dead letters; their askers are told."""
        for envelope in self.mailbox.drain():
            self._dead_letter(envelope, "stopped")
            envelope.fail(DeliveryError(f"The {self.name} actor has stopped."))

    def _spawn(self, slots: TaskGroup, actor: Actor[Any]) -> None:
        self._slots += 1
        slots.start_soon(self._slot, slots, actor, name=f"{self.name}-{self._slots}")

    async def _slot(self, slots: TaskGroup, actor: Actor[Any]) -> None:
        mailbox, loop, handlers = self.mailbox, asyncio.get_running_loop(), actor.handlers
        try:
            while (envelope := await mailbox.take()) is not None:
                if envelope.deadline <= loop.time():
                    self._dead_letter(envelope, "expired")
                    continue
                if self._slots < self._concurrency and not mailbox.idle:
                    self._spawn(slots, actor)
                request_id.set(envelope.request_id)
                self.in_flight += 1
                try:
                    value = await handlers[type(envelope.message)](actor, envelope.message)
                except DriveError as error:
                    envelope.fail(error)
                except asyncio.CancelledError as error:
                    envelope.fail(DeliveryError(f"The {self.name} actor was stopped."))
                    if _is_cancelled():
                        raise
                    self._crashed(envelope, error)
                except Exception as error:
                    self._crashed(envelope, error)
                else:
                    envelope.answer(value)
                finally:
                    self.in_flight -= 1
        finally:
            self._slots -= 1

    def _crashed(self, envelope: Envelope, error: BaseException) -> None:
        doing = type(envelope.message).__name__
        envelope.fail(ActorCrashed(f"The {self.name} actor failed."))
        self.mailbox.pause()
        if self._crash is None:
            self._crash = Crash(doing)
            self._crash.__cause__ = error

    async def _end(self, actor: Actor[Any]) -> None:
        try:
            await actor.on_stop()
        except Exception as error:
            if self._crash is None:
                self._crash = Crash("on_stop")
                self._crash.__cause__ = error

    def _dead_letter(self, envelope: Envelope, reason: str) -> None:
        self._on_event(DeadLetter(self.name, type(envelope.message).__name__, reason, envelope.request_id))


def _is_cancelled() -> bool:
    """Whether this task itself is being cancelled, as against a handler that raised CancelledError."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
