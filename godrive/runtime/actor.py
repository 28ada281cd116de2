"""Actors: state behind mailboxes, and the cell that runs one.

An :class:`Actor` is written by people: handlers and two hooks.  An
:class:`ActorCell` is run by a supervisor: it owns the mailboxes, builds a new
actor for each life, and gives it messages, up to a bound at once in each lane.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Generic, get_args, get_origin

import anyio
import msgspec
from anyio.abc import TaskGroup

from godrive.errors import ActorCrashed, AskTimeout, DeliveryError, DriveError
from godrive.runtime.mailbox import Envelope, Mailbox
from godrive.runtime.message import A, Contract, Lane, Message, request_id
from godrive.runtime.supervision_events import ChildCrashed, DeadLetter, OnEvent, SlowMessage

SLOW = 0.1
"""The part of its timeout beyond which a message is reported as slow."""


class Actor(Generic[A]):
    """Base of all actors.

    A subclass names its contract (``class MetadataActor(Actor[Metadata])``)
    and has one handler for each message of the contract.  A missing or
    misnamed handler is a ``TypeError`` when the module is imported.

    A ``DriveError`` raised by a handler is a reply.  Any other exception is a
    crash: the asker gets ``ActorCrashed``, and this object is discarded.
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
                    raise TypeError(f"{cls.__name__}.{name} handles {message.__name__}, which is of another contract")
                if name != message.action:
                    raise TypeError(f"{cls.__name__}.{name} must be called {message.action}")
                handled.add(message)
        if missing := [name for name, message in contract.messages.items() if message not in handled]:
            raise TypeError(f"{cls.__name__} has no handler for {', '.join(missing)}")
        # Looked up by name, so that a subclass can override a handler like any method.
        cls.handlers = {message: getattr(cls, message.action) for message in handled}

    async def on_start(self) -> None:
        """Called before the first message of this life.  An error is a crash, and ``on_stop`` is not called."""

    async def on_stop(self) -> None:
        """Called once after the last message of this life, after a crash too.  It has ``shutdown`` seconds.

        It is shielded from the cancellation of the actor, so it can await what it closes.
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

    *doing* names the message or the hook that failed.  *reported* says whether
    the event has been sent already.
    """

    def __init__(self, doing: str, *, reported: bool = False) -> None:
        super().__init__(doing)
        self.doing = doing
        self.reported = reported


class Slots(msgspec.Struct, frozen=True):
    """How many messages an actor handles at once, and how many more may wait."""

    concurrency: int = 1
    capacity: int = 1024


class InHand(msgspec.Struct, frozen=True):
    """A message that an actor is handling: for *age* seconds, after it has *waited* as long in the mailbox."""

    message: str
    age: float
    waited: float
    request_id: str | None


class _Slot:
    """A task that handles messages, one after another; *envelope* is the one in hand, since *since*."""

    __slots__ = ("envelope", "since")

    def __init__(self) -> None:
        self.envelope: Envelope | None = None
        self.since = 0.0


class _Service:
    """A mailbox, and the slots that handle its messages."""

    __slots__ = ("_waiting", "concurrency", "mailbox", "slots")

    def __init__(self, slots: Slots) -> None:
        self.concurrency = slots.concurrency
        self.mailbox = Mailbox(slots.capacity)
        self.slots: list[_Slot] = []
        self._waiting: dict[tuple[type[Message[Any]], Any], deque[Envelope]] = {}

    def enter(self, message: Message[Any], envelope: Envelope) -> bool:
        """Begin a message that has a key.  If one with the same key is in hand, park this one behind it."""
        key = self._key(message)
        if key not in self._waiting:
            self._waiting[key] = deque()
            return True
        self._waiting[key].append(envelope)
        self.mailbox.parked += 1
        return False

    def leave(self, message: Message[Any]) -> Envelope | None:
        """End a message that has a key; the next one with that key, unless the actor is pausing."""
        if self.mailbox.paused or not (waiting := self._waiting[self._key(message)]):
            self.put_back(message)
            return None
        self.mailbox.parked -= 1
        return waiting.popleft()

    def put_back(self, message: Message[Any]) -> None:
        """Return those that wait for this message to the mailbox."""
        self.mailbox.put_back(self._waiting.pop(self._key(message)))

    @staticmethod
    def _key(message: Message[Any]) -> tuple[type[Message[Any]], Any]:
        assert message.order_key is not None  # noqa: S101 - the caller has looked
        return type(message), getattr(message, message.order_key)


