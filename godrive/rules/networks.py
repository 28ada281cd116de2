"""The networks that sessions of an account come from.

After many failed log-ins to an account, further attempts from unknown networks
are delayed.  The owner must not be delayed, so every log-in and refresh records
its network here.  The record outlives the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from ipaddress import IPv6Address

from godrive.catalog import Tx
from godrive.model import UserId
from godrive.network import client_address
from godrive.network import network as parse_network
from godrive.rules import rows

KNOWN_FOR = 30 * 86_400.0
"""Seconds after its last use for which a network counts as known to the account."""

MANY_ACCOUNTS = 3
"""Accounts behind one untrusted proxy from which on the operator gets a warning."""

MOST = 64
"""Networks kept for each account, most recently used first."""


def network(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address or an IPv6 /64 (RFC 6177)."""
    return networks(address)[0]


def networks(address: str) -> tuple[str, str]:
    """Return the network of one client and of one customer: for IPv6, the /64 and the /48 (RFC 6177).

    For IPv4, and for text that is not an address, both are the text itself.
    """
    try:
        parsed = client_address(address)
    except ValueError:
        return address, address
    if isinstance(parsed, IPv6Address):
        return parsed.exploded[:19], parsed.exploded[:14]
    return str(parsed), str(parsed)


def is_within(network: str, ranges: Sequence[str]) -> bool:
    """Whether a network, as :func:`network` writes it, overlaps one of *ranges* (addresses or CIDR networks)."""
    try:
        parsed = parse_network(f"{network}::/64" if ":" in network else network)
    except ValueError:
        return False
    others = map(parse_network, ranges)
    return any(parsed.version == other.version and parsed.overlaps(other) for other in others)


async def remember(tx: Tx, user_id: UserId, address: str, *, now: datetime, forwarded: bool = False) -> None:
    """Record that a session of the user came from this address.  An empty address is ignored.

    *forwarded* means that the request passed an untrusted proxy.
    """
    if not address:
        return
    values = (user_id, network(address), rows.micros(now), int(forwarded))
    if await tx.run(
        "UPDATE session_networks SET last_seen_at = $3, forwarded = $4 WHERE user_id = $1 AND network = $2", *values
    ):
        return
    await tx.run(
        "INSERT INTO session_networks (user_id, network, last_seen_at, forwarded) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT DO NOTHING",
        *values,
    )
    await tx.run(
        "DELETE FROM session_networks WHERE user_id = $1 AND network IN (SELECT network FROM session_networks "
        "WHERE user_id = $1 ORDER BY last_seen_at DESC, network LIMIT $2 OFFSET $2)",
        user_id,
        MOST,
    )


async def is_known(tx: Tx, user_id: UserId, address: str, *, now: datetime) -> bool:
    """Whether a session of the user came from the network of this address in the last 30 days."""
    row = await tx.one(
        "SELECT 1 FROM session_networks WHERE user_id = $1 AND network = $2 AND last_seen_at > $3",
        user_id,
        network(address),
        rows.later(now, -KNOWN_FOR),
    )
    return row is not None


async def shared(tx: Tx, *, now: datetime) -> list[tuple[str, int]]:
    """Return the untrusted proxies that many accounts used in the last 30 days, with the number of accounts."""
    found = await tx.all(
        "SELECT network, COUNT(*) FROM session_networks WHERE forwarded = 1 AND last_seen_at > $1 "
        "GROUP BY network HAVING COUNT(*) >= $2 ORDER BY COUNT(*) DESC, network LIMIT 100",
        rows.later(now, -KNOWN_FOR),
        MANY_ACCOUNTS,
    )
    return [(row[0], row[1]) for row in found]


async def is_shared(tx: Tx, address: str) -> bool:
    """Whether this address is an untrusted proxy that many accounts use."""
    found = await tx.all(
        "SELECT 1 FROM session_networks WHERE forwarded = 1 AND network = $1 LIMIT $2", network(address), MANY_ACCOUNTS
    )
    return len(found) >= MANY_ACCOUNTS


async def forget(tx: Tx, user_id: UserId) -> None:
    """Delete the record of the user."""
    await tx.run("DELETE FROM session_networks WHERE user_id = $1", user_id)
