"""Read the configuration again while the server runs, and apply what can change."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import msgspec
import structlog

from godrive import logs
from godrive.config import Config
from godrive.configfile import settings, value_of
from godrive.errors import ConfigError

log = structlog.get_logger("godrive")

_PORT = ("server", "port")

APPLIED = ("log.level", "auth.attempts_per_address", "auth.attempts_per_account", "auth.attempts_window")
"""Settings that a running server applies when it reads them again."""


class Reloader:
    """Applies :data:`APPLIED` settings at once, and names the others that changed: they need a restart.

    ``on_reload`` are called with the configuration as it is applied.
    """

    def __init__(self, arguments: argparse.Namespace, config: Config, process_log: logs.ProcessLog) -> None:
        self._arguments = arguments
        self._config = config
        self._process_log = process_log
        self.on_reload: list[Callable[[Config], None]] = []

    def reload(self) -> None:
        """Read the configuration.  One that is not valid is logged, and changes nothing."""
        try:
            fresh: Config = self._arguments.configuration(self._arguments)
        except ConfigError as error:
            log.error("reload_refused", error=error.detail, hint=error.hint)
            return
        changed = [
            setting.dotted
            for path, setting in settings().items()
            if value_of(fresh, path) != value_of(self._config, path)
            and not (path == _PORT and value_of(fresh, path) == 0)  # 0 has become the port that was free
        ]
        applied = [dotted for dotted in changed if dotted in APPLIED]
        pending = [dotted for dotted in changed if dotted not in applied]
        for table, key in (dotted.split(".") for dotted in applied):
            part = msgspec.structs.replace(getattr(self._config, table), **{key: getattr(getattr(fresh, table), key)})
            self._config = msgspec.structs.replace(self._config, **{table: part})
        for apply in self.on_reload:
            apply(self._config)
        if not self._process_log.enables(logs.level_number(fresh.log.level)):
            self._process_log.set_level(fresh.log.level)
        log.info("reloaded", applied=applied)
        if pending:
            log.warning("restart_needed", settings=pending, hint="These settings are read at the start only.")
        self._process_log.set_level(fresh.log.level)
