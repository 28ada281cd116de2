"""Checks of the machine: folders, free space, clock, and the address of the server."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
import tempfile
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from godrive.blobs.bounded_read import read_bounded
from godrive.clock import Clock
from godrive.config import Config
from godrive.credentials import Keyring
from godrive.doctor import Report
from godrive.errors import ConfigError, refused
from godrive.network import binds_every_address
from godrive.opening import open_data_folder
from godrive.paths import exists, is_folder
from godrive.unanswered import why

_FEW_INODES = 10_000
_AHEAD = 60.0


async def configuration(config: Config, report: Report) -> None:
    """Warn about settings that are allowed but seldom intended."""
    name, server, before = "configuration", config.server, len(report.findings)
    url = urlsplit(server.base_url)
    if binds_every_address(server.host) and not (server.public_url or server.allowed_hosts):
        report.warning(
            name,
            f"Unless clients use a private address of this machine, URLs will begin with {server.base_url}.",
            "Set server.public_url to what clients use, or list the hosts in server.allowed_hosts.",
        )
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        report.warning(
            name,
            f"Passwords and files travel in the clear to {server.base_url}.",
            "Put a proxy with TLS in front, and its https address into server.public_url.",
        )
    if config.auth.bcrypt_cost < 10:
        report.warning(
            name,
            f"auth.bcrypt_cost is {config.auth.bcrypt_cost}: stolen hashes are soon guessed.",
            "Set it to 12; the next log-in of each user hashes anew.",
        )
    if config.blobs.driver == "memory":
        report.warning(name, "blobs.driver is 'memory': files end with the server.", "Set it to 'disk' or 's3'.")
    if len(report.findings) == before:
        report.ok(name, f"URLs begin with {server.base_url}.")


async def folders(config: Config, report: Report) -> None:
    """Check the data folder, and folders that a setting puts elsewhere."""
    name, folder = "data folder", config.data_dir
    places = {}
    if config.catalog.driver == "sqlite":
        places[config.catalog_path.parent] = "catalog.path"
    if config.blobs.driver == "disk":
        places[config.blobs_path] = "blobs.path"
    places[folder] = "server.data_dir"
    parent = _existing(folder)
    if parent != folder.absolute():
        _try_to_write(parent, "server.data_dir")
        report.ok(name, f"{folder} is not there yet; the first start makes it in {parent}.")
        return
    if exists(config.layout_path):
        open_data_folder(config)
        report.ok(name, f"{folder} is laid out as this release expects.")
    else:
        report.ok(name, f"{folder} has no drive yet; the first start makes one.")
    if folder.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        report.warning(name, f"Others on this machine can look into {folder}.", f"chmod 700 {folder}")
    for each, setting in sorted(places.items()):
        _try_to_write(_existing(each), setting)


async def secret(config: Config, report: Report) -> None:
    """Check the signing keys."""
    path = config.secret_path
    if not exists(path):
        if config.auth.secret_file:
            _try_to_write(path.parent, "auth.secret_file")
        report.ok("secret", f"{path} is not there yet; the first start makes it.")
        return
    keyring = Keyring.load(path)
    report.ok("secret", f"{path}: {keyring.current[0]} signs, {len(keyring.keys) - 1} more verify.")


async def space(config: Config, report: Report) -> None:
    """Check free space on every file system that the server writes to."""
    places = {
        "the data folder": config.data_dir,
        "the catalog": config.catalog_path.parent,
        "the blobs": config.blobs_path,
    }
    seen: set[int] = set()
    for what, place in places.items():
        folder = _existing(place)
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        usage, inodes = shutil.disk_usage(folder), os.statvfs(folder)
        free, least = _bytes(usage.free), config.blobs.min_free_bytes
        if usage.free < least:
            report.failure("free space", f"{free} free for {what}: no upload is taken.", f"Make room in {folder}.")
        elif usage.free < max(10 * least, usage.total // 20):
            report.warning(
                "free space", f"{free} free for {what}.", f"Make room in {folder} before it is under {_bytes(least)}."
            )
        elif inodes.f_files and inodes.f_favail < _FEW_INODES:
            report.warning(
                "free space", f"{inodes.f_favail} more files have room for {what}.", f"Make room in {folder}."
            )
        else:
            report.ok("free space", f"{free} free for {what}.")


async def clock(config: Config, clock: Clock, report: Report) -> None:
    """Check that the clock is synchronised and has not gone back."""
    now = clock.now()
    for path in (config.layout_path, config.catalog_path, config.secret_path):
        if exists(path) and path.stat().st_mtime > now.timestamp() + _AHEAD:
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            report.failure(
                "clock",
                f"It is {now:%Y-%m-%d %H:%M} UTC here, and {path} was written at {written:%Y-%m-%d %H:%M} UTC.",
                "Set the clock: tokens, URLs and deadlines go by it.",
            )
            return
    if _is_synchronised() is False:
        report.warning(
            "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, but nothing synchronizes it.", "timedatectl set-ntp true"
        )
    else:
        report.ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC.")


async def server(config: Config, report: Report) -> None:
    """Check that the server answers at the address in its URLs."""
    url = f"{config.server.base_url}/health"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            status, body = answer.status, await read_bounded(answer.content)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        report.warning(
            "server",
            f"Nothing answers at {config.server.base_url}: {why(error)}.",
            "Start the server. If it runs, set server.public_url to the URL at which clients reach it.",
        )
        return
    if status == 200 and b'"ok":true' in body:
        report.ok("server", f"It answers at {config.server.base_url}.")
    else:
        report.failure(
            "server",
            f"{url} answers {status}, and not as GoDrive does.",
            "Set server.public_url to the URL at which clients reach it, and let the proxy pass on all below it.",
        )


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that exists.  Raises ``ConfigError`` if that is not a folder."""
    path = path.absolute()
    while not exists(path):
        path = path.parent
    if not is_folder(path):
        raise ConfigError(f"{path} is not a folder.", hint="Choose another with server.data_dir or --data-dir.")
    return path


def _try_to_write(folder: Path, setting: str) -> None:
    """Raise what the operator has to know if nothing can be written in the folder, which the setting names."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"godrive doctor")
    except OSError as error:
        failure = refused(f"Nothing can be written in {folder}", error)
        failure.hint = failure.hint or f"See whether {setting} is right."
        raise failure from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_synchronised() -> bool | None:
    """Whether the kernel's clock is synchronised, or ``None`` if that is unknown."""
    if sys.platform != "linux":
        return None
    # adjtimex(2) with modes = 0 only reads.  Its struct timex is of 208 bytes at most, TIME_ERROR is 5.
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    return None if state < 0 else state != 5


def _bytes(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size //= 1024
    return f"{size} TiB"
