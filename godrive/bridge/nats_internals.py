"""The private parts of nats-py that the bridge relies on, and nothing else does.

Before raising the limit of nats-py in pyproject.toml: read the code of the new
version at each name below, run tests/bridge, and add the version to
:data:`CHECKED`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import ConnectionClosedError

CHECKED = ("2.16",)
"""Versions of nats-py in which each name below was read and tested."""

CLIENT: dict[str, str] = {
    "_pending": "the commands that have not been written to the transport",
    "_pending_data_size": "the bytes in _pending",
    "_transport": "the connection to one server",
    "_attempt_reconnect": "called when a connection is lost; waits until the old transport has sent everything",
    "_select_next_server": "called for each attempt to connect",
    "_connect_to_server": "called with the selected server; makes a TcpTransport unless there is a transport",
    "_resp_map": "the futures of requests, by the token in their reply subject",
    "_send_unsubscribe": "sends UNSUB without forgetting the subscription",
    "_server_info": "what the server said of itself when it accepted the connection",
}
"""Attributes of ``Client``, and what they are."""

TRANSPORT: dict[str, str] = {"_io_writer": "the StreamWriter of the connection"}
"""Attributes of the transport."""

SUBSCRIPTION: dict[str, str] = {"_id": "the id of the subscription on the wire"}
"""Attributes of ``Subscription``."""


class PromptTransport(TcpTransport):
    """A transport that reports a lost connection as nats-py expects it, by ``OSError``.

    With uvloop, a write to a connection that was just lost raises ``RuntimeError``.  Each task of nats-py ends at that,
    also the one that makes the next connection, and callers take it for a bug.
    """

    def __bool__(self) -> bool:
        return True  # nats-py replaces a transport that is false, as one of its own is until it has connected

    def write(self, payload: bytes) -> None:
        with _lost():
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        with _lost():
            super().writelines(payload)  # type: ignore[no-untyped-call]


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionResetError(str(error)) from None


class PromptClient(Client):
    """A client that gives up what it could not send when the connection is lost.

    nats-py waits until the old server has received everything before it tries
    another one.  A server that is cut off never does.  What had not been written
    at all, nats-py would send to the next server, long after the caller was told
    that it had failed.
    """

    def forget(self) -> None:
        """Discard what has not been written."""
        self._pending.clear()
        self._pending_data_size = 0

    @property
    def authenticates(self) -> bool:
        """Whether the server accepts nobody without a password, a key or a certificate."""
        return bool(self._server_info.get("auth_required") or self._server_info.get("tls_verify"))

    def fail_requests(self) -> None:
        """Fail the requests in progress: their replies go to a subscription that was lost with the connection."""
        for reply in list(self._resp_map.values()):
            if not reply.done():
                reply.set_exception(ConnectionClosedError())
                reply.exception()  # nobody waits for the reply to a request that could not be sent

    async def stop_delivery(self, subscription: Subscription) -> None:
        """Ask the server to send no more messages.  Those that it has sent are still received."""
        await self._send_unsubscribe(subscription._id)

    def _hang_up(self) -> None:
        """Discard what has been written and not been received."""
        if (writer := getattr(self._transport, "_io_writer", None)) is not None:
            writer.transport.abort()

    async def _attempt_reconnect(self) -> None:
        self.forget()
        self._hang_up()
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and s.uri.scheme in ("nats", "tls"):
            self._transport = PromptTransport()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _select_next_server(self) -> None:
        self._hang_up()  # on a server that accepted the connection and then did not answer
        await super()._select_next_server()
