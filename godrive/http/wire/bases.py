"""The start of the URLs that a client gets: scheme, host and port by which it reaches this server."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address

from aiohttp import hdrs, web

from godrive import network
from godrive.config import Server
from godrive.http.wire.addresses import TrustedProxies

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]%\\]+)(?::([0-9]{1,5}))?")
_KEPT = 256


class Bases:
    """Decides with which base URL the URLs of an answer begin.

    A ``public_url`` is the only one.  Without it, the request's ``Host`` counts
    if it is in ``allowed_hosts``, or is a literal loopback or private address
    with the port on which the request came in; otherwise the base is the
    address of the listener.  Anyone can send any ``Host``, and a URL with a
    signature must not lead to a server of theirs.  The scheme is ``https`` if a
    trusted proxy says so in ``X-Forwarded-Proto``.
    """

    def __init__(self, server: Server, proxies: TrustedProxies) -> None:
        self._own = server.base_url
        self._is_fixed = bool(server.public_url)
        self._allowed = frozenset(map(network.authority, server.allowed_hosts))
        self._proxies = proxies
        self._find_again = lru_cache(_KEPT)(self._find)

    def of(self, request: web.Request) -> str:
        """Return the base URL for the client of the request, without a slash at the end."""
        if self._is_fixed or request.transport is None:
            return self._own
        where = request.protocol.sockname  # kept by aiohttp: to ask the transport is a system call
        port = where[1] if isinstance(where, tuple) else 0
        return self._find_again(request.headers.get(hdrs.HOST, ""), self._proxies.scheme(request), port)

    def move(self, url: str, base: str) -> str:
        """Return a URL of this server with the *base* of a client; a URL of the store is not changed."""
        is_own = base != self._own and url.startswith(f"{self._own}/")
        return base + url[len(self._own) :] if is_own else url

    def _find(self, sent: str, scheme: str, own_port: int) -> str:
        try:
            match = _HOST.fullmatch(sent)
            if match is None:
                return self._own
            host = network.host(match[1])
        except ValueError:
            return self._own
        port = None if match[2] is None else int(match[2])
        with_port = port or network.DEFAULT_PORTS[scheme]
        if (host, with_port) in self._allowed or ((host, None) in self._allowed and port in (None, own_port)):
            return network.base(scheme, host, port)
        return network.base(scheme, host, port) if with_port == own_port and _is_near(host) else self._own


def _is_near(host: str) -> bool:
    """Whether the host is the literal address of a machine that only a near network reaches."""
    try:
        address = network.client_address(str(ip_address(host)))
    except ValueError:
        return False
    return (address.is_private or address.is_loopback or address.is_link_local) and not address.is_unspecified
