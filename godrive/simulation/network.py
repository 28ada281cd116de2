"""The network: connections that are pairs of transports in memory.

A segment takes a seeded time.  Between two processes that are partitioned
nothing arrives; a connection that is cut off for too long is reset, as TCP does
when nobody acknowledges.  A process that is killed resets its connections, as
its kernel does.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import random
import socket
from collections.abc import Callable
from contextvars import Context
from functools import cache
from typing import Any, cast

from godrive.simulation.loop import Process, SimulatedLoop, process

GIVEN_UP = 20.0
"""Seconds without an acknowledgement after which a connection is reset."""

_MOST_IN_A_SEGMENT = 16_384
_FIRST_PORT = 40_000

_address = cache(ipaddress.ip_address)

Address = tuple[str, int]
ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class SimulatedSocket:
    """In place of ``socket.socket``: it has addresses and takes options, and moves no bytes."""

    def __init__(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0) -> None:  # noqa: A002
        self.family = family
        self.type = type
        self.proto = proto
        self.name: Address = ("0.0.0.0", 0)  # noqa: S104 - an address that is not bound
        self.peer: Address = ("0.0.0.0", 0)  # noqa: S104

    def setsockopt(self, *_values: object) -> None:
        """Take any option."""

    def getsockopt(self, *_values: object) -> int:
        return 0

    def setblocking(self, _flag: bool) -> None:
        """Nothing blocks."""

    def bind(self, address: Address) -> None:
        self.name = address

    def getsockname(self) -> Address:
        return self.name

    def getpeername(self) -> Address:
        return self.peer

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing is held."""


class SimulatedTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, owner: Process, context: Context, name: Address, peer: Address) -> None:
        sock = SimulatedSocket()
        sock.name, sock.peer = name, peer
        super().__init__({"socket": sock, "sockname": name, "peername": peer})
        self.owner = owner
        self.context = context
        """In which the protocol of this end is called."""
        self.other: SimulatedTransport
        self._network = network
        self._protocol: Any = None
        self._unsent: list[bytes] = []
        """What the other end has not taken yet."""
        self._size = 0
        self._high, self._low = 65_536, 16_384
        self._is_paused = False
        self._reads = True
        self._moving = False
        self._closing = False
        self._ended = False
        self._lost = False
        self._stalled_since: float | None = None

    # What protocols call

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._protocol)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.owner.check()
        if self._closing or self._lost or not data:
            return
        self._unsent.append(bytes(data))
        self._size += len(data)
        if self._size > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()
        self._move()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self._ended = True
        self._move()

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65_536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True
        self.other._move()

    def is_reading(self) -> bool:
        return self._reads and not self._closing

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        if not self._closing:
            self._closing = self._ended = True
            self._move()

    def abort(self) -> None:
        self.lose(None)
        self.other._reset_soon()

    # How bytes move

    def _move(self) -> None:
        """Have the next segment arrive a little later."""
        if not self._moving and not self._lost and (self._unsent or self._ended):
            self._moving = True
            self._network.later(self._arrive, context=self.other.context)

    def _arrive(self) -> None:
        """A segment arrives at the other end; this runs in the process there."""
        self._moving = False
        other = self.other
        if other._lost or self._lost:
            return
        if not self._network.is_open(self.owner, other.owner):
            self._wait_for_network()
            return
        self._stalled_since = None
        if self._unsent and not other._reads:
            return  # the other end asks for more when it reads again
        if self._unsent:
            segment = self._take_segment()
            if self._is_paused:
                self._network.loop.call_soon(self._was_taken, context=self.context)
            if not other._closing:
                other._protocol.data_received(segment)
            self._move()
        elif self._ended:
            self._send_end()

    def _wait_for_network(self) -> None:
        now = self._network.loop.time()
        if self._stalled_since is None:
            self._stalled_since = now
        if now - self._stalled_since > GIVEN_UP:
            self.other.lose(ConnectionResetError("timed out"))
            self._reset_soon()
            return
        self._moving = True
        self._network.loop.call_later(0.25, self._arrive)

    def _take_segment(self) -> bytes:
        data = b"".join(self._unsent)
        size = self._network.segment(len(data))
        segment, rest = data[:size], data[size:]
        self._unsent = [rest] if rest else []
        self._size -= len(segment)
        return segment

    def _was_taken(self) -> None:
        if self._is_paused and self._size <= self._low and not self._lost:
            self._is_paused = False
            self._protocol.resume_writing()

    def _send_end(self) -> None:
        """This end has sent all."""
        other = self.other
        keep = False if other._closing else other._protocol.eof_received()
        if self._closing:
            self._network.loop.call_soon(self.lose, None, context=self.context)
        if not keep:
            other.close()
        if self._closing and other._closing and not other._unsent:
            other.lose(None)

    def _reset_soon(self) -> None:
        if not self._lost:
            self._network.later(self.lose, ConnectionResetError("Connection reset by peer"), context=self.context)

    def lose(self, error: Exception | None) -> None:
        """The connection is gone at this end."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._unsent, self._size = [], 0
        self._network.forget(self)
        self._network.loop.call_soon(self._protocol.connection_lost, error, context=self.context)

    def reset_by_death(self) -> None:
        """The process of this end was killed: its kernel resets the connection."""
        self._lost = True
        self.other._reset_soon()


class Listener(asyncio.AbstractServer):
    """What listens on an address."""

    def __init__(self, network: Network, owner: Process, address: Address, factory: ProtocolFactory) -> None:
        self._network = network
        self.owner = owner
        self.context = contextvars.copy_context()
        self.address = address
        self.factory = factory

    def close(self) -> None:
        self._network.unlisten(self)

    async def wait_closed(self) -> None:
        """Closing takes no time."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._network.loop

    def is_serving(self) -> bool:
        return True

    async def start_serving(self) -> None:
        """It serves from the beginning."""

    async def serve_forever(self) -> None:
        await self._network.loop.create_future()


