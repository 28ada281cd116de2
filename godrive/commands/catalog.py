"""``godrive catalog copy``: copy the catalog from SQLite to PostgreSQL."""

from __future__ import annotations

import argparse
import sys

import msgspec

from godrive.commands import Commands, add_action, add_group, has_sqlite_catalog
from godrive.commands.running import run
from godrive.config import Config
from godrive.errors import ConfigError


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    actions = add_group(commands, "catalog")
    copy = add_action(
        actions,
        "copy",
        "copy the SQLite catalog of the data folder into the empty PostgreSQL database of catalog.dsn",
        shared,
    )
    copy.add_argument("--json", action="store_true", help="print the counts as JSON")
    copy.set_defaults(run=_copy)


def _copy(arguments: argparse.Namespace) -> int:
    from godrive.catalog.copy import copy_catalog  # noqa: PLC0415
    from godrive.opening import FolderLock  # noqa: PLC0415
    from godrive.rules.housekeeping import check_usage  # noqa: PLC0415

    config: Config = arguments.configuration(arguments)
    source = config.catalog_path
    if not config.catalog.dsn:
        raise ConfigError(
            "catalog.dsn is not set.", hint="Set catalog.dsn or catalog.dsn_file to the target of the copy."
        )
    if not has_sqlite_catalog(config):
        raise ConfigError(f"There is no SQLite catalog at {source}.")
    shows = sys.stderr.isatty()

    def progress(table: str, rows: int) -> None:
        if shows:
            sys.stderr.write(f"\r\x1b[K{rows:>8} {table}")

    lock = FolderLock(config.lock_path)
    lock.acquire()  # the copy would miss what a running server writes meanwhile
    try:
        counts: dict[str, int] = {}

        async def copy() -> None:
            counts.update(await copy_catalog(source, config.catalog, check=check_usage, on_progress=progress))

        run(copy())
    finally:
        lock.release()
        if shows:
            sys.stderr.write("\r\x1b[K")
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
    else:
        sys.stdout.writelines(f"{rows:>8} {table}\n" for table, rows in counts.items())
    return 0
