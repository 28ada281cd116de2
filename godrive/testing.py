"""For tests, ours and those of applications that embed a drive: time by hand, actors over the wire, quick drives."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from godrive.blobs import BlobStore
from godrive.catalog import Catalog
from godrive.clock import Clock
from godrive.config import Config
from godrive.drive import GoDrive
from godrive.errors import DriveError
from godrive.messages.auth import SignUp
from godrive.model import File, OnConflict, Root, Spot, User, UserId
from godrive.paths import is_folder
from godrive.principal import HostUser
from godrive.runtime import Ask, OnEvent, Ref, Tell, codec
from godrive.runtime.message import A
from godrive.runtime.supervision_events import ignore
from godrive.transfer import receive

R = TypeVar("R")


class ManualClock:
    """A clock that stands still until it is moved.

    It starts at the machine's time unless told otherwise, since files on disk
    are stamped with that.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime.now(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let that much time pass.  Raises ValueError for less than none."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock by that much, forwards or backwards, as an operator or NTP does."""
        self._now += timedelta(seconds=seconds)


class LoopbackRef(Generic[A]):
    """A ref that treats a near actor as a far one: every message, reply and error is encoded and decoded again."""

    def __init__(self, contract: type[A], ref: Ref[A]) -> None:
        self._contract = contract
        self._ref = ref

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        received = codec.decode(self._contract, type(message).__name__, codec.encode(message))
        assert isinstance(received, Ask)  # noqa: S101 - the codec keeps the type
        try:
            reply = await self._ref.ask(received, timeout=timeout)
        except DriveError as error:
            raise codec.decode_error(codec.encode_error(error)) from None
        decoded: R = codec.decode_reply(type(message), codec.encode_reply(reply))
        return decoded

    def tell(self, message: Tell[A]) -> None:
        received = codec.decode(self._contract, type(message).__name__, codec.encode(message))
        assert isinstance(received, Tell)  # noqa: S101 - the codec keeps the type
        self._ref.tell(received)


class LoopbackDrive(GoDrive):
    """A drive whose actors know one another, and are known to you, by :class:`LoopbackRef` only."""

    def ref(self, contract: type[A]) -> Ref[A]:
        return LoopbackRef(contract, super().ref(contract))


QUICK: Mapping[str, Mapping[str, Any]] = {
    "server": {"public_url": "http://drive.test"},
    "auth": {"bcrypt_cost": 4},
    "blobs": {"driver": "memory", "min_free_bytes": 0},
}
"""How :func:`open_drive` differs from the defaults."""


def quick_config(data_dir: Path | str, **tables: Mapping[str, Any]) -> Config:
    """A configuration for tests: :data:`QUICK`, with *tables* laid over it.  Raises msgspec.ValidationError."""
    laid: dict[str, dict[str, Any]] = {}
    for layer in (QUICK, {"server": {"data_dir": str(data_dir)}}, tables):
        for name, table in layer.items():
            laid.setdefault(name, {}).update(table)
    return msgspec.convert(laid, Config)


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder, in memory where the machine has a file system for that: syncing is what takes time."""
    return tempfile.TemporaryDirectory(prefix="godrive-", dir="/dev/shm" if is_folder(Path("/dev/shm")) else None)  # noqa: S108


@asynccontextmanager
async def open_drive(
    *,
    data_dir: Path | str | None = None,
    clock: Clock | None = None,
    blob_store: BlobStore | None = None,
    catalog_store: Catalog | None = None,
    on_event: OnEvent = ignore,
    serving: bool = False,
    drive_class: type[GoDrive] = GoDrive,
    **tables: Mapping[str, Any],
) -> AsyncIterator[GoDrive]:
    """A drive that is quick to open and leaves nothing behind::

        async with open_drive(auth={"signup": "closed"}) as drive: ...

    Blobs are in memory, the catalog in a temporary folder (*data_dir* keeps
    it), the clock is a :class:`ManualClock`, hashing costs next to nothing.
    Nothing happens by itself unless *serving*: ask ``Reconcile`` and
    ``Sweep``.  *tables* are those of ``config.toml``, so the stores that
    ``GoDrive`` takes are called *blob_store* and *catalog_store* here.
    """
    with quick_folder() as folder:
        config = quick_config(data_dir or folder, **tables)
        async with drive_class(
            config,
            blobs=blob_store,
            catalog=catalog_store,
            clock=clock or ManualClock(),
            on_event=on_event,
            serving=serving,
        ) as drive:
            yield drive


async def sign_up(drive: GoDrive, email: str = "ann@example.org", password: str = "correct horse") -> User:  # noqa: S107
    """A user of the drive."""
    return await drive.auth.ask(SignUp(email, password))


async def upload(
    drive: GoDrive,
    owner_id: UserId,
    name: str,
    content: bytes = b"",
    *,
    where: Spot = Root(),  # noqa: B008 - a frozen value
    mime: str = "application/octet-stream",
    sha256: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
) -> File:
    """A file of that user."""
    return await receive(
        drive,
        HostUser(user_id=owner_id),
        where,
        name,
        chunks(content),
        size=len(content),
        mime=mime,
        sha256=sha256,
        on_conflict=on_conflict,
    )


async def chunks(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    """The bytes as a body that arrives in pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
