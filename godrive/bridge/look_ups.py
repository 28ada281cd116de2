"""Look up the addresses of hosts that users have named.

The name servers of such a host may never answer.  A look-up cannot be cancelled,
so one that hangs keeps its thread for as long as the resolver of the system
waits.  The threads are daemons, so that none of them prevents the process from
exiting.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

MOST = 80
"""Look-ups at once: two for each webhook that may have a turn, because one that hangs goes on after its timeout."""

Found = list[tuple[Any, ...]]
"""What ``socket.getaddrinfo`` returns."""


class LookUps:
    """Looks up at most *most* hosts at once, each in a thread of its own."""

    def __init__(self, most: int = MOST) -> None:
        self._free = asyncio.Semaphore(most)

    async def addresses(self, host: str, port: int, family: socket.AddressFamily) -> Found:
        """Return what ``socket.getaddrinfo`` does for TCP.  Raises ``OSError``, ``UnicodeError``."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Found] = loop.create_future()

        def settle(found: Found | Exception) -> None:
            self._free.release()
            if reply.done():  # the caller no longer waits
                return
            if isinstance(found, Exception):
                reply.set_exception(found)
            else:
                reply.set_result(found)

        def look_up() -> None:
            found: Found | Exception
            try:
                found = [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)]
            except Exception as error:
                found = error
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, found)

        try:
            threading.Thread(target=look_up, name="godrive-resolve", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            self._free.release()
            raise OSError(str(error)) from error
        return await reply