class Network:
    """Who listens where, who is connected, and who cannot reach whom."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self.loop = loop
        self._chance = chance
        self._random = chance.random
        self._listeners: dict[Address, Listener] = {}
        self._ends: dict[SimulatedTransport, None] = {}
        self._cut: set[tuple[str, str]] = set()
        self._next_port = _FIRST_PORT
        self.latency = self.usual_latency = 0.001
        """Seconds that a segment takes at most, on a usual day."""

    def later(self, call: Callable[..., object], *values: Any, context: Context) -> None:
        """Call when a segment that is sent now arrives."""
        self.loop.call_later(self._random() * self.latency, call, *values, context=context)

    def segment(self, size: int) -> int:
        """How many of *size* bytes arrive together."""
        if size > 1 and self._random() < 0.02:
            return 1 + int(self._random() * (size - 1))
        return min(size, _MOST_IN_A_SEGMENT)

    def is_open(self, one: Process, other: Process) -> bool:
        """Whether bytes get from one process to the other."""
        return not self._cut or (one.name, other.name) not in self._cut

    def partition(self, one: str, other: str) -> None:
        """Nothing arrives between two processes from now on."""
        self._cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        """Everybody reaches everybody."""
        self._cut.clear()

    def look_up(self, host: Any, port: Any) -> list[Any]:
        """``getaddrinfo`` for literal addresses; there is no DNS."""
        _address(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, int(port)))]

    def listen(self, factory: ProtocolFactory, host: str | None, port: int | None, *, sock: Any = None) -> Listener:
        """``loop.create_server``."""
        address = sock.getsockname()[:2] if sock is not None else (host or "127.0.0.1", port or 0)
        if address in self._listeners:
            raise OSError(98, f"{address} is in use")
        listener = self._listeners[address] = Listener(self, process(), address, factory)
        return listener

    def unlisten(self, listener: Listener) -> None:
        """Close a listener."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    async def connect(
        self, factory: ProtocolFactory, host: str | None, port: int | None, *, sock: Any = None
    ) -> tuple[SimulatedTransport, asyncio.BaseProtocol]:
        """``loop.create_connection``."""
        address: Address = sock.peer[:2] if sock is not None else (str(host), int(port or 0))
        owner = process()
        owner.check()
        await asyncio.sleep(self._random() * self.latency)
        listener = self._listeners.get(address)
        if listener is None or not listener.owner.alive:
            raise ConnectionRefusedError(111, f"nobody listens on {address}")
        deadline = self.loop.time() + GIVEN_UP
        while not self.is_open(owner, listener.owner):
            if self.loop.time() > deadline:
                raise TimeoutError(110, f"{address} does not answer")
            await asyncio.sleep(0.25)
        if not listener.owner.alive:
            raise ConnectionRefusedError(111, f"nobody listens on {address}")
        self._next_port += 1
        here: Address = ("127.0.0.1", self._next_port)
        ours = SimulatedTransport(self, owner, contextvars.copy_context(), here, address)
        theirs = SimulatedTransport(self, listener.owner, listener.context.copy(), address, here)
        ours.other, theirs.other = theirs, ours
        protocol = factory()
        ours.set_protocol(protocol)
        self._ends[ours] = self._ends[theirs] = None
        accepted = theirs.context.run(listener.factory)
        theirs.set_protocol(accepted)
        self.loop.call_soon(accepted.connection_made, theirs, context=theirs.context)
        protocol.connection_made(ours)
        return ours, protocol

    def forget(self, end: SimulatedTransport) -> None:
        """An end is gone."""
        self._ends.pop(end, None)

    def kill(self, owner: Process) -> None:
        """Reset the connections of a process, and forget that it listened."""
        for listener in [each for each in self._listeners.values() if each.owner is owner]:
            self.unlisten(listener)
        for end in [each for each in self._ends if each.owner is owner]:
            self.forget(end)
            end.reset_by_death()

    def reset_some(self, name: str, share: float) -> int:
        """Reset a share of the connections of a process, as a middlebox does."""
        chosen = [end for end in self._ends if end.owner.name == name and self._random() < share]
        for end in chosen:
            end._reset_soon()
            end.other._reset_soon()
        return len(chosen)
