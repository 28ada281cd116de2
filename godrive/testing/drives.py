"""A manual clock, quick drives, and refs that encode what passes them."""

from __future__ import annotations

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
from godrive.opening import open_data_folder
from godrive.principal import HostUser
from godrive.runtime import Ask, OnEvent, Ref, codec
from godrive.runtime.message import A
from godrive.runtime.supervision_events import ignore
from godrive.testing.faults import FaultPoints
from godrive.testing.folders import lay_catalog, quick_folder
from godrive.transfer import receive

R = TypeVar("R")


class ManualClock:
    """A clock that only moves when a test moves it.

    By default it starts at the time of the machine, because that is the time
    of files on disk.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime.now(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Advance both clocks by *seconds*.  Raises ``ValueError`` if it is negative."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Change the wall clock by *seconds*, forwards or backwards, as an operator or NTP does."""
        self._now += timedelta(seconds=seconds)


class LoopbackRef(Generic[A]):
    """A ref that encodes and decodes every message, reply and error, as if the actor were remote."""

    def __init__(self, contract: type[A], ref: Ref[A]) -> None:
        self._contract = contract
        self._ref = ref

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        received = codec.decode(self._contract, type(message).__name__, codec.encode(message))
        try:
            reply = await self._ref.ask(received, timeout=timeout)
        except DriveError as error:
            raise codec.decode_error(codec.encode_error(error)) from None
        decoded: R = codec.decode_reply(type(message), codec.encode_reply(reply))
        return decoded


class LoopbackDrive(GoDrive):
    """A drive with a :class:`LoopbackRef` for every actor."""

    def ref(self, contract: type[A]) -> Ref[A]:
        return LoopbackRef(contract, super().ref(contract))


QUICK: Mapping[str, Mapping[str, Any]] = {
    "server": {"public_url": "http://drive.test"},
    "auth": {"bcrypt_cost": 4},
    "blobs": {"driver": "memory", "min_free_bytes": 0},
}
"""The settings of :func:`open_drive` that differ from the defaults."""


def quick_config(data_dir: Path | str, **tables: Mapping[str, Any]) -> Config:
    """Return :data:`QUICK` with the keys of *tables* replaced.  Raises ``msgspec.ValidationError``."""
    laid: dict[str, dict[str, Any]] = {}
    for layer in (QUICK, {"server": {"data_dir": str(data_dir)}}, tables):
        for name, table in layer.items():
            laid.setdefault(name, {}).update(table)
    return msgspec.convert(laid, Config)


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
    faults: FaultPoints | None = None,
    **tables: Mapping[str, Any],
) -> AsyncIterator[GoDrive]:
    """Open a temporary drive in a few milliseconds::

        async with open_drive(auth={"signup": "closed"}) as drive: ...

    Blobs are in memory, the catalog is in a temporary folder (or in *data_dir*,
    which is kept), the clock is a :class:`ManualClock`, and password hashes are
    cheap.  There is no periodic work unless *serving*: send ``Reconcile`` and
    ``Sweep`` instead.  *tables* are the tables of ``config.toml``; the arguments
    for stores are therefore called *blob_store* and *catalog_store*.  *faults*
    are faults at the refs of the drive.
    """
    with quick_folder() as folder:
        config = quick_config(data_dir or folder, **tables)
        if data_dir is None and catalog_store is None and config.catalog.driver == "sqlite":
            open_data_folder(config)
            lay_catalog(config.catalog_path)
        async with (drive_class if faults is None else _with_faults(drive_class, faults))(
            config,
            blobs=blob_store,
            catalog=catalog_store,
            clock=clock or ManualClock(),
            on_event=on_event,
            serving=serving,
        ) as drive:
            yield drive


def _with_faults(drive_class: type[GoDrive], faults: FaultPoints) -> type[GoDrive]:
    class FaultyDrive(drive_class):  # type: ignore[valid-type,misc]
        def ref(self, contract: type[A]) -> Ref[A]:
            return faults.at(super().ref(contract))

    return FaultyDrive


async def sign_up(drive: GoDrive, email: str = "ann@example.org", password: str = "correct horse") -> User:  # noqa: S107
    """Create a user."""
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
    """Create a file of the user."""
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
    """Yield the bytes as a body in pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
