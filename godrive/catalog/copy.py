"""Copies a catalog from SQLite to PostgreSQL.

One snapshot of the source is written in one transaction of the target, which
commits only if the row counts agree.  The source is only read.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

from godrive import config
from godrive.catalog import NO_SINKS, Tx, migrations, sqlite_file
from godrive.catalog.postgres import PostgresCatalog, PostgresTx
from godrive.catalog.postgres_errors import is_lost, is_raced, translate, unavailable
from godrive.catalog.postgres_pool import Connection, connect
from godrive.errors import Conflict, DriveError

TABLES = (
    "users",
    "invites",
    "sessions",
    "session_networks",
    "entries",
    "properties",
    "unsettled",
    "copies",
    "uncopied",
    "versions",
    "uploads",
    "idempotency_keys",
    "changes",
    "webhooks",
)
"""All but leases, which belong to running processes, and what is known of the blobs
of the source and of its backups."""

NUMBERS = "names_after"
"""The column of users that belongs to the index of names, which the target makes anew."""

_AT_ONCE = 5000


async def copy_catalog(
    source: Path,
    target: config.Catalog,
    *,
    check: Callable[[Tx], Awaitable[None]],
    on_progress: Callable[[str, int], None] = lambda table, rows: None,
) -> dict[str, int]:
    """Copy the SQLite catalog *source* into the empty database of *target*.  Returns the number of rows of each table.

    Nothing may write to *source* meanwhile.  *check* runs on the copy before it
    is committed; what it raises undoes the copy.  *on_progress* is called with
    a table and the number of its rows copied so far.  Raises ``Conflict`` when
    the target is not empty or does not equal the source in the end,
    ``ConfigError`` when one of the two cannot be opened, ``StoreUnavailable``
    when the database goes away.
    """
    await asyncio.to_thread(sqlite_file.prepare, source, allow_network_fs=True)
    catalog = PostgresCatalog(target)
    await catalog.open()
    await catalog.close()
    try:
        connection = await connect(target.dsn, timeout=None)  # to count what is there takes as long as it takes
        try:
            with closing(sqlite_file.connect(source, read_only=True)) as reader:
                reader.execute("BEGIN")
                async with connection.transaction():
                    copied = await _copy(reader, connection, on_progress)
                    await check(PostgresTx(connection, sinks=NO_SINKS))
                    return copied
        finally:
            await connection.close()
    except DriveError:
        raise
    except Exception as error:
        passes = is_lost(error) or is_raced(error)
        raise (unavailable(error) if passes else translate(error)) or error from error


async def _copy(
    reader: sqlite3.Connection, connection: Connection, on_progress: Callable[[str, int], None]
) -> dict[str, int]:
    await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s'")
    await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    if await connection.fetchval("SELECT EXISTS (SELECT 1 FROM users)"):
        raise Conflict("The database has users already; a catalog is copied into an empty one.")
    copied: dict[str, int] = {}
    for table in TABLES:
        copied[table] = 0
        columns = [row[1] for row in reader.execute(f"PRAGMA table_info({table})") if row[1] != NUMBERS]
        batches = _batches(reader, table, columns)
        while batch := await asyncio.to_thread(next, batches, None):
            await connection.copy_records_to_table(table, records=batch, columns=columns)
            copied[table] += len(batch)
            on_progress(table, copied[table])
    clock = reader.execute("SELECT time_noted_at, clock_doubt, clock_due_by, clock_latest FROM catalog").fetchone()
    await connection.execute(
        "UPDATE catalog SET time_noted_at = $1, clock_doubt = $2, clock_due_by = $3, clock_latest = $4", *clock
    )
    await _verify(reader, connection, copied)
    return copied


def _batches(reader: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[list[tuple[object, ...]]]:
    cursor = reader.execute(f"SELECT {', '.join(columns)} FROM {table}")
    while batch := cursor.fetchmany(_AT_ONCE):
        yield batch


async def _verify(reader: sqlite3.Connection, connection: Connection, copied: dict[str, int]) -> None:
    for table, rows in copied.items():
        count = f"SELECT COUNT(*) FROM {table}"
        here, there = reader.execute(count).fetchone()[0], await connection.fetchval(count)
        if not here == there == rows:
            raise Conflict(f"The table {table} has {here} rows, and {there} after {rows} were copied.")
    if await connection.fetchval("SELECT MAX(version) FROM schema_versions") != migrations.migrations()[-1].version:
        raise Conflict("The two catalogs have different schemas.")
