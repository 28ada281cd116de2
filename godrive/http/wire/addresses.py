"""The address of a client: that of the peer, or the one that a trusted proxy reports."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from godrive.network import client_address, network

FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP")
"""Headers in which proxies name their client.  Only the first is read, and only from a proxy that is trusted."""


class TrustedProxies:
    """The networks whose ``X-Forwarded-For`` counts.  An empty list trusts no proxy."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = list(map(network, networks))

    def address(self, request: web.Request) -> str:
        """The client's address: the last hop that is not a trusted proxy.  Empty on a Unix socket.

        The header is read from its end, because everything before the entry
        of a proxy we trust is what the client chose to say.
        """
        peer = request.remote or ""
        if not self._networks or not self._trusts(peer):
            return peer
        hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        for hop in reversed(hops):
            candidate = _parse(hop.strip())
            if candidate is None:
                return peer
            peer = str(candidate)
            if not self._trusts(peer):
                return peer
        return peer

    def disregards(self, request: web.Request) -> bool:
        """Whether the request names a client in forwarded headers, and comes from a peer that is not trusted."""
        return any(name in request.headers for name in FORWARDED) and not self._trusts(request.remote or "")

    def _trusts(self, address: str) -> bool:
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
