"""``godrive deadletters``: list, replay and drop bucket events that could not be processed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from godrive.commands import Commands, add_action, add_group
from godrive.commands.running import run
from godrive.config import Config
from godrive.errors import ConfigError

if TYPE_CHECKING:
    from godrive.bridge.deadletters import DeadLetters, Letter

_SHOWN = 200


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "deadletters")
    listing = add_action(actions, "list", "list the dead letters, oldest first", shared)
    listing.add_argument("--json", action="store_true", help="print one JSON object per line, with the whole body")
    listing.set_defaults(run=_list)
    replay = add_action(actions, "replay", "publish dead letters again unchanged, and remove them", shared)
    replay.set_defaults(run=_replay)
    drop = add_action(actions, "drop", "remove dead letters without processing them", shared)
    drop.set_defaults(run=_drop)
    for action in (replay, drop):
        action.add_argument("number", type=int, nargs="*", help="the number in the list")
        action.add_argument("--all", action="store_true", help="all dead letters")


def _list(arguments: argparse.Namespace) -> int:
    show = _as_json if arguments.json else _as_line

    async def list_them(letters: DeadLetters) -> None:
        async for letter in letters.list():
            sys.stdout.write(show(letter) + "\n")

    return _with_letters(arguments, list_them)


def _replay(arguments: argparse.Namespace) -> int:
    return _each(arguments, "sent again", lambda letters, number: letters.replay(number))


def _drop(arguments: argparse.Namespace) -> int:
    return _each(arguments, "dropped", lambda letters, number: letters.drop(number))


def _each(arguments: argparse.Namespace, done: str, act: Callable[[DeadLetters, int], Awaitable[None]]) -> int:
    if not arguments.number and not arguments.all:
        raise ConfigError("No dead letter is named.", hint="Give the numbers from the list, or --all.")

    async def act_on_each(letters: DeadLetters) -> None:
        numbers = [letter.number async for letter in letters.list()] if arguments.all else arguments.number
        for number in numbers:
            await act(letters, number)
            sys.stdout.write(f"{number} {done}\n")

    return _with_letters(arguments, act_on_each)


def _with_letters(arguments: argparse.Namespace, act: Callable[[DeadLetters], Awaitable[None]]) -> int:
    config: Config = arguments.configuration(arguments)
    if not config.nats.url:
        raise ConfigError("Only bucket events that come through NATS become dead letters: nats.url is not set.")
    from godrive.bridge.connection import NatsLink  # noqa: PLC0415
    from godrive.bridge.deadletters import DeadLetters  # noqa: PLC0415

    async def main() -> None:
        link = NatsLink(config.nats, name="godrive deadletters")
        try:
            await act(DeadLetters(link, stream=config.ingest.stream, namespace=config.nats.namespace))
        finally:
            await link.close()

    run(main())
    return 0


def _as_json(letter: Letter) -> str:
    fields: dict[str, Any] = msgspec.structs.asdict(letter)
    fields["body"] = letter.body.decode(errors="backslashreplace")
    return msgspec.json.encode(fields).decode()


def _as_line(letter: Letter) -> str:
    when = f"{letter.died_at:%Y-%m-%d %H:%M:%SZ}" if letter.died_at else "-"
    body = letter.body[:_SHOWN].decode(errors="backslashreplace")
    return f"{letter.number:>6}  {when}  {_shown(letter.subject)}  {_shown(letter.reason)}\n        {_shown(body)}"


def _shown(text: str) -> str:
    """The text with control characters replaced: a terminal would obey them, and strangers wrote it."""
    return "".join(mark if mark.isprintable() else "." for mark in text)
