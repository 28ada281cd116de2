"""``godrive keys``: the keys that sign tokens and URLs."""

from __future__ import annotations

import argparse
import sys

from godrive.commands import Commands, add, add_group
from godrive.config import Config
from godrive.credentials import Keyring


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "keys", "the keys that sign tokens and URLs")
    text = "sign with a new key from the next start on; the old ones still verify"
    rotate = add(actions, "rotate", text, shared)
    rotate.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help="old keys to keep (default: all); 0 ends every session and every URL, for when a key has leaked",
    )
    rotate.set_defaults(run=_rotate)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _rotate(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    keyring = Keyring.rotate(config.secret_path, keep=arguments.keep)
    kept = len(keyring.keys) - 1
    sys.stdout.write(f"{config.secret_path}: {keyring.current[0]} signs, {kept or 'no'} more verify.\n")
    sys.stdout.write("A server that runs goes on with the keys it has: restart it.\n")
    return 0
