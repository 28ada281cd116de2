"""Where this package's log events go: to the host's structlog if it has set one up, else to ``logging``.

structlog that nobody has configured prints to standard output, which is not
ours to write to in somebody else's process.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

NAME = "godrive.http"


def journal() -> Any:
    """A logger that takes events with fields (``log.info("request", status=200)``)."""
    if structlog.is_configured():
        return structlog.get_logger(NAME).bind()
    return structlog.wrap_logger(
        logging.getLogger(NAME),
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
