"""``godrive user``: manage accounts, also beside a running server, which notices within a second."""

from __future__ import annotations

import argparse
import getpass
import sys
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from godrive import email_address
from godrive.commands import Commands, add_action, add_group, need_drive, size
from godrive.commands.running import run
from godrive.config import Config
from godrive.counted import counted
from godrive.credentials import check_new_password
from godrive.errors import ConfigError, Invalid
from godrive.messages.auth import GetUser
from godrive.messages.users import (
    AddUser,
    FindUser,
    Invite,
    ListUsers,
    RemoveUser,
    SetEmail,
    SetPassword,
    SetQuota,
    SetUserState,
)
from godrive.model import User, UserId, UserState
from godrive.principal import HostUser, System
from godrive.runtime import Event
from godrive.runtime.supervision_events import ChildCrashed

if TYPE_CHECKING:
    from godrive.drive import GoDrive

Action: TypeAlias = "Callable[[GoDrive, argparse.Namespace], Awaitable[None]]"

_OPERATOR = System(part="operator")


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "user")

    def add(name: str, action: Action, text: str, *, who: bool = True) -> argparse.ArgumentParser:
        command = add_action(actions, name, text, shared)
        if who:
            command.add_argument("user", metavar="USER", help="e-mail address or id")
        command.set_defaults(run=_run, action=action)
        return command

    password = "the password is read from the terminal or from the first line of standard input"  # noqa: S105
    new = add("add", _add, f"add a user; {password}", who=False)
    new.add_argument("email", metavar="EMAIL")
    new.add_argument(
        "--quota", type=size, metavar="SIZE", help="the quota, as in set-quota (default: auth.default_quota_bytes)"
    )
    add("list", _list, "list the users", who=False).add_argument("--json", action="store_true", help="print JSON")
    add("disable", _disable, "disable a user, and end their sessions and uploads at once")
    add("enable", _enable, "enable a disabled user")
    delete = add("delete", _delete, "disable a user, and delete them and their files after janitor.user_grace")
    delete.add_argument("--now", action="store_true", help="delete at once; this cannot be undone")
    delete.add_argument("--yes", action="store_true", help="with --now: do not ask for confirmation")
    add("rename", _rename, "change the e-mail address of a user").add_argument("email", metavar="EMAIL")
    add("set-password", _set_password, f"set the password of a user, and end their sessions; {password}")
    add("set-quota", _set_quota, "set the quota of a user").add_argument(
        "quota", type=size, metavar="SIZE", help="bytes, or a number with K, M, G or T (powers of 1024), or none"
    )
    invite = add("invite", _invite, "create an invitation code for one person", who=False)
    invite.add_argument("--days", type=float, default=7.0, help="days until the code expires (default: 7)")


