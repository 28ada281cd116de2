"""``godrive check-config``: check the configuration, and print what differs from the defaults."""

from __future__ import annotations

import argparse
import sys

import msgspec

from godrive.commands import Commands, add_command
from godrive.config import Config, marked
from godrive.configfile import settings


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "check-config", shared)
    parser.add_argument("--json", action="store_true", help="print all settings as JSON, without secrets")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    shown = msgspec.to_builtins(config)
    changed = []
    for setting in settings().values():
        table, default = shown, msgspec.to_builtins(Config())
        for name in setting.path[:-1]:
            table, default = table[name], default[name]
        name = setting.path[-1]
        if table[name] and marked(setting.type, "secret"):
            table[name] = "***"
        if table[name] != default[name]:
            changed.append(f"{setting.dotted} = {table[name]!r}\n")
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown)).decode() + "\n")
    else:
        differ = f"{len(changed)} settings differ" if len(changed) > 1 else f"{len(changed) or 'no'} setting differs"
        sys.stdout.write(f"The configuration is valid; {differ} from the defaults.\n")
        sys.stdout.writelines(changed)
    return 0
