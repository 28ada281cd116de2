"""The streams of a simulated NATS server, as far as this project uses them.

Publishing with ids that recognise repetitions, durable pull consumers, and acknowledgements.
Source: NATS documentation, "JetStream wire API".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from godrive.simulation.loop import EPOCH
from godrive.simulation.nats_messages import Message, matches

if TYPE_CHECKING:
    from godrive.simulation.nats_server import Broker

_NOT_FOUND, _NO_CONSUMER, _WRONG_LAST_ID, _NAME_IN_USE, _NO_ROOM = 10059, 10014, 10070, 10058, 10023


@dataclass
class Kept:
    """A message of a stream."""

    number: int
    message: Message
    at: float
    id: str


@dataclass
class Consumer:
    """A durable pull consumer, and those who wait for messages."""

    name: str
    config: dict[str, Any]
    next: int = 1
    """The number of the first message that was never delivered."""
    deliveries: dict[int, int] = field(default_factory=dict)
    """How often each message was delivered that is not acknowledged."""
    due: dict[int, float] = field(default_factory=dict)
    """When each of these is delivered again."""
    pulls: list[Pull] = field(default_factory=list)


@dataclass
class Pull:
    """A request for messages."""

    inbox: str
    left: int
    expires: float
    heartbeat: float
    beats_at: float


@dataclass
class Stream:
    """A stream."""

    name: str
    config: dict[str, Any]
    kept: dict[int, Kept] = field(default_factory=dict)
    last: int = 0
    last_id: str = ""
    consumers: dict[str, Consumer] = field(default_factory=dict)


class JetStream:
    """All streams of a server."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.streams: dict[str, Stream] = {}
        self.forgotten = 0
        """How often all of it was lost."""
        self._calls: dict[str, Callable[[list[str], dict[str, Any]], dict[str, Any]]] = {
            "STREAM.INFO": self._stream_info,
            "STREAM.CREATE": self._create_stream,
            "CONSUMER.CREATE": self._create_consumer,
            "CONSUMER.DURABLE.CREATE": self._create_consumer,
        }

    def restart(self) -> None:
        """The server has ended: nobody waits any more."""
        for stream in self.streams.values():
            for consumer in stream.consumers.values():
                consumer.pulls.clear()

    def forget(self) -> None:
        """The server has lost its disk."""
        self.streams.clear()
        self.forgotten += 1

    # Publishing

    def keep(self, message: Message) -> bool:
        """Store a message if a stream has its subject, and acknowledge it.  Returns whether one has."""
        for stream in self.streams.values():
            if any(matches(pattern, message.subject) for pattern in stream.config["subjects"]):
                answer = self._store(stream, message)
                if message.reply and not self._broker.loses_ack():
                    self._reply(message.reply, answer)
                self._serve_all(stream)
                return True
        return False

    def _store(self, stream: Stream, message: Message) -> dict[str, Any]:
        if self._broker.refuses():
            return _error(_NO_ROOM, 503, "insufficient resources")
        now, id_ = self._broker.loop.time(), message.header("Nats-Msg-Id")
        window = stream.config.get("duplicate_window", 120_000_000_000) / 1e9
        if id_:
            for kept in stream.kept.values():
                if kept.id == id_ and kept.at > now - window:
                    return {"stream": stream.name, "seq": kept.number, "duplicate": True}
        expected = message.header("Nats-Expected-Last-Msg-Id")
        if expected and expected != stream.last_id:
            return _error(_WRONG_LAST_ID, 400, f"wrong last msg ID: {stream.last_id}")
        stream.last += 1
        stream.last_id = id_
        stream.kept[stream.last] = Kept(stream.last, message, now, id_)
        self._broker.trace("stores", "nats", what=message.subject, number=stream.last)
        return {"stream": stream.name, "seq": stream.last}

    def _reply(self, subject: str, answer: dict[str, Any]) -> None:
        self._broker.deliver(Message(subject, "", b"", msgspec.json.encode(answer)))

    # The API

    def take(self, message: Message) -> None:
        """Act on a message to the server itself."""
        words = message.subject.split(".")[1:]
        if words[0] == "ACK":
            if not self._broker.loses_ack():
                self._acknowledge(words[1:], message.body)
            return
        words = words[1:]
        if words[:3] == ["CONSUMER", "MSG", "NEXT"]:
            self._pull(words[3], words[4], message)
            return
        for name, call in self._calls.items():
            length = len(name.split("."))
            if words[:length] == name.split("."):
                body = msgspec.json.decode(message.body) if message.body else {}
                answer = call(words[length:], body)
                if message.reply:
                    self._reply(message.reply, answer)
                return
        self._reply(message.reply, _error(10000, 400, f"{message.subject} is not simulated"))

    def _stream_info(self, words: list[str], _body: dict[str, Any]) -> dict[str, Any]:
        stream = self.streams.get(words[0])
        return _error(_NOT_FOUND, 404, "stream not found") if stream is None else _described(stream)

    def _create_stream(self, words: list[str], body: dict[str, Any]) -> dict[str, Any]:
        if words[0] in self.streams:
            return _error(_NAME_IN_USE, 400, "stream name already in use")
        stream = self.streams[words[0]] = Stream(words[0], body)
        return _described(stream)

    def _create_consumer(self, words: list[str], body: dict[str, Any]) -> dict[str, Any]:
        stream = self.streams.get(words[0])
        if stream is None:
            return _error(_NOT_FOUND, 404, "stream not found")
        config = body["config"]
        name = config.get("durable_name") or config.get("name")
        consumer = stream.consumers.setdefault(name, Consumer(name, config))
        return {
            "stream_name": stream.name,
            "name": name,
            "created": "2026-01-01T00:00:00Z",
            "config": consumer.config,
            "delivered": {"consumer_seq": 0, "stream_seq": 0},
            "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
            "num_ack_pending": 0,
            "num_redelivered": 0,
            "num_waiting": 0,
            "num_pending": 0,
        }

    # Consuming

    def _pull(self, stream_name: str, name: str, message: Message) -> None:
        stream = self.streams.get(stream_name)
        consumer = None if stream is None else stream.consumers.get(name)
        if stream is None or consumer is None:
            self._status(message.reply, "503")
            return
        asked, now = msgspec.json.decode(message.body), self._broker.loop.time()
        heartbeat = asked.get("idle_heartbeat", 0) / 1e9
        pull = Pull(message.reply, asked["batch"], now + asked["expires"] / 1e9, heartbeat, now + heartbeat)
        consumer.pulls.append(pull)
        self._serve(stream, consumer)
        self._broker.later(heartbeat, self._beat, stream, consumer, pull)

    def _beat(self, stream: Stream, consumer: Consumer, pull: Pull) -> None:
        """Send a heartbeat to somebody who waits, or say that the request has expired."""
        if pull not in consumer.pulls or self.streams.get(stream.name) is not stream:
            return
        now = self._broker.loop.time()
        if not self._broker.is_heard(pull.inbox):
            consumer.pulls.remove(pull)
        elif now >= pull.expires:
            consumer.pulls.remove(pull)
            self._status(pull.inbox, "408")
        else:
            if now >= pull.beats_at:
                self._status(pull.inbox, "100")
            self._broker.later(pull.heartbeat, self._beat, stream, consumer, pull)

    def _serve_all(self, stream: Stream) -> None:
        for consumer in stream.consumers.values():
            self._serve(stream, consumer)

    def _serve(self, stream: Stream, consumer: Consumer) -> None:
        """Deliver what is due to those who wait."""
        now = self._broker.loop.time()
        while consumer.pulls:
            pull = consumer.pulls[0]
            if now >= pull.expires or not self._broker.is_heard(pull.inbox):
                consumer.pulls.pop(0)
                continue
            number = next((each for each, due in consumer.due.items() if due <= now), None)
            if number is None:
                if consumer.next > stream.last:
                    break
                number = consumer.next
                consumer.next += 1
            self._deliver(stream, consumer, number, pull, now)
            pull.left -= 1
            pull.beats_at = now + pull.heartbeat
            if not pull.left:
                consumer.pulls.remove(pull)
        if later := [due for due in consumer.due.values() if due > now and due < math.inf]:
            self._broker.later(min(later) - now + 0.001, self._serve_if_current, stream, consumer)

    def _serve_if_current(self, stream: Stream, consumer: Consumer) -> None:
        if self.streams.get(stream.name) is stream:
            self._serve(stream, consumer)

    def _deliver(self, stream: Stream, consumer: Consumer, number: int, pull: Pull, now: float) -> None:
        kept = stream.kept[number]
        count = consumer.deliveries[number] = consumer.deliveries.get(number, 0) + 1
        consumer.due[number] = now + consumer.config["ack_wait"] / 1e9
        stamp = int((EPOCH + kept.at) * 1e9)
        ack = f"$JS.ACK.{stream.name}.{consumer.name}.{count}.{number}.{number}.{stamp}.0"
        self._broker.trace("delivers", "nats", what=kept.message.subject, number=number, count=count)
        # The subject of a delivery is that of the message; the inbox only says who gets it.
        self._broker.deliver_to(pull.inbox, Message(kept.message.subject, ack, kept.message.headers, kept.message.body))

    def _acknowledge(self, words: list[str], body: bytes) -> None:
        stream = self.streams.get(words[0])
        consumer = None if stream is None else stream.consumers.get(words[1])
        number = int(words[3])
        if stream is None or consumer is None or number not in consumer.due:
            return
        if body.startswith(b"-NAK"):
            delay = msgspec.json.decode(body[4:])["delay"] / 1e9 if len(body) > 5 else 0.0
            consumer.due[number] = self._broker.loop.time() + delay
            self._serve(stream, consumer)
        elif body.startswith((b"+ACK", b"+TERM")) or not body:
            del consumer.due[number]
            consumer.deliveries.pop(number, None)

    def _status(self, inbox: str, status: str) -> None:
        self._broker.deliver(Message(inbox, "", f"NATS/1.0 {status}\r\n\r\n".encode(), b""))


def _described(stream: Stream) -> dict[str, Any]:
    return {
        "type": "io.nats.jetstream.api.v1.stream_info_response",
        "config": stream.config,
        "created": datetime.fromtimestamp(EPOCH, UTC).isoformat().replace("+00:00", "Z"),
        "state": {
            "messages": len(stream.kept),
            "bytes": 0,
            "first_seq": 1,
            "last_seq": stream.last,
            "consumer_count": len(stream.consumers),
        },
    }


def _error(err_code: int, code: int, description: str) -> dict[str, Any]:
    return {"error": {"err_code": err_code, "code": code, "description": description}}
