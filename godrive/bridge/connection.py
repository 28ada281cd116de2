"""The one connection to NATS of a process, which all its parts share.

It is made when it is first needed, and again whenever it is lost.  Meanwhile
callers get ``StoreUnavailable`` and do not wait.
"""

from __future__ import annotations

import asyncio
import ssl
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from nats.aio.client import RawCredentials
from nats.errors import Error as NatsError

from godrive.bridge.nats_internals import PromptClient
from godrive.config import Nats
from godrive.errors import ConfigError, StoreUnavailable

CONNECT_TIMEOUT = 2.0
"""Seconds for one attempt at one server."""

PATIENCE = 5.0
"""Seconds that the first caller waits for a connection to any of the servers."""

RECONNECT_WAIT = 0.25
"""Seconds between two attempts at the same server."""

PING_INTERVAL = 10
"""Seconds between two pings.  After three without an answer, the connection counts as lost."""

_REFUSED = ("authorization", "authentication", "permissions")


@contextmanager
def answering(*answers: type[Exception]) -> Iterator[None]:
    """Turn failures of the server into ``StoreUnavailable``.  Exceptions of the types *answers* pass unchanged."""
    try:
        yield
    except answers:
        raise
    except (NatsError, TimeoutError, OSError) as error:
        raise StoreUnavailable("NATS does not answer.", hint=str(error) or type(error).__name__) from error


class NatsLink:
    """The connection that the ``[nats]`` table describes, with its secrets resolved."""

    def __init__(self, settings: Nats, *, name: str = "godrive", patience: float = PATIENCE) -> None:
        self._settings = settings
        self._name = name
        self._patience = patience
        self._client: PromptClient | None = None
        self._lock = anyio.Lock()
        self._last_error: Exception | None = None
        self.generation = 0
        """Rises with every connection.  A subscriber compares it to learn that the server may have lost its state."""
        self._connected = anyio.Event()

    @property
    def connected(self) -> PromptClient | None:
        """The client, or ``None`` while it is not connected.  Never waits."""
        client = self._client
        return client if client is not None and client.is_connected else None

    async def client(self) -> PromptClient:
        """The connected client.

        Raises ``StoreUnavailable`` while no server answers, ``ConfigError``
        if a server refuses us or a file of the settings cannot be read.
        """
        client = self._client
        if client is not None and client.is_connected:
            return client
        async with self._lock:
            client = self._client
            if client is None or client.is_closed:
                client = self._client = await self._connect()
        if not client.is_connected:
            raise StoreUnavailable("NATS does not answer.", hint=self._why())
        return client

    async def newer_than(self, generation: int) -> None:
        """Wait for a connection newer than *generation*."""
        while self.generation <= generation:
            await self._connected.wait()

    async def close(self) -> None:
        """Send what is queued and disconnect.  Idempotent."""
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            if not client.is_connected:
                # Without this, nats-py (2.16) writes what is queued to the closed transport, fails, and leaves its
                # tasks running.
                client.forget()
            # In a task of its own: if nats-py (2.16) was about to reconnect, it cancels a future that its close awaits.
            closing = asyncio.create_task(client.close())
            with anyio.move_on_after(1, shield=True):
                await asyncio.wait([closing])
            if not closing.cancel() and not closing.cancelled() and (error := closing.exception()) is not None:
                raise error

    async def _connect(self) -> PromptClient:
        options = self._options()
        client = PromptClient()

        async def lost() -> None:
            client.fail_requests()

        self._last_error = None
        connected = False
        try:
            with anyio.move_on_after(self._patience):
                await client.connect(
                    **options,
                    name=self._name,
                    connect_timeout=CONNECT_TIMEOUT,  # type: ignore[arg-type]
                    reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]
                    max_reconnect_attempts=-1,
                    ping_interval=PING_INTERVAL,
                    pending_size=0,  # a publish without a connection fails, and is not kept for the next one
                    error_cb=self._on_error,
                    disconnected_cb=lost,
                    reconnected_cb=self._on_connected,
                )
                connected = True
        except (NatsError, OSError, ValueError) as error:
            await self._on_error(error)
        finally:
            if not connected:
                with anyio.move_on_after(1, shield=True):
                    await client.close()
        if not connected:
            if _is_refusal(self._last_error):
                raise ConfigError(f"NATS refuses us: {self._why()}", field="nats")
            raise StoreUnavailable("NATS does not answer.", hint=self._why())
        await self._on_connected()
        return client

    async def _on_error(self, error: Exception) -> None:
        # After a refusal the server hangs up; keep the refusal, which says more.
        if not _is_refusal(self._last_error) or self.connected:
            self._last_error = error

    async def _on_connected(self) -> None:
        self.generation += 1
        self._connected.set()
        self._connected = anyio.Event()

    def _why(self) -> str:
        return str(self._last_error) or type(self._last_error).__name__ if self._last_error else ""

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {"servers": [url.strip() for url in settings.url.split(",") if url.strip()]}
        if not options["servers"]:
            raise ConfigError("nats.url is not set.", field="nats.url")
        if settings.user:
            options |= {"user": settings.user, "password": settings.password}
        if settings.token:
            options["token"] = settings.token
        if settings.nkey_file:
            seed = _edited(settings.nkey_file)
            options |= {"nkeys_seed": settings.nkey_file} if seed is None else {"nkeys_seed_str": seed}
        if settings.creds_file:
            credentials = _edited(settings.creds_file)
            options["user_credentials"] = settings.creds_file if credentials is None else RawCredentials(credentials)
        try:
            if settings.tls_ca_file or settings.tls_cert_file:
                trust = ssl.create_default_context(cafile=settings.tls_ca_file or None)
                if settings.tls_cert_file:
                    trust.load_cert_chain(settings.tls_cert_file, settings.tls_key_file or None)
                options["tls"] = trust
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"A TLS file of [nats] cannot be used: {error}", field="nats") from None
        return options


def _is_refusal(error: Exception | None) -> bool:
    return error is not None and any(word in str(error).lower() for word in _REFUSED)


def _edited(path: str) -> str | None:
    """The text of a file that has a byte order mark or CRLF, which nats-py does not expect; else ``None``.

    nats-py reads other files itself, again at each reconnection.  Raises ``ConfigError``.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}.", field="nats") from None
    return text.replace("\r\n", "\n") if b"\r\n" in data or data.startswith(BOM_UTF8) else None
