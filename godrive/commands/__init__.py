"""The subcommands of ``godrive``: each module registers its arguments and what they run."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from godrive.config import Config
from godrive.errors import ConfigError
from godrive.paths import is_file

_WHO = "Run the command as the owner of the data folder."

# In quotes: what argparse hands out is generic to the type checker only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(commands: Commands, name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a command.  *text* describes it in the list of commands and in its own help."""
    description = f"{text[0].upper()}{text[1:]}."
    return commands.add_parser(name, parents=parents, help=text, description=description, allow_abbrev=False)


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that only groups others."""
    return add(commands, name, text).add_subparsers(title="commands", metavar="COMMAND", required=True)


def has_sqlite_catalog(config: Config) -> bool:
    """Whether the configured SQLite database exists.  Raises ``ConfigError`` when the system does not tell."""
    path = config.catalog_path
    try:
        return is_file(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint=_WHO) from None
