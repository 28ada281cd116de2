"""Open the parts of a drive: the data folder, the signing keys, the catalog, the blobs.

A data folder belongs to one drive::

    LAYOUT           the layout number; an unknown layout is refused
    lock             locked by the serving process; the folder of the blobs has blobs.lock
    secret.key       the signing keys, mode 0600
    godrive.db       the SQLite catalog; godrive.db-reserve keeps space for deletions on a full disk, and
                     godrive.db-lock says who may checkpoint it
    blobs/           the disk store
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from godrive.blobs import BlobStore
from godrive.catalog import Catalog, Sinks
from godrive.clock import Clock
from godrive.config import Config
from godrive.credentials import Keyring
from godrive.errors import ConfigError, refused
from godrive.memory import MemoryBudget
from godrive.paths import create_file, exists, make_path, open_or_create

LAYOUT = "godrive 2"
"""The stamp of the data folders that this release reads and writes."""


def open_data_folder(config: Config) -> None:
    """Create the data folder, or check its stamp.

    Raises ``ConfigError``, or another ``DriveError`` for a temporary failure.
    """
    folder = config.data_dir
    try:
        make_path(folder)
        stamp = _read(config.layout_path)
        if stamp is None:
            if exists(config.catalog_path) and config.catalog_path.is_relative_to(folder):
                raise ConfigError(
                    f"The data folder {folder} has a catalog but no stamp that says which release made it.",
                    hint=f"If it was this one: echo '{LAYOUT}' > {config.layout_path}",
                )
            with suppress(FileExistsError):  # another process was first
                create_file(config.layout_path, f"{LAYOUT}\n".encode(), mode=0o644)
        elif stamp.strip() != LAYOUT:
            raise ConfigError(
                f"The data folder {folder} is laid out as {stamp.strip()[:40]!r}; this release knows {LAYOUT!r}.",
                hint="Serve it with the release that made it, or with a newer one that can read it; "
                "or serve another, empty data folder (server.data_dir) and upload the files again.",
            )
    except OSError as error:
        raise refused(f"The data folder {folder} cannot be used", error) from None


class FolderLock:
    """The lock of a folder, which one process holds until it releases it or dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Acquire the lock.  Raises ``ConfigError`` if another server holds it."""
        try:
            make_path(self._path.parent)
            self._fd = open_or_create(self._path)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ConfigError(f"Another server is using the folder {self._path.parent}.") from None
        except OSError as error:
            self.release()
            raise refused(f"{self._path} cannot be locked", error) from None

    def release(self) -> None:
        """Release the lock.  Idempotent.  The file remains, or two processes could lock two different files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def load_keyring(config: Config) -> Keyring:
    """Load the signing keys, or create them if the file does not exist.  Raises ``ConfigError``."""
    if not config.auth.secret_file:
        open_data_folder(config)
    return Keyring.load_or_create(config.secret_path)


def has_no_objects(config: Config) -> bool:
    """Whether the disk store was never opened in its folder, as if the folder were new or its disk not mounted.

    Look before anything is made there.  Some tools copy no empty folders, so either of two may be missing.
    """
    path = config.blobs_path
    return config.blobs.driver == "disk" and not exists(path / "objects") and not exists(path / "packs")


async def check_is_new(catalog: Catalog, config: Config) -> None:
    """Check that no file has bytes in the disk store, which has no objects.

    Otherwise uploads would go to another disk than the one that is missing, and be hidden once it is back.  Raises
    ``ConfigError``.
    """
    if await catalog.read(lambda tx: tx.one("SELECT 1 FROM versions LIMIT 1")) is not None:
        raise ConfigError(
            f"The folder of the blobs {config.blobs_path} is empty, and the catalog has files.",
            field="blobs.path",
            hint=f"Mount its disk, or correct blobs.path. If all bytes are lost: mkdir -p {config.blobs_path}/objects",
        )


def make_catalog(config: Config, *, guest: bool = False) -> Catalog:
    """Return the configured catalog, not opened yet.  Imports only the driver that is used.

    A *guest* may open it beside a server (see ``SqliteCatalog``), and does not migrate it.
    """
    sinks = Sinks(nats=keeps_outbox(config), webhook=bool(config.webhooks.url))
    if config.catalog.driver == "postgres":
        from godrive.catalog.postgres import PostgresCatalog  # noqa: PLC0415

        return PostgresCatalog(config.catalog, sinks=sinks, guest=guest)
    from godrive.catalog.sqlite import SqliteCatalog  # noqa: PLC0415

    return SqliteCatalog(
        config.catalog_path, allow_network_fs=config.catalog.allow_network_fs, sinks=sinks, guest=guest
    )


def keeps_outbox(config: Config) -> bool:
    """Whether events about files are published, and therefore kept until then."""
    return bool(config.nats.url) and config.nats.publish_events


def make_blobs(config: Config, clock: Clock, memory: MemoryBudget | None = None, *, guest: bool = False) -> BlobStore:
    """Return the configured blob store, not opened yet.  Imports only the driver that is used.

    A *guest* may open it beside a server (see ``DiskBlobStore``, and ``Bucket`` of S3).
    """
    if config.blobs.driver == "s3":
        from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415

        return S3BlobStore(config.blobs.s3, clock=clock, memory=memory, guest=guest)
    if config.blobs.driver == "memory":
        from godrive.blobs.memory import MemoryBlobStore  # noqa: PLC0415

        return MemoryBlobStore(clock=clock)
    from godrive.blobs.disk import DiskBlobStore  # noqa: PLC0415

    return DiskBlobStore(
        config.blobs_path,
        min_free_bytes=config.blobs.min_free_bytes,
        memory=memory,
        pack_below=config.blobs.pack_below,
        guest=guest,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return None
