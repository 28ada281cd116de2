"""HTTPS without a proxy: certificate files that may be renewed, and listeners whose handshakes are bounded.

Theory of operation.  asyncio's own TLS server keeps one context for its
lifetime, and tells nobody of a connection before its handshake has ended.  So a
renewed certificate would need a restart, and silent clients would take file
descriptors that no limit counts.  :func:`accept_forever` accepts connections
itself: each begins with the newest certificate, and counts as a connection, one
that waits for its client, from the first moment.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from godrive.errors import ConfigError
from godrive.http.observe.request_log import logger
from godrive.http.wire.connection_limit import ConnectionLimit, client_of

HANDSHAKE = 15.0
"""Seconds that a client has for its handshake."""

CHECK_EVERY = 5.0
"""Seconds between two looks whether the files have changed."""

_GOODBYE = 5.0
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.1


class Certificate:
    """A certificate chain and its private key (PEM files), and the TLS context made of them.

    Raises ``ConfigError`` if they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self._checked_at = time.monotonic()
        self._seen = self._state()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection, made anew if a file has changed.

        If the new files cannot be used, log that and keep the old context: a
        renewal may be under way.
        """
        if time.monotonic() - self._checked_at >= CHECK_EVERY:
            self.check()
        return self._context

    def check(self) -> None:
        """Look whether a file has changed."""
        self._checked_at = time.monotonic()
        seen = self._state()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._context = self._load()
        except ConfigError as error:
            logger().error("certificate_refused", error=error.detail, hint=error.hint)
        else:
            logger().info("certificate_loaded", certificate=str(self._files[0]))

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            said = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            reason = said.partition(" (_ssl.c:")[0].replace("_", " ")
            raise ConfigError(
                f"The certificate {certificate} with the key {key} cannot be used: {reason}.",
                field="server.tls_cert_file",
                hint="Both must be PEM files that this user can read; the certificate comes first, then its issuers.",
            ) from None
        return context

    def _state(self) -> list[tuple[int, ...] | None]:
        """Return what changes when a file is replaced or written; ``None`` for one that is missing."""
        states: list[tuple[int, ...] | None] = []
        for path in self._files:
            try:
                found = path.stat()
            except OSError:
                states.append(None)
            else:
                states.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
        return states


def _no_password() -> str:
    """Refuse a key with a password, which OpenSSL would ask for at the terminal."""
    raise ValueError("the key has a password; remove it with: openssl pkey -in KEY -out NEW")


async def accept_forever(
    listening: socket.socket,
    certificate: Certificate,
    limit: ConnectionLimit,
    connect: Callable[[], asyncio.Protocol],
) -> None:
    """Accept connections until cancelled; each is a protocol made by *connect* once its handshake has ended.

    Closes the socket, and cuts handshakes that are under way, at the end.
    """
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    handshakes: set[_Handshake] = set()

    def ended(handshake: _Handshake) -> None:
        handshakes.discard(handshake)
        limit.leave(handshake)

    try:
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno not in _FULL:
                    logger().warning("accept_failed", error=os.strerror(error.errno or 0))
                await asyncio.sleep(_PAUSE)  # descriptors may be free then
                continue
            handshake = _Handshake(accepted, client_of(peer), certificate.context(), connect)
            handshakes.add(handshake)
            limit.enter(handshake)
            handshake.begin(ended)
    finally:
        listening.close()
        for each in list(handshakes):
            each.cut()


class _Handshake:
    """A connection whose handshake is under way; :class:`ConnectionLimit` may close it."""

    def __init__(
        self, accepted: socket.socket, client: str, context: ssl.SSLContext, connect: Callable[[], asyncio.Protocol]
    ) -> None:
        self.client = client
        self._accepted = accepted
        self._context = context
        self._connect = connect
        self._begun_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._is_refused = False

    def begin(self, on_end: Callable[[_Handshake], object]) -> None:
        if self._is_refused:
            on_end(self)
            return
        self._task = asyncio.get_running_loop().create_task(self._shake())
        self._task.add_done_callback(lambda _: on_end(self))

    async def _shake(self) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connect,
                self._accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE,
                ssl_shutdown_timeout=_GOODBYE,
            )
        except (
            OSError,
            asyncio.CancelledError,
        ):  # what is not TLS, a client that left, or the limit: its socket is closed
            self._accepted.close()

    def is_idle(self) -> bool:
        return False

    def stalled_since(self, *, whole: bool = False) -> float | None:
        return self._begun_at

    def force_close(self) -> None:
        self._is_refused = True
        if self._task is None:
            self._accepted.close()
        else:
            self._task.cancel()

    cut = force_close
