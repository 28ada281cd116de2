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

from godrive.errors import ActorCrashed, AskTimeout, DeliveryError, DriveError
from godrive.runtime.mailbox import Envelope, Mailbox
from godrive.runtime.message import A, Contract, Message, request_id
from godrive.runtime.supervision_events import ChildCrashed, DeadLetter, OnEvent


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
        handled = set()
        for owner in cls.__mro__:
            for name, member in vars(owner).items():
                message = getattr(member, "__handles__", None)
                if message is None:
                    continue
                if message.contract is not contract:
                    raise TypeError(f"{cls.__name__}.{name} handles {message.__name__}, which is not said to it")
                if name != message.action:
                    raise TypeError(f"{cls.__name__}.{name} must be called {message.action}")
                handled.add(message)
        if missing := [name for name, message in contract.messages.items() if message not in handled]:
            raise TypeError(f"{cls.__name__} has no handler for {', '.join(missing)}")
        # By name, so that a subclass overrides a handler as it would any method.
        cls.handlers = {message: getattr(cls, message.action) for message in handled}

    async def on_start(self) -> None:
        """Called before the first message of this life.  An error here is a crash, and ``on_stop`` is not called."""

    async def on_stop(self) -> None:
        """Called once after the last message of this life, crashed or not; has ``shutdown`` seconds.

        It is not cancelled with the actor, so it may wait for what it closes.
        """


def _contract_of(cls: type) -> type[Contract] | None:
    for owner in cls.__mro__:
        for base in vars(owner).get("__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Actor):
                (argument, *_) = get_args(base)
                if isinstance(argument, type):
                    return argument
    return None


class Crash(Exception):
    """An actor's life ended by a bug; the cause is chained.

    *doing* names the message in hand, or the hook; *reported* says that the
    event has been sent already.
    """

    def __init__(self, doing: str, *, reported: bool = False) -> None:
        super().__init__(doing)
        self.doing = doing
        self.reported = reported


class ActorCell:
    """One actor's place in the tree: its mailbox, and one life after another."""

    def __init__(
        self,
        name: str,
        build: Callable[[], Actor[Any]],
        *,
        concurrency: int,
        capacity: int,
        shutdown: float,
        on_event: OnEvent,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(capacity)
        self.in_flight = 0
        self._build = build
        self._concurrency = concurrency
        self._shutdown = shutdown
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
        except BaseException as error:
            if not is_bug(error):
                raise
            raise Crash("on_start") from error
        try:
            self._crash = None
            if not self.mailbox.closed:
                self.mailbox.resume()
            started()
            async with anyio.create_task_group() as slots:
                self._spawn(slots, actor)
            if self._crash is not None:
                raise self._crash
        finally:
            await self._end(actor)

    def request_stop(self) -> bool:
        """Take no more messages; ``run`` returns when those in hand are done."""
        self.mailbox.close()
        self.mailbox.pause()
        return True

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
                if envelope.expired(loop.time()):
                    self._dead_letter(envelope, "expired")
                    envelope.fail(AskTimeout(f"The {self.name} actor did not get to the message in time."))
                    continue
                if self._slots < self._concurrency and not mailbox.idle:
                    self._spawn(slots, actor)
                request_id.set(envelope.request_id)
                self.in_flight += 1
                try:
                    value = await handlers[type(envelope.message)](actor, envelope.message)
                except DriveError as error:
                    envelope.fail(error)
                except BaseException as error:
                    if not is_bug(error):
                        envelope.fail(DeliveryError(f"The {self.name} actor was stopped."))
                        raise
                    self._crashed(envelope, error)
                else:
                    envelope.answer(value)
                finally:
                    self.in_flight -= 1
        finally:
            self._slots -= 1

    def _crashed(self, envelope: Envelope, error: BaseException) -> None:
        # Reported now: siblings in flight may keep this life from ending for a while.
        doing = type(envelope.message).__name__
        self._on_event(ChildCrashed(self.name, error, doing))
        envelope.fail(ActorCrashed(f"The {self.name} actor failed."))
        self.mailbox.pause()
        if self._crash is None:
            self._crash = Crash(doing, reported=True)
            self._crash.__cause__ = error

    async def _end(self, actor: Actor[Any]) -> None:
        try:
            with anyio.fail_after(self._shutdown, shield=True):
                await actor.on_stop()
        except Exception as error:
            raise Crash("on_stop") from error

    def _dead_letter(self, envelope: Envelope, reason: str) -> None:
        self._on_event(DeadLetter(self.name, type(envelope.message).__name__, reason, envelope.request_id))


def is_bug(error: BaseException) -> bool:
    """Whether *error* is a defect of what raised it, as against this task being cancelled or the process ending.

    A ``CancelledError`` that nobody asked for (a handler awaited a task that
    somebody else cancelled) is a bug like any other.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() == 0
    return isinstance(error, Exception)
