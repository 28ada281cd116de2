"""The address of a client: that of the peer, or the one that a trusted proxy reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from godrive.network import client_address, network

FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP")
"""Headers in which proxies name their client.  Only the first is read, and only from a proxy that is trusted."""

_SHORT, _KEPT = 128, 1024
"""The longest header whose client is kept, and how many clients and peers are: every request needs them, and to find
them is slow."""


class TrustedProxies:
    """The networks whose ``X-Forwarded-For`` counts.  An empty list trusts no proxy.

    With *unix_socket*, the peer on a Unix socket is trusted too.
    """

    def __init__(self, networks: Sequence[str], *, unix_socket: bool = False) -> None:
        self._networks = list(map(network, networks))
        self._unix_socket = unix_socket
        self._trusts_any = bool(self._networks) or unix_socket
        self._find_again = lru_cache(_KEPT)(self._find)
        self._trusts_peer = lru_cache(_KEPT)(self._trusts)

    def address(self, request: web.Request) -> str:
        """The client's address: the last hop that is not a trusted proxy.  Empty on a Unix socket."""
        return self._walk(request)[0] if self._trusts_any else request.remote or ""

    def disregards(self, request: web.Request) -> bool:
        """Whether forwarded headers name a client that does not count, so that the address may be a proxy's.

        The peer, or a hop before it, is not trusted; or it is, and says who its
        client is in no way that is read.
        """
        return self._walk(request)[1]

    def scheme(self, request: web.Request) -> str:
        """``https`` if the connection is, or if a trusted proxy says that its client's is."""
        said = request.headers.get("X-Forwarded-Proto") if self._trusts_any else None
        if said is not None and self._trusts_peer(request.remote or ""):
            return "https" if said.rpartition(",")[2].strip().lower() == "https" else "http"
        return request.scheme

    def _walk(self, request: web.Request) -> tuple[str, bool]:
        """The client's address, and whether a header names a client beyond it."""
        peer = request.remote or ""
        if not any(name in request.headers for name in FORWARDED):
            return peer, False
        forwarded = ",".join(request.headers.getall(FORWARDED[0], []))
        return self._find_again(peer, forwarded) if len(forwarded) <= _SHORT else self._find(peer, forwarded)

    def _find(self, peer: str, forwarded: str) -> tuple[str, bool]:
        """As :meth:`_walk`, of a request in which a header names another client.

        The header is read from its end, because everything before the entry
        of a proxy we trust is what the client chose to say.
        """
        if not self._trusts(peer):
            return peer, True
        hops = forwarded.split(",")
        while hops:
            candidate = _parse(hops.pop().strip())
            if candidate is None:
                return peer, True
            peer = str(candidate)
            if not self._trusts(peer):
                return peer, bool(hops)
        return peer, False

    def _trusts(self, address: str) -> bool:
        if not address:
            return self._unix_socket
        parsed = _parse(address)
        return parsed is not None and any(parsed in trusted for trusted in self._networks)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: bare, with a port, or in brackets."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return client_address(text)
    except ValueError:
        return None
