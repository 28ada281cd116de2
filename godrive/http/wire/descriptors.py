"""How the file descriptors of this process are divided between connections and files."""

from __future__ import annotations

import resource

MOST = 16_384
"""Connections, however many descriptors there are: memory has an end too."""


def most_connections() -> int:
    """How many connections leave enough descriptors for files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(soft // 2, MOST))
