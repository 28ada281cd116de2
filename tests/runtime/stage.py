"""An actor that does as it is told, and a script that outlives its lives."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio

from godrive.backoff import Backoff
from godrive.errors import Conflict, NotFound
from godrive.runtime import Actor, ActorSpec, Ask, Contract, Event, Lane, LocalRef, Slots, Supervisor, request_id
from godrive.runtime.mailbox import Envelope
from godrive.runtime.message import A
from godrive.runtime.supervision_events import ChildCrashed


class Stage(Contract, name="stage"):
    """What may be said on a stage."""


class Say(Ask[Stage, str]):
    """Answer with the word, and which life it was."""

    word: str


class Note(Ask[Stage, None]):
    """Write the word down."""

    word: str


def leave(ref: LocalRef[A], message: Ask[A, Any]) -> None:
    """Put a message into its mailbox at once, as an asker does who then leaves.  Raises what an ask raises."""
    loop, mailbox = asyncio.get_running_loop(), ref._mailboxes[message.lane]
    left: asyncio.Future[Any] = loop.create_future()
    left.cancel()
    if not mailbox.offer(Envelope(message, left, loop.time() + message.timeout, None, loop.time())):
        raise ref._refusal(mailbox)


class Hold(Ask[Stage, str]):
    """Answer once the cue is given."""

    cue: str


class Write(Ask[Stage, str]):
    """Answer once the cue is given; a write."""

    lane: ClassVar[Lane] = Lane.WRITE
    cue: str


class Tidy(Ask[Stage, str]):
    """Answer once the cue is given; a chore."""

    lane: ClassVar[Lane] = Lane.CHORE
    cue: str


class Refuse(Ask[Stage, None]):
    """Answer with an error."""


class Stumble(Ask[Stage, None]):
    """Fail as only a bug does."""

    how: str = "value"
    cue: str = ""


class WhoAsks(Ask[Stage, str | None]):
    """The id of the request being served."""


class Stray(BaseException):
    """Not an error: something that ends the process."""


@dataclass
class Script:
    """What is given to every life of the actor, and what they leave behind."""

    lives: int = 0
    log: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    cues: defaultdict[str, anyio.Event] = field(default_factory=lambda: defaultdict(anyio.Event))
    reached: defaultdict[str, anyio.Event] = field(default_factory=lambda: defaultdict(anyio.Event))
    start_errors: list[BaseException] = field(default_factory=list)
    stop_errors: list[BaseException] = field(default_factory=list)
    hold_start: str = ""
    hold_stop: str = ""
    deaf: bool = False

    def names(self) -> list[str]:
        """The kinds of the events so far."""
        return [type(event).__name__ for event in self.events]

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def crashes(self) -> list[str | None]:
        return [event.doing for event in self.events if isinstance(event, ChildCrashed)]

    async def wait(self, cue: str) -> None:
        self.reached[cue].set()
        await self.cues[cue].wait()

    def actor(
        self,
        name: str = "stage",
        *,
        concurrency: int = 1,
        capacity: int = 1024,
        lanes: Mapping[Lane, Slots] | None = None,
        shutdown: float = 5.0,
    ) -> ActorSpec:
        return ActorSpec(
            name=name,
            start=lambda: StageActor(self),
            concurrency=concurrency,
            capacity=capacity,
            lanes=lanes or {},
            shutdown=shutdown,
        )

    def supervisor(self, *specs: object, intensity: int = 5) -> Supervisor:
        """One without back-off, that writes its events here."""
        children = specs or (self.actor(),)
        return Supervisor(children, intensity=intensity, backoff=Backoff(0.0, 0.0), on_event=self.events.append)  # type: ignore[arg-type]


class StageActor(Actor[Stage]):
    """Follows its script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        script.lives += 1
        self.life = script.lives

    async def on_start(self) -> None:
        if self.script.hold_start:
            await self.script.wait(self.script.hold_start)
        if self.script.start_errors:
            raise self.script.start_errors.pop(0)
        self.script.log.append("start")

    async def on_stop(self) -> None:
        if self.script.hold_stop:
            await self.script.wait(self.script.hold_stop)
        self.script.log.append("stop")
        if self.script.stop_errors:
            raise self.script.stop_errors.pop(0)

    @Say.handler
    async def say(self, ask: Say) -> str:
        self.script.log.append(ask.word)
        return f"{ask.word} {self.life}"

    @Note.handler
    async def note(self, tell: Note) -> None:
        self.script.log.append(tell.word)

    @Hold.handler
    async def hold(self, ask: Hold) -> str:
        self.script.log.append(f"hold {ask.cue}")
        with anyio.CancelScope(shield=self.script.deaf):
            await self.script.wait(ask.cue)
        self.script.log.append(f"held {ask.cue}")
        return f"held {self.life}"

    @Write.handler
    async def write(self, ask: Write) -> str:
        await self.script.wait(ask.cue)
        return f"wrote {self.life}"

    @Tidy.handler
    async def tidy(self, ask: Tidy) -> str:
        await self.script.wait(ask.cue)
        return f"tidied {self.life}"

    @Refuse.handler
    async def refuse(self, ask: Refuse) -> None:
        raise NotFound("not on this stage", field="word", hint="look elsewhere", retry_after=3.0)

    @Stumble.handler
    async def stumble(self, ask: Stumble) -> None:
        if ask.cue:
            await self.script.wait(ask.cue)
        match ask.how:
            case "value":
                raise ValueError("a bug")
            case "cancelled":
                raise asyncio.CancelledError
            case "awaits cancelled":
                other = asyncio.get_running_loop().create_future()
                other.cancel()
                await other
            case "group":
                raise ExceptionGroup("several", [Conflict("one"), ValueError("another")])
            case "stray":
                raise Stray
            case how:
                raise AssertionError(how)

    @WhoAsks.handler
    async def who_asks(self, ask: WhoAsks) -> str | None:
        return request_id.get()