class ActorCell:
    """One actor's place in the tree: its mailboxes, and one life after another.

    Each of *lanes* has a mailbox and slots of its own.  Messages of other lanes
    share *slots*.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Actor[Any]],
        *,
        slots: Slots,
        lanes: Mapping[Lane, Slots],
        shutdown: float,
        on_event: OnEvent,
    ) -> None:
        self.name = name
        shared = _Service(slots)
        by_lane = [_Service(lanes[lane]) if lane in lanes else shared for lane in Lane]
        self.mailboxes = tuple(service.mailbox for service in by_lane)
        """One for each lane, in the order of :class:`Lane`; lanes may share one."""
        self._services = list(dict.fromkeys(by_lane))
        self._build = build
        self._shutdown = shutdown
        self._on_event = on_event
        self._crash: Crash | None = None

    @property
    def queued(self) -> int:
        """Messages that wait, in all lanes."""
        return sum(len(service.mailbox) for service in self._services)

    @property
    def in_flight(self) -> int:
        """Messages that are being handled, in all lanes."""
        return sum(slot.envelope is not None for service in self._services for slot in service.slots)

    def in_hand(self) -> list[InHand]:
        """The messages that are being handled, the oldest first."""
        now = asyncio.get_running_loop().time()
        slots = [slot for service in self._services for slot in service.slots]
        return [
            InHand(
                type(slot.envelope.message).__name__,
                now - slot.since,
                slot.since - slot.envelope.sent_at,
                slot.envelope.request_id,
            )
            for slot in sorted(slots, key=lambda slot: slot.since)
            if slot.envelope is not None
        ]

    def oldest_queued(self) -> float:
        """Seconds that the oldest message has waited in a mailbox; 0 if none waits."""
        sent = [at for service in self._services if (at := service.mailbox.oldest()) is not None]
        return asyncio.get_running_loop().time() - min(sent) if sent else 0.0

    async def run(self, started: Callable[[], None]) -> None:
        """Live one life: until asked to stop, or until a crash, which is raised as :class:`Crash`.

        After a crash, the other messages in hand finish first.
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
            for service in self._services:
                if not service.mailbox.closed:
                    service.mailbox.resume()
            started()
            async with anyio.create_task_group() as tasks:
                for service in self._services:
                    self._spawn(tasks, actor, service)
            if self._crash is not None:
                raise self._crash
        finally:
            await self._end(actor)

    def request_stop(self) -> bool:
        """Take no more messages.  ``run`` returns when those in hand are done."""
        for service in self._services:
            service.mailbox.close()
            service.mailbox.pause()
        return True

    def bury(self) -> None:
        """Turn all queued messages into dead letters, and fail their asks."""
        for service in self._services:
            for envelope in service.mailbox.drain():
                self._dead_letter(envelope, "stopped")
                envelope.fail(DeliveryError(f"The {self.name} actor has stopped."))

    def _spawn(self, tasks: TaskGroup, actor: Actor[Any], service: _Service) -> None:
        slot = _Slot()
        service.slots.append(slot)
        tasks.start_soon(self._serve, tasks, actor, service, slot, name=f"{self.name}-{len(service.slots)}")

    async def _serve(self, tasks: TaskGroup, actor: Actor[Any], service: _Service, slot: _Slot) -> None:
        mailbox, time, handlers = service.mailbox, asyncio.get_running_loop().time, actor.handlers
        try:
            following: Envelope | None = None  # the next one with the key of the message that has just ended
            while (envelope := following or await mailbox.take()) is not None:
                message, now = envelope.message, time()
                if message.order_key is not None and following is None and not service.enter(message, envelope):
                    continue
                following = None
                if envelope.expired(now):
                    self._dead_letter(envelope, "expired")
                    envelope.fail(AskTimeout(f"The {self.name} actor did not reach the message in time."))
                    if message.order_key is not None:
                        following = service.leave(message)
                    continue
                if len(service.slots) < service.concurrency and not mailbox.takers:
                    self._spawn(tasks, actor, service)
                request_id.set(envelope.request_id)
                slot.envelope, slot.since = envelope, now
                try:
                    value = await handlers[type(message)](actor, message)
                except DriveError as error:
                    envelope.fail(error)
                except BaseException as error:
                    if not is_bug(error):
                        envelope.fail(AskTimeout(f"The {self.name} actor was stopped: the outcome is unknown."))
                        if message.order_key is not None:
                            service.put_back(message)
                        raise
                    self._crashed(envelope, error)
                else:
                    envelope.answer(value)
                finally:
                    slot.envelope = None
                    if (ended := time()) - envelope.sent_at > message.timeout * SLOW:
                        self._slow(envelope, now, ended)
                if message.order_key is not None:
                    following = service.leave(message)
        finally:
            service.slots.remove(slot)

    def _slow(self, envelope: Envelope, since: float, ended: float) -> None:
        name = type(envelope.message).__name__
        self._on_event(SlowMessage(self.name, name, since - envelope.sent_at, ended - since, envelope.request_id))

    def _crashed(self, envelope: Envelope, error: BaseException) -> None:
        # Reported now, because other messages in hand may keep this life from ending for a while.
        doing = type(envelope.message).__name__
        self._on_event(ChildCrashed(self.name, error, doing))
        envelope.fail(ActorCrashed(f"The {self.name} actor failed."))
        for service in self._services:
            service.mailbox.pause()
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
    """Whether *error* is a defect, and not the cancellation of this task or the end of the process.

    A ``CancelledError`` in a task that was not cancelled (its handler awaited
    another task that was) is a bug like any other.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() == 0
    return isinstance(error, Exception)
