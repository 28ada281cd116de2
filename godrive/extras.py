"""Libraries that only some configurations need."""

from __future__ import annotations

EXTRAS = {"aiobotocore": "s3", "asyncpg": "postgres", "nats": "nats", "nacl": "backup", "opentelemetry": "tracing"}
"""The extra of this package to install for a module that is missing."""
