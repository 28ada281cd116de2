"""The configuration that a command uses: from its options, the environment and a file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from godrive.commands import write_error
from godrive.config import Config
from godrive.configfile import CONFIG_VARIABLE, load
from godrive.errors import ConfigError
from godrive.paths import is_file


def options() -> argparse.ArgumentParser:
    """Return the options of every command that has a configuration, as a parent of its parser."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="read the configuration from FILE")
    parser.add_argument("--data-dir", metavar="DIR", help="keep data in DIR (server.data_dir)")
    parser.set_defaults(configuration=configuration)
    return parser


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration for these arguments and the environment.  Raises ``ConfigError``.

    A server hands its own to a command as JSON on standard input.
    """
    if str(arguments.config) == "-":
        return msgspec.json.decode(sys.stdin.buffer.read(), type=Config)
    flags = {"server.data_dir": "data_dir", "server.host": "host", "server.port": "port"}
    overrides = {dotted: getattr(arguments, name, None) for dotted, name in flags.items()}
    overrides |= getattr(arguments, "overrides", {})
    return load(config_path(arguments), os.environ, overrides, warn=_warn)


def config_path(arguments: argparse.Namespace) -> Path | None:
    """The path of the configuration file, if there is one.  Raises ``ConfigError``."""
    if arguments.config is not None:
        return Path(arguments.config)
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    here = Path("config.toml")
    try:
        return here if is_file(here) else None
    except OSError as error:
        detail = f"The working directory cannot be searched for {here}: {error.strerror}."
        raise ConfigError(detail, hint="Change to another directory, or name the file with --config.") from None


def _warn(text: str) -> None:
    write_error(f"godrive: warning: {text}\n")