def _run(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    if arguments.action not in (_add, _invite):
        need_drive(config)
    _check(config, arguments)  # first, because _add and _invite make a drive where there is none

    async def act() -> None:
        from godrive.blobs.memory import MemoryBlobStore  # noqa: PLC0415
        from godrive.drive import GoDrive  # noqa: PLC0415

        # No command here needs the blobs, so none fails with their store.
        async with GoDrive(config, blobs=MemoryBlobStore(), on_event=_show_crash, serving=False) as drive:
            await arguments.action(drive, arguments)

    run(act())
    return 0


def _check(config: Config, arguments: argparse.Namespace) -> None:
    """Check the arguments of a new user or invitation, and read the password.  Raises ``Invalid``."""
    if arguments.action is _add:
        email_address.clean(arguments.email, utf8=config.auth.unicode_emails)  # before the password is asked for
        arguments.password = _new_password()
    elif arguments.action is _invite and not 0 < arguments.days <= 3650:
        raise Invalid("An invitation expires after more than 0 and at most 3650 days.", field="days")


def add_user(arguments: argparse.Namespace, email: str) -> None:
    """Add a user as ``godrive user add`` does."""
    arguments.email, arguments.quota, arguments.action = email, None, _add
    _run(arguments)


def _show_crash(event: Event) -> None:
    """Show the trace of a bug: the error that the command gets does not have it."""
    if isinstance(event, ChildCrashed):
        traceback.print_exception(event.error)


async def _add(drive: GoDrive, arguments: argparse.Namespace) -> None:
    quota = drive.config.auth.default_quota_bytes if arguments.quota is None else arguments.quota
    user = await drive.auth.ask(AddUser(_OPERATOR, arguments.email, arguments.password, quota or None))
    _say(f"{user.email} has the id {user.id}.")


async def _list(drive: GoDrive, arguments: argparse.Namespace) -> None:
    everybody: list[User] = []
    while page := await drive.auth.ask(ListUsers(_OPERATOR, after=everybody[-1].id if everybody else "")):
        everybody.extend(page)
    if arguments.json:
        rows = [msgspec.to_builtins(user) | {"used_bytes": user.usage.used_bytes} for user in everybody]
        _say(msgspec.json.encode(rows).decode())
        return
    width = max((len(_name(user)) for user in everybody), default=0)
    for user in everybody:
        ends = "" if user.delete_at is None else f"  deleted on {user.delete_at:%Y-%m-%d}"
        quota = "no limit" if user.quota_bytes is None else f"of {user.quota_bytes}"
        since = user.created_at.date().isoformat()
        _say(f"{_name(user):<{width}}  {user.state:<8}  {since}  {user.usage.used_bytes:>15} bytes {quota}{ends}")


async def _disable(drive: GoDrive, arguments: argparse.Namespace) -> None:
    user = await find_user(drive, arguments.user)
    await drive.auth.ask(SetUserState(_OPERATOR, user.id, UserState.DISABLED))
    _say(f"{_name(user)} is disabled.")


async def _enable(drive: GoDrive, arguments: argparse.Namespace) -> None:
    user = await find_user(drive, arguments.user)
    await drive.auth.ask(SetUserState(_OPERATOR, user.id, UserState.ACTIVE))
    _say(f"{_name(user)} is enabled.")


async def _delete(drive: GoDrive, arguments: argparse.Namespace) -> None:
    user = await find_user(drive, arguments.user)
    grace = 0.0 if arguments.now else drive.config.janitor.user_grace
    if not grace:
        _confirm(user, arguments)
    await drive.auth.ask(RemoveUser(_OPERATOR, user.id, grace))
    if not grace:
        removed = counted(user.usage.used_bytes, "byte")
        _say(f"{_name(user)} is deleted. The janitor removes {removed} within its next sweeps.")
        return
    user = await find_user(drive, user.id)
    assert user.delete_at is not None  # noqa: S101 - it was set now
    until = f"{user.delete_at:%Y-%m-%d %H:%M} UTC"
    _say(f"{_name(user)} is disabled, and deleted with all files on {until}. Until then: godrive user enable {user.id}")


def _confirm(user: User, arguments: argparse.Namespace) -> None:
    """Have the operator type the name.  Raises ``ConfigError``."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{_name(user)} would be deleted at once, with all files.", hint="Confirm it with --yes.")
    if input(f"All {user.counts.entries} files and folders are lost. Type {_name(user)} to go on: ") != _name(user):
        raise ConfigError("That is another name. Nothing was changed.")


async def _rename(drive: GoDrive, arguments: argparse.Namespace) -> None:
    user = await find_user(drive, arguments.user)
    renamed = await drive.auth.ask(SetEmail(_OPERATOR, user.id, arguments.email))
    _say(f"{_name(user)} is now {_name(renamed)}. Sessions are kept.")


async def _set_password(drive: GoDrive, arguments: argparse.Namespace) -> None:
    user = await find_user(drive, arguments.user)
    await drive.auth.ask(SetPassword(_OPERATOR, user.id, _new_password()))
    _say(f"{_name(user)} has a new password and no session.")


async def _set_quota(drive: GoDrive, arguments: argparse.Namespace) -> None:
    user = await find_user(drive, arguments.user)
    user = await drive.auth.ask(SetQuota(_OPERATOR, user.id, arguments.quota or None))
    quota = "any number of bytes" if user.quota_bytes is None else counted(user.quota_bytes, "byte")
    _say(f"{_name(user)} may use {quota}.")


async def _invite(drive: GoDrive, arguments: argparse.Namespace) -> None:
    code = await drive.auth.ask(Invite(_OPERATOR, drive.clock.now() + timedelta(days=arguments.days)))
    if drive.config.auth.signup != "invite":
        sys.stderr.write(f"Sign-up does not ask for an invitation: auth.signup is {drive.config.auth.signup!r}.\n")
    _say(code)


async def find_user(drive: GoDrive, who: str) -> User:
    """The user with that e-mail address or id.  Raises ``NotFound``."""
    if "@" in who:
        return await drive.auth.ask(FindUser(_OPERATOR, who))
    return await drive.auth.ask(GetUser(HostUser(user_id=UserId(who))))


def _name(user: User) -> str:
    """What to call the user: users of a host application may have no e-mail address."""
    return user.email or user.external_id or user.id


def _new_password() -> str:
    return new_secret("password", check_new_password)


def new_secret(what: str, check: Callable[[str], None] = lambda _secret: None) -> str:
    """Ask twice for a new secret on a terminal, else read a line of standard input.  Raises what *check* does."""
    if not sys.stdin.isatty():
        secret = sys.stdin.readline().rstrip("\r\n").removeprefix("\ufeff")
        check(secret)
        return secret
    secret = getpass.getpass(f"New {what}: ")
    check(secret)
    if getpass.getpass(f"Repeat the {what}: ") != secret:
        raise Invalid(f"The {what}s are not the same.", field=what)
    return secret


def _say(text: Any) -> None:
    sys.stdout.write(f"{text}\n")
