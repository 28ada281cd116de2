"""Which URLs of users this server may call: public ones, over TLS, and what the operator allows besides."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from godrive.network import DEFAULT_PORTS, Network, client_address, host

_WEB_PORTS = frozenset({80, 443})
_LOWEST_FREE_PORT = 1024


class AddressRefused(Exception):
    """The address may not be called.  The text says why."""


class Failed(Exception):
    """The call has failed.  The text says why."""


def callback_url(text: str) -> SplitResult:
    """Return the parts of an ``http(s)`` URL that users may have this server call: with path and query."""
    if not text.isascii() or re.search(r"[\s\\#\x00-\x20\x7f]", text):
        raise ValueError(f"{text!r} has a character that does not belong there")
    parts = urlsplit(text)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        raise ValueError(f"{text!r} is not an http(s) URL without credentials")
    if parts.port == 0 or host(parts.hostname) != parts.hostname:
        raise ValueError(f"{text!r} has an unusual host or port")
    return parts


_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")
"""The only IPv6 addresses that are assigned to the public Internet."""
_SPECIAL: list[Network] = [IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("2001::/32")]
"""Protocol assignments, relays of 6to4, and Teredo: not marked as private by every Python, but not public either."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public Internet, also inside of the addresses that stand for another one."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.scope_id is not None or address not in _UNICAST:
            return False
    is_special = any(address in each for each in _SPECIAL)
    return address.is_global and not is_special and not (address.is_multicast or address.is_reserved)


def refusal(
    address: IPv4Address | IPv6Address, scheme: str, port: int, *, allowed: Collection[Network] | None
) -> str | None:
    """Return why the address may not be called in that way, or ``None``.  All of *allowed* may; ``None`` allows all."""
    if allowed is None or any(client_address(str(address)) in each for each in allowed):
        return None
    if not is_public(address):
        return "The address is not public."
    if scheme != "https":
        return "The URL must begin with https."
    if port not in _WEB_PORTS and port < _LOWEST_FREE_PORT:
        return "The port must be 443, 80 or at least 1024."
    return None


def literal_refusal(parts: SplitResult, *, allowed: Collection[Network] | None) -> str | None:
    """Like :func:`refusal`, as far as the URL alone tells: a host name must still be resolved."""
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        address = ip_address(parts.hostname or "")
    except ValueError:
        # Every address will be public, or one that is allowed.
        public = IPv4Address("1.1.1.1")
        return None if allowed else refusal(public, parts.scheme, port, allowed=allowed)
    return refusal(address, parts.scheme, port, allowed=allowed)
