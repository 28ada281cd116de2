"""The subcommands of ``godrive``: each module registers its arguments and what they run."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from godrive.config import Config
from godrive.errors import ConfigError

_WHO = "Run the command as the user to whom the data folder belongs."

# In quotes: what argparse hands out is generic to the type checker only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(commands: Commands, name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a command.  *text* says what it does, in the list of commands and in its own help."""
    description = f"{text[0].upper()}{text[1:]}."
    return commands.add_parser(name, parents=parents, help=text, description=description, allow_abbrev=False)


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that only has commands of its own."""
    return add(commands, name, text).add_subparsers(title="commands", metavar="COMMAND", required=True)


def has_sqlite_catalog(config: Config) -> bool:
    """Whether there is one where the configuration says.  Raises ``ConfigError`` when that cannot be looked at."""
    path = config.catalog_path
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path} cannot be looked at: {error.strerror}.", hint=_WHO) from None
