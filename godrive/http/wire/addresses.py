"""Who is at the other end: the peer, or whom a trusted proxy says it speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

from godrive.errors import ConfigError

Network = IPv4Network | IPv6Network

FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP")
"""Headers in which proxies name their client.  Only the first is read, and only from a proxy that is trusted."""


class TrustedProxies:
    """The networks whose ``X-Forwarded-For`` counts; an empty list believes nobody."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [_network(network) for network in networks]

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
        return parsed is not None and any(parsed in network for network in self._networks)


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"server.trusted_proxies: {text!r} is not a network", field="trusted_proxies") from None


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: bare, with a port, or in brackets; IPv4 within IPv6 is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
