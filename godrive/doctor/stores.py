"""Checks of the stores: a commit in the catalog, a blob that is put, read and deleted."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import get_args

from msgspec.structs import replace

from godrive.backup_schedule import is_late
from godrive.blobs import BlobStore
from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.packs import HOLD
from godrive.catalog import Catalog, migrations
from godrive.clock import TOLERANCE, Clock
from godrive.config import Config, StoreFault
from godrive.counted import counted
from godrive.doctor import Report
from godrive.errors import ConfigError, NotFound
from godrive.messages.backups import ListBackups
from godrive.messages.clock import AcceptClock, ReadClock
from godrive.messages.expected import ListDamage, ReadScrub
from godrive.messages.system import AcquireLease, ReleaseLease
from godrive.model import ObjectKey, new_id
from godrive.opening import check_is_new, has_no_objects, make_blobs, make_catalog
from godrive.paths import exists
from godrive.rules import backup_notes, housekeeping, networks, scrub_chores  # noqa: F401 - registers the rules
from godrive.rules.page_tokens import PageTokens
from godrive.rules.registry import Env, perform
from godrive.scrub import is_scrubbed

SAMPLE = b"godrive doctor " * 1000
"""The content of the test blob."""

_SLOW_COMMIT = 0.2
_DAMAGE_SHOWN = 5


async def catalog(config: Config, clock: Clock, report: Report, *, accept_clock: bool = False) -> None:
    """Check that the catalog opens, reads and commits, and that it does not contradict the clock."""
    name, is_file = "catalog", config.catalog.driver == "sqlite"
    if is_file and not exists(config.catalog_path):
        report.ok(name, f"{config.catalog_path} is not there yet; the first start makes it.")
        return
    if _is_old(config) if is_file else await _is_old_database(config):
        report.warning(
            name,
            f"{config.catalog_path if is_file else 'The database'} was written by an older release.",
            "Stop the servers of that release before you start this one, which brings it up to date.",
        )
        return
    store = make_catalog(config, guest=True)
    try:
        await store.open()
        users = await store.read(lambda tx: tx.one("SELECT COUNT(*) FROM users WHERE state <> 'deleted'"))
        holder, env = new_id(), Env(clock.now(), config, PageTokens([bytes(32)]))
        start = time.perf_counter()
        await perform(store, AcquireLease("doctor", holder, 60.0), env)
        seconds = time.perf_counter() - start
        await perform(store, ReleaseLease("doctor", holder), env)
        if has_no_objects(config):
            await _bytes(config, store, report)
        await _proxies(config, store, env.now, report)
        await _clock(store, env, report, accept=accept_clock)
        await _scrub(store, env, report)
        await _backup(store, env, report)
    finally:
        await store.close()
    engine = f"SQLite {sqlite3.sqlite_version}" if config.catalog.driver == "sqlite" else "PostgreSQL"
    detail = f"{engine}: {counted(users[0] if users else 0, 'user')}, a commit takes {seconds * 1000:.1f} ms."
    if seconds > _SLOW_COMMIT:
        report.warning(name, detail, "Look for what keeps the disk busy, or put the catalog on a faster one.")
    else:
        report.ok(name, detail)


async def _bytes(config: Config, store: Catalog, report: Report) -> None:
    """Whether the folder of the blobs is empty though there are files."""
    try:
        await check_is_new(store, config)
    except ConfigError as error:
        report.failure("blob store", error.detail, error.hint or "")


async def _clock(store: Catalog, env: Env, report: Report, *, accept: bool) -> None:
    """Whether the clock is in doubt because it jumped."""
    if accept:
        await perform(store, AcceptClock(), env)
        report.ok(
            "clock", f"{env.now:%Y-%m-%d %H:%M:%S} UTC is accepted. A running server follows with its next sweep."
        )
        return
    noted = await perform(store, ReadClock(), env)
    if noted.at is None:
        return
    passed, advice = (env.now - noted.at).total_seconds(), "If the clock is right: godrive doctor --accept-clock"
    if noted.doubt and noted.due_by is not None:
        left = timedelta(seconds=round(noted.doubt))
        report.warning(
            "clock",
            f"The clock has jumped: for another {left} of steady running, only what was due by "
            f"{noted.due_by:%Y-%m-%d %H:%M} UTC expires.",
            advice,
        )
    elif not -TOLERANCE <= passed <= env.config.janitor.clock_step:
        report.warning(
            "clock",
            f"It is {env.now:%Y-%m-%d %H:%M} UTC, and the last sweep was at {noted.at:%Y-%m-%d %H:%M} UTC: "
            "the clock has jumped, or no server was running. The next start lets nothing expire for a day.",
            advice,
        )


async def _scrub(store: Catalog, env: Env, report: Report) -> None:
    """What the scrub has found, and whether it keeps up."""
    name, state = "scrub", await perform(store, ReadScrub(), env)
    if damaged := await perform(store, ListDamage(_DAMAGE_SHOWN), env):
        count = sum(state.damaged.values())
        keys = ", ".join(f"{each.finding.object_key} ({each.finding.fault})" for each in damaged)
        more = f" and {count - len(damaged)} more" if count > len(damaged) else ""
        report.failure(
            name,
            f"Damaged: {counted(count, 'blob')}, {keys}{more}.",
            "Restore them from a backup; `godrive fsck --digests` names their files. The scrub looks again every hour.",
        )
    elif not is_scrubbed(env.config) or state.begun_at is None:
        return
    elif state.after and (env.now - state.begun_at).total_seconds() > env.config.scrub.every:
        read = counted(state.blobs, "blob")
        detail = f"The pass that began on {state.begun_at:%Y-%m-%d} has read {read} and not ended yet."
        report.warning(name, detail, "Raise scrub.rate, or scrub.every.")
    elif state.ended_at is not None:
        report.ok(name, f"Every blob was read by {state.ended_at:%Y-%m-%d %H:%M} UTC.")


async def _backup(store: Catalog, env: Env, report: Report) -> None:
    """Whether the last backup is too old."""
    target = env.config.backup.target
    if not target:
        return
    made = next((each for each in await perform(store, ListBackups(), env) if each.target == target), None)
    advice = "The log of the server has why (tick_failed, child=backup); `godrive backup create` makes one now."
    if made is None:
        report.warning("backup", f"There is no backup in {target} yet.", advice)
        return
    detail = f"The last backup in {target} is of {made.made_at:%Y-%m-%d %H:%M} UTC: {counted(made.blobs, 'blob')}."
    if is_late(env.config.backup, made.made_at, env.now):
        report.warning("backup", detail, advice)
    else:
        report.ok("backup", detail)


async def _proxies(config: Config, store: Catalog, now: datetime, report: Report) -> None:
    """Whether a proxy that is not trusted makes many clients one."""
    for network, accounts in await store.read(lambda tx: networks.shared(tx, now=now)):
        if not networks.is_within(network, config.server.trusted_proxies):
            report.warning(
                "proxies",
                f"{accounts} accounts log in from {network} with forwarded headers that do not count: "
                "all of its clients share the limits on log-ins.",
                "If it is your proxy, add it to server.trusted_proxies.",
            )


def _is_old(config: Config) -> bool:
    """Whether opening would migrate.  Raises ``ConfigError`` if the schema is newer than this release."""
    with closing(sqlite3.connect(f"{config.catalog_path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            applied = dict(connection.execute(migrations.APPLIED).fetchall())
        except sqlite3.Error:
            return False  # opening it gives the reason
    return bool(migrations.missing(applied))


async def _is_old_database(config: Config) -> bool:
    """Whether opening would migrate a PostgreSQL catalog.  A database without one is not old."""
    from godrive.catalog.postgres_errors import is_lost, refused  # noqa: PLC0415 - needs asyncpg
    from godrive.catalog.postgres_pool import connect  # noqa: PLC0415 - needs asyncpg

    try:
        connection = await connect(config.catalog.dsn)
    except Exception as error:
        if is_lost(error) or refused(error):
            return False  # opening it says what is wrong
        raise
    try:
        if await connection.fetchval("SELECT to_regclass('schema_versions')") is None:
            return False
        applied = {row[0]: row[1] for row in await connection.fetch(migrations.APPLIED)}
    finally:
        await connection.close()
    return bool(migrations.missing(applied))


async def blobs(config: Config, clock: Clock, report: Report) -> None:
    """Check that a blob can be put, read and deleted."""
    name = "blob store"
    if has_no_objects(config):
        if not any(finding.check == name for finding in report.findings):
            report.ok(name, f"{config.blobs_path} is not there yet; the first start makes it.")
        return
    store = make_blobs(tolerant(config), clock, guest=True)
    key = new_key()
    try:
        if config.blobs.driver == "s3" and (missing := await _missing_rights(store)):
            rights = f"The access key lacks rights: {', '.join(missing)}."
            report.failure(name, rights, f"Grant them on the bucket {config.blobs.s3.bucket} and on its objects.")
            return
        await store.open()
        start = time.perf_counter()
        try:
            digest = hashlib.sha256(SAMPLE).hexdigest()
            info = await store.put(key, body(), size=len(SAMPLE), sha256=digest, mime="text/plain")
            milliseconds = (time.perf_counter() - start) * 1000
            known = await store.head(key)
            content = b"".join([piece async for piece in store.get(key)])
        finally:
            await store.delete(key)
        if content != SAMPLE or known.size_bytes != info.size_bytes:
            report.failure(name, "The bytes read differ from those written.", "Do not use this store.")
        elif await _is_there(store, key):
            report.failure(name, "A blob that was deleted is still there.", "Let the access key delete objects.")
        else:
            report.ok(name, f"{config.blobs.driver}: stored a test blob in {milliseconds:.1f} ms and deleted it.")
        await _packs(config, store, report)
    finally:
        await store.close()


async def _packs(config: Config, store: BlobStore, report: Report) -> None:
    """Whether the packs of a disk store are whole, and give back room."""
    status = await store.pack_status() if isinstance(store, DiskBlobStore) else None
    if status is None:
        return
    if exists(hold := config.blobs_path / "packs" / HOLD):
        report.warning("packs", f"While {hold} is there, deleted small blobs keep their room.", "Remove it after use.")
    if status.problems:
        hint = "Stop GoDrive and restore the packs from a backup. All other blobs can be read."
        report.failure("packs", " ".join(status.problems), hint)
    else:
        detail = (
            f"{counted(status.blobs, 'small blob')} in {counted(status.packs, 'pack')} of "
            f"{counted(status.size, 'byte')}, {status.live} in use."
        )
        report.ok("packs", detail)


async def _missing_rights(store: BlobStore) -> list[str]:
    from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415 - needs aiobotocore

    return await store.missing_rights() if isinstance(store, S3BlobStore) else []


def tolerant(config: Config) -> Config:
    """The configuration with every fault of an S3 store accepted, so that the store opens and can be examined."""
    s3 = replace(config.blobs.s3, accept_faults=list(get_args(StoreFault)))
    return replace(config, blobs=replace(config.blobs, s3=s3))


def new_key() -> ObjectKey:
    """A key that no upload has."""
    return ObjectKey(f"doctor/{os.urandom(16).hex()}")


async def body() -> AsyncIterator[bytes]:
    """The sample as a body."""
    yield SAMPLE


async def _is_there(store: BlobStore, key: ObjectKey) -> bool:
    try:
        await store.head(key)
    except NotFound:
        return False
    return True
