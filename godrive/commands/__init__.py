"""The subcommands of ``godrive``: each module registers its arguments and what they run."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, TypeAlias

from godrive.commands.table import COMMANDS
from godrive.errors import ConfigError
from godrive.log_writer import LogWriter
from godrive.paths import is_file

if TYPE_CHECKING:
    from godrive.config import Config

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_WHO = "Run the command as the owner of the data folder."

# In quotes: what argparse hands out is generic to the type checker only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a command of the table."""
    return add_action(commands, name, COMMANDS[name].summary, *parents)


def add_group(commands: Commands, name: str) -> Commands:
    """Add a command of the table that only groups actions."""
    return add_command(commands, name).add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_action(actions: Commands, name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add an action to a group.  *text* describes it in the list of actions and in its own help."""
    description = f"{text[0].upper()}{text[1:]}."
    return actions.add_parser(name, parents=parents, help=text, description=description, allow_abbrev=False)


def size(text: str) -> int:
    """Parse a number of bytes, as 1000, 20M or 1GiB; 0 is no limit."""
    if text == "none":
        return 0
    match = re.fullmatch(r"(\d{1,18})([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None or not 0 < (parsed := int(match[1]) * _UNITS[match[2].upper()]) <= 2**62:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size")
    return parsed


def size_text(number: int) -> str:
    """Return a number of bytes for people: 1.4 GiB."""
    amount, unit = float(number), ""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{number} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def one_line(text: str) -> str:
    """Return a name for a line of text: what could end the line, or speak to the terminal, is written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def need_drive(config: Config) -> None:
    """Raise ``ConfigError`` unless there is a drive.

    A command that only works on what is there would otherwise make an empty one in a folder that was misspelled.
    """
    if config.catalog.driver == "sqlite" and not has_sqlite_catalog(config):
        raise ConfigError(
            f"There is no drive in {config.data_dir}.", hint="Name another folder with --data-dir or --config."
        )


def has_sqlite_catalog(config: Config) -> bool:
    """Whether the configured SQLite database exists.  Raises ``ConfigError`` when the system does not tell."""
    path = config.catalog_path
    try:
        return is_file(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint=_WHO) from None


def write_error(line: str) -> None:
    """Write a line to standard error, which may be a pipe without a reader: the process must be able to exit."""
    try:
        fd = sys.stderr.fileno()
    except OSError:  # replaced by a stream in memory
        sys.stderr.write(line)
        return
    writer = LogWriter(fd)
    writer.write(line.encode(errors="backslashreplace"))
    writer.drain()
