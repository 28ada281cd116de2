"""A simulated NATS server: subjects, queue groups, headers, and the streams of :mod:`godrive.simulation.jetstream`.

It speaks the client protocol of NATS, so the client library runs unchanged.
Source: NATS documentation, "Client Protocol".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from godrive.simulation.jetstream import JetStream
from godrive.simulation.loop import Process, SimulatedLoop, within
from godrive.simulation.nats_messages import Message, matches
from godrive.simulation.trace import Trace

NAME = "nats"
ADDRESS = ("10.0.0.8", 4222)

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
_MAX_PAYLOAD = 1_048_576


@dataclass
class Subscription:
    """One subscription of a connection."""

    connection: Connection
    subject: str
    queue: str
    id: str
    left: int = 0
    """Messages after which it ends; 0 if it does not."""


@dataclass
class BrokerTroubles:
    """What is wrong with the broker: shares of the messages, but for *slow*."""

    slow: float = 0.0
    """Seconds that a message stays in the broker at most.  The messages of one connection stay in order."""
    lost: float = 0.0
    """Dropped, as for a reader that is too slow."""
    acks_lost: float = 0.0
    refused: float = 0.0
    """The share of messages that streams do not store, because the server has no room."""
    """Acknowledgements of JetStream, in both directions, that never arrive: so what was done is done again."""


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._buffer = b""
        self.transport: Any = None
        self.is_open = True
        self.free_at = 0.0
        """When the last message that waits in the broker for this client leaves."""
        self.subscriptions: dict[str, Subscription] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._broker.connections[self] = None
        info = {
            "server_id": "simulated",
            "version": "2.10.0",
            "proto": 1,
            "headers": True,
            "jetstream": True,
            "auth_required": True,
            "max_payload": _MAX_PAYLOAD,
        }
        self.send(b"INFO " + msgspec.json.encode(info) + b"\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._broker.connections.pop(self, None)
        self.subscriptions.clear()

    def send(self, data: bytes) -> None:
        if self.is_open:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (used := self._take()) and self.is_open:
            self._buffer = self._buffer[used:]

    def _take(self) -> int:
        """Act on the first command.  Returns its length, 0 if it has not arrived yet."""
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return 0
        size = len(line) + 2
        verb, *words = line.decode().split()
        match verb.upper():
            case "PING":
                self.send(b"PONG\r\n")
            case "SUB":
                subject, *queue, id_ = words
                self.subscriptions[id_] = Subscription(self, subject, "".join(queue), id_)
            case "UNSUB":
                self._unsubscribe(*words)
            case "PUB" | "HPUB":
                has_headers = verb.upper() == "HPUB"
                sizes = 2 if has_headers else 1
                total = int(words[-1])
                if len(rest) < total + 2:
                    return 0
                split = int(words[-2]) if has_headers else 0
                subject, *reply = words[:-sizes]
                self._broker.publish(Message(subject, "".join(reply), rest[:split], rest[split:total]))
                size += total + 2
        return size

    def _unsubscribe(self, id_: str, most: str = "0") -> None:
        if found := self.subscriptions.get(id_):
            found.left = int(most)
            if not found.left:
                del self.subscriptions[id_]


class Broker(Process):
    """The server.  :meth:`kill` and :meth:`boot` end and start it; its streams are on a disk."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, trace: Trace) -> None:
        super().__init__(NAME)
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.troubles = BrokerTroubles()
        self.connections: dict[Connection, None] = {}
        self.jetstream = JetStream(self)
        self.is_up = False
        self.boot()

    def boot(self) -> None:
        """Listen."""
        self.is_up = True
        within(self, self.loop.network.listen, lambda: Connection(self), *ADDRESS)

    def restart(self, after: float) -> None:
        """End at once, and start again *after* seconds.  Only what is in streams survives."""
        self.trace("kill", NAME, seconds=after)
        self.is_up = False
        network = self.loop.network
        network.kill(self)
        for connection in self.connections:
            connection.is_open = False
        self.connections.clear()
        self.jetstream.restart()
        self.loop.call_later(after, self.boot)

    def publish(self, message: Message) -> None:
        """A client has sent a message."""
        if message.subject.startswith("$JS."):
            self.jetstream.take(message)
            return
        is_kept = self.jetstream.keep(message)
        found = self._interested(message.subject)
        if not found and not is_kept and message.reply:
            self.deliver(Message(message.reply, "", NO_RESPONDERS, b""))
        for subscription in found:
            self._send(subscription, message, certain=False)

    def deliver(self, message: Message, *, certain: bool = True) -> None:
        """Send a message of the server's own to those who subscribe to its subject."""
        for subscription in self._interested(message.subject):
            self._send(subscription, message, certain=certain)

    def deliver_to(self, inbox: str, message: Message) -> None:
        """Send a message to those who subscribe to an inbox, under the subject that it has."""
        for subscription in self._interested(inbox):
            self._send(subscription, message, certain=True)

    def is_heard(self, subject: str) -> bool:
        """Whether anybody subscribes to a subject."""
        return bool(self._interested(subject))

    def refuses(self) -> bool:
        """Whether a message is not stored."""
        return self.chance.random() < self.troubles.refused

    def loses_ack(self) -> bool:
        """Whether an acknowledgement is lost."""
        return self.chance.random() < self.troubles.acks_lost

    def _interested(self, subject: str) -> list[Subscription]:
        """Those who get a message: one of each queue group, and all others."""
        found: list[Subscription] = []
        groups: dict[str, list[Subscription]] = {}
        for connection in self.connections:
            for subscription in connection.subscriptions.values():
                if matches(subscription.subject, subject):
                    if subscription.queue:
                        groups.setdefault(subscription.queue, []).append(subscription)
                    else:
                        found.append(subscription)
        return found + [self.chance.choice(members) for members in groups.values()]

    def _send(self, subscription: Subscription, message: Message, *, certain: bool) -> None:
        if not certain and self.chance.random() < self.troubles.lost:
            self.trace("loses", NAME, what=message.subject)
            return
        connection = subscription.connection
        if subscription.left:
            subscription.left -= 1
            if not subscription.left:
                connection.subscriptions.pop(subscription.id, None)
        data = _encoded(message, subscription.id)
        now = self.loop.time()
        if self.troubles.slow or connection.free_at > now:
            at = max(now + self.chance.random() * self.troubles.slow, connection.free_at)
            connection.free_at = at + 1e-6
            within(self, self.loop.call_at, at, connection.send, data)
        else:
            connection.send(data)

    def later(self, delay: float, call: Callable[..., None], *values: Any) -> asyncio.TimerHandle:
        """Call after *delay* seconds, as this process."""
        timer: asyncio.TimerHandle = within(self, self.loop.call_later, delay, call, *values)
        return timer


def _encoded(message: Message, id_: str) -> bytes:
    words = [message.subject, id_, *([message.reply] if message.reply else [])]
    body = message.headers + message.body
    if message.headers:
        head = " ".join(["HMSG", *words, str(len(message.headers)), str(len(body))])
    else:
        head = " ".join(["MSG", *words, str(len(body))])
    return head.encode() + b"\r\n" + body + b"\r\n"
