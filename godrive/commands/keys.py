"""``godrive keys``: manage the keys that sign tokens and URLs."""

from __future__ import annotations

import argparse
import sys

from godrive.commands import Commands, add_action, add_group
from godrive.config import Config
from godrive.credentials import Keyring
from godrive.errors import ConfigError
from godrive.opening import open_data_folder


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "keys")
    create = add_action(actions, "create", "make the file with the signing key, if there is none", shared)
    create.set_defaults(run=_create)
    text = "sign with a new key from the next start on; the old ones still verify"
    rotate = add_action(actions, "rotate", text, shared)
    rotate.add_argument(
        "--keep",
        type=_number,
        metavar="N",
        help="keep N old keys (default: all); 0, after a key has leaked, ends every session and every URL",
    )
    rotate.set_defaults(run=_rotate)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _create(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    path = config.secret_path
    if not config.auth.secret_file:
        open_data_folder(config)
    try:
        keyring = Keyring.create(path)
    except FileExistsError:
        raise ConfigError(f"{path} exists.", hint="For a new key run: godrive keys rotate") from None
    owner = path.stat().st_uid
    sys.stdout.write(f"{path}: {keyring.current[0]} signs. Only the user with the id {owner} may read the file.\n")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    keyring = Keyring.rotate(config.secret_path, keep=arguments.keep)
    kept = len(keyring.keys) - 1
    sys.stdout.write(f"{config.secret_path}: {keyring.current[0]} signs, {kept or 'no'} more verify.\n")
    sys.stdout.write("Restart running servers: until then they use the keys that they have read.\n")
    return 0
