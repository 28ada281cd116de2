"""What a drive keeps and where: the data folder, the signing keys, the catalog, the blobs.

A data folder belongs to one drive::

    LAYOUT           which arrangement of the folder it is; another one is refused
    lock             held by the process that serves from it; the folder of the blobs has another, blobs.lock
    secret.key       the signing keys, mode 0600
    godrive.db       the SQLite catalog
    blobs/           the disk store
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from godrive.blobs import BlobStore
from godrive.blobs.folders import make_path
from godrive.catalog import Catalog
from godrive.clock import Clock
from godrive.config import Config
from godrive.credentials import Keyring
from godrive.errors import ConfigError

LAYOUT = "godrive 1"
"""The stamp of the data folders that this release reads and writes."""


def open_data_folder(config: Config) -> None:
    """Make the data folder, or check its stamp.  Raises ``ConfigError``."""
    folder = config.data_dir
    try:
        make_path(folder)
        stamp = _read(config.layout_path)
        if stamp is None:
            if config.catalog_path.exists() and config.catalog_path.is_relative_to(folder):
                raise ConfigError(
                    f"The data folder {folder} has a catalog but no stamp that says which release made it.",
                    hint=f"If it was this one: echo '{LAYOUT}' > {config.layout_path}",
                )
            _write(config.layout_path, LAYOUT + "\n")
        elif stamp.strip() != LAYOUT:
            raise ConfigError(
                f"The data folder {folder} is laid out as {stamp.strip()[:40]!r}; this release knows {LAYOUT!r}.",
                hint="Serve it with the release that made it, or with a newer one.",
            )
    except OSError as error:
        raise ConfigError(f"The data folder {folder} cannot be used: {error.strerror or error}.") from None


class FolderLock:
    """The lock of a folder, made when absent: one process has it, until it lets go or dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.  Raises ``ConfigError`` when another server has it."""
        try:
            make_path(self._path.parent)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ConfigError(f"Another server is using the folder {self._path.parent}.") from None
        except OSError as error:
            self.release()
            raise ConfigError(f"{self._path} cannot be locked: {error.strerror or error}.") from None

    def release(self) -> None:
        """Let go; again is harmless.  The file stays: were it removed, two processes could each lock one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def load_keyring(config: Config) -> Keyring:
    """The signing keys: of ``auth.secret_file``, or of the data folder, made when absent.  Raises ``ConfigError``."""
    if config.auth.secret_file:
        return Keyring.load(config.secret_path)
    open_data_folder(config)
    return Keyring.load_or_create(config.secret_path)


def make_catalog(config: Config) -> Catalog:
    """The configured catalog, to be opened.  A driver is imported only when it is used."""
    if config.catalog.driver == "postgres":
        from godrive.catalog.postgres import PostgresCatalog  # noqa: PLC0415

        return PostgresCatalog(config.catalog, outbox=keeps_outbox(config))
    from godrive.catalog.sqlite import SqliteCatalog  # noqa: PLC0415

    return SqliteCatalog(
        config.catalog_path, allow_network_fs=config.catalog.allow_network_fs, outbox=keeps_outbox(config)
    )


def keeps_outbox(config: Config) -> bool:
    """Whether there is anywhere to publish what happens to files."""
    return bool(config.nats.url) and config.nats.publish_events


def make_blobs(config: Config, clock: Clock) -> BlobStore:
    """The configured blob store, to be opened.  A driver is imported only when it is used."""
    if config.blobs.driver == "s3":
        from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415

        return S3BlobStore(config.blobs.s3, clock=clock)
    if config.blobs.driver == "memory":
        from godrive.blobs.memory import MemoryBlobStore  # noqa: PLC0415

        return MemoryBlobStore(clock=clock)
    from godrive.blobs.disk import DiskBlobStore  # noqa: PLC0415

    return DiskBlobStore(config.blobs_path, min_free_bytes=config.blobs.min_free_bytes)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Write the file so that, whenever the power goes, it is there whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
