"""Passes notices on as plain messages of NATS, on one subject."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from godrive.bridge.connection import NatsLink
from godrive.errors import StoreUnavailable


class NatsChannel:
    """The subject ``<namespace>.changed``."""

    def __init__(self, link: NatsLink, *, namespace: str) -> None:
        self._link = link
        self._subject = f"{namespace}.changed"

    async def tell(self, notice: bytes) -> None:
        """As ``Channel`` says."""
        client = self._link.connected
        if client is not None:
            with suppress(NatsError, OSError):
                await client.publish(self._subject, notice)

    @asynccontextmanager
    async def listen(self, hear: Callable[[bytes], None]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """As ``Channel`` says."""

        async def pass_on(message: Msg) -> None:
            hear(message.data)

        client, generation = await self._link.client(), self._link.generation
        try:
            subscription = await client.subscribe(self._subject, cb=pass_on)
            yield lambda: self._link.newer_than(generation)
        except NatsError as error:
            raise StoreUnavailable(f"NATS does not answer: {error}") from error
        with suppress(NatsError):  # the client is closed
            await subscription.unsubscribe()
