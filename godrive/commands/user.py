"""``godrive user``: accounts, straight in the catalog.

A server that runs on the same catalog goes on undisturbed, and takes notice
within a second.
"""

from __future__ import annotations

import argparse
import getpass
import re
import secrets
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec

from godrive import email_address
from godrive.catalog import Catalog, Tx
from godrive.clock import SystemClock
from godrive.commands import Commands, add_group, has_sqlite_catalog
from godrive.commands import add as add_command
from godrive.commands.serve import run
from godrive.config import Config
from godrive.credentials import check_new_password, hash_password
from godrive.errors import ConfigError, Invalid, NotFound
from godrive.model import User, UserId, UserState
from godrive.rules import users

Action = Callable[[Catalog, Config, argparse.Namespace], Awaitable[None]]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "user", "accounts")

    def add(name: str, action: Action, text: str, *, who: bool = True) -> argparse.ArgumentParser:
        command = add_command(actions, name, text, shared)
        if who:
            command.add_argument("user", metavar="USER", help="e-mail address or id")
        command.set_defaults(run=_run, action=action)
        return command

    password = "the password is asked for, or is the first line of standard input"  # noqa: S105
    new = add("add", _add, f"make a user; {password}", who=False)
    new.add_argument("email", metavar="EMAIL")
    new.add_argument("--quota", type=_quota, metavar="SIZE", help="as for set-quota; the default is the server's")
    add("list", _list, "list the users", who=False).add_argument("--json", action="store_true", help="as JSON")
    add("disable", _disable, "let the user in no more, and end all sessions and uploads at once")
    add("enable", _enable, "let the user in again")
    add("set-password", _set_password, f"change the password and end all sessions; {password}")
    add("set-quota", _set_quota, "change the quota").add_argument(
        "quota", type=_quota, metavar="SIZE", help="bytes, or with K, M, G or T at the end (of 1024), or none"
    )
    invite = add("invite", _invite, "make a code that lets one person sign up", who=False)
    invite.add_argument("--days", type=float, default=7.0, help="how long it is good (default: 7)")


def _quota(text: str) -> int:
    """Bytes; 0 is no limit."""
    if text == "none":
        return 0
    match = re.fullmatch(r"(\d{1,18})([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None or not 0 < (size := int(match[1]) * _UNITS[match[2].upper()]) <= 2**62:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size")
    return size


def _run(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    makes = arguments.action in (_add, _invite)
    if config.catalog.driver == "sqlite" and not makes and not has_sqlite_catalog(config):
        raise ConfigError(f"There is no drive in {config.data_dir}", hint="Choose another with --data-dir or --config.")

    async def act() -> None:
        from godrive.opening import make_catalog, open_data_folder  # noqa: PLC0415

        if config.catalog.driver == "sqlite":
            open_data_folder(config)
        catalog = make_catalog(config)
        try:
            await catalog.open()
            await arguments.action(catalog, config, arguments)
        finally:
            await catalog.close()

    run(act())
    return 0


async def _add(catalog: Catalog, config: Config, arguments: argparse.Namespace) -> None:
    email = email_address.clean(arguments.email, utf8=config.auth.unicode_emails)
    password_hash = _new_hash(config)
    given = config.auth.default_quota_bytes if arguments.quota is None else arguments.quota
    now, quota_bytes = SystemClock().now(), given or None
    user = await catalog.write(
        lambda tx: users.add(tx, email=email, password_hash=password_hash, now=now, quota_bytes=quota_bytes)
    )
    _say(f"{user.email} has the id {user.id}.")


async def _list(catalog: Catalog, _config: Config, arguments: argparse.Namespace) -> None:
    everybody: list[User] = []
    while page := await catalog.read(lambda tx: users.list_after(tx, after=everybody[-1].id if everybody else "")):
        everybody.extend(page)
    if arguments.json:
        rows = [msgspec.to_builtins(user) | {"used_bytes": user.usage.used_bytes} for user in everybody]
        _say(msgspec.json.encode(rows).decode())
        return
    width = max((len(user.email) for user in everybody), default=0)
    for user in everybody:
        quota = "no limit" if user.quota_bytes is None else f"of {user.quota_bytes}"
        since = user.created_at.date().isoformat()
        _say(f"{user.email:<{width}}  {user.state:<8}  {since}  {user.usage.used_bytes:>15} bytes {quota}")


async def _disable(catalog: Catalog, _config: Config, arguments: argparse.Namespace) -> None:
    user = await _set_state(catalog, arguments.user, UserState.DISABLED)
    _say(f"{user.email} is disabled.")


async def _enable(catalog: Catalog, _config: Config, arguments: argparse.Namespace) -> None:
    user = await _set_state(catalog, arguments.user, UserState.ACTIVE)
    _say(f"{user.email} is enabled.")


async def _set_state(catalog: Catalog, who: str, state: UserState) -> User:
    now = SystemClock().now()
    return await _change(catalog, who, lambda tx, id_: users.set_state(tx, id_, state, now=now))


async def _set_password(catalog: Catalog, config: Config, arguments: argparse.Namespace) -> None:
    await catalog.read(lambda tx: _find(tx, arguments.user))
    password_hash = _new_hash(config)
    user = await _change(catalog, arguments.user, lambda tx, id_: users.set_password(tx, id_, password_hash))
    _say(f"{user.email} has a new password and no session.")


async def _set_quota(catalog: Catalog, _config: Config, arguments: argparse.Namespace) -> None:
    quota_bytes = arguments.quota or None
    user = await _change(catalog, arguments.user, lambda tx, id_: users.set_quota(tx, id_, quota_bytes))
    _say(f"{user.email} may use {'any number of' if user.quota_bytes is None else user.quota_bytes} bytes.")


async def _invite(catalog: Catalog, config: Config, arguments: argparse.Namespace) -> None:
    if not 0 < arguments.days <= 3650:
        raise Invalid("An invite is good for at most 3650 days.", field="days")
    code, now = secrets.token_urlsafe(16), SystemClock().now()
    expires_at = now + timedelta(days=arguments.days)
    await catalog.write(lambda tx: users.add_invite(tx, code, now=now, expires_at=expires_at))
    if config.auth.signup != "invite":
        sys.stderr.write(f"Invites are not asked for: auth.signup is {config.auth.signup!r}.\n")
    _say(code)


async def _change(catalog: Catalog, who: str, change: Callable[[Tx, UserId], Awaitable[User]]) -> User:
    async def find_and_change(tx: Tx) -> User:
        return await change(tx, (await _find(tx, who)).id)

    return await catalog.write(find_and_change)


async def _find(tx: Tx, who: str) -> User:
    if "@" not in who:
        return await users.get(tx, UserId(who))
    account = await users.find(tx, who)
    if account is None:
        raise NotFound(f"Nobody has the e-mail address {who}.")
    return account.user


def _new_hash(config: Config) -> str:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        check_new_password(password)
        if getpass.getpass("The same again: ") != password:
            raise Invalid("The passwords differ.", field="password")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
        check_new_password(password)
    return hash_password(password, config.auth.bcrypt_cost)


def _say(text: Any) -> None:
    sys.stdout.write(f"{text}\n")
