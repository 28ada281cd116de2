"""Loggers for code that may be embedded.

structlog that no one has configured prints to standard output, which belongs
to the host.  So events go to the host's structlog if it has set one up, and to
``logging`` otherwise.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog


def get_logger(name: str) -> Any:
    """A logger that takes events with fields (``log.info("request", status=200)``)."""
    if structlog.is_configured():
        return structlog.get_logger(name).bind()
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
