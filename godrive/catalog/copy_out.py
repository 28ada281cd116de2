"""Copies a catalog from PostgreSQL to SQLite: the snapshot of a backup.

One transaction of the source sees one instant.  The source is only read, and its
writers do not wait.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from godrive import config
from godrive.catalog import migrations, sqlite_file
from godrive.catalog.copy import NUMBERS, TABLES
from godrive.catalog.postgres_errors import is_lost, is_raced, translate, unavailable
from godrive.catalog.postgres_pool import connect
from godrive.errors import Conflict, DriveError

_AT_ONCE = 5000
_INSTANT = "repeatable_read"


async def copy_out(source: config.Catalog, target: Path, pause: Callable[[], Awaitable[None]]) -> None:
    """Copy the catalog of *source* into the new database *target*.  The index of names is left to the next owner.

    *pause* is awaited after each page of rows.  Raises ``Conflict`` if the schemas differ, ``StoreUnavailable`` if the
    database goes away.
    """
    await asyncio.to_thread(sqlite_file.prepare, target, allow_network_fs=True)
    try:
        connection = await connect(source.dsn, timeout=None)
        try:
            with closing(sqlite_file.connect(target)) as written:
                async with connection.transaction(isolation=_INSTANT, readonly=True):
                    await connection.execute("SET LOCAL statement_timeout = 0")
                    await _copy(connection, written, pause)
        finally:
            await connection.close()
    except DriveError:
        raise
    except Exception as error:
        passes = is_lost(error) or is_raced(error)
        raise (unavailable(error) if passes else translate(error)) or error from error


async def _copy(connection: Any, written: sqlite3.Connection, pause: Callable[[], Awaitable[None]]) -> None:
    if await connection.fetchval("SELECT MAX(version) FROM schema_versions") != migrations.migrations()[-1].version:
        raise Conflict("The database has another schema than this release.")
    written.execute("BEGIN")
    for table in TABLES:
        columns = [row[1] for row in written.execute(f"PRAGMA table_info({table})") if row[1] != NUMBERS]
        places = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
        cursor = await connection.cursor(f"SELECT {', '.join(columns)} FROM {table}")
        while rows := await cursor.fetch(_AT_ONCE):
            await asyncio.to_thread(written.executemany, insert, [tuple(row) for row in rows])
            await pause()
    row = await connection.fetchrow("SELECT nonce, time_noted_at, clock_doubt, clock_due_by, clock_latest FROM catalog")
    written.execute(
        "UPDATE catalog SET nonce = ?, time_noted_at = ?, clock_doubt = ?, clock_due_by = ?, clock_latest = ?",
        tuple(row),
    )
    written.execute("COMMIT")
    written.execute("PRAGMA wal_checkpoint(TRUNCATE)")
