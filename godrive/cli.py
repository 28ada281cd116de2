"""The ``godrive`` command: its arguments, its exit codes, and what it prints when something goes wrong.

What each command does is in ``godrive.commands``.  Exit codes: 0 done; 1
failed, and trying again may help; 2 a mistake of the operator, which has to be
corrected first.  A failure is one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from godrive import __version__
from godrive.commands import (
    about,
    actors,
    backup,
    catalog,
    client,
    deadletters,
    doctor,
    exporting,
    fsck,
    importing,
    keys,
    recount,
    serve,
    setup,
    sweep,
    user,
)
from godrive.commands import check as check_config
from godrive.config import Config
from godrive.configfile import CONFIG_VARIABLE, load
from godrive.doctor import EXTRAS
from godrive.errors import ConfigError, DriveError
from godrive.log_writer import LogWriter
from godrive.paths import is_file
from godrive.runtime import GaveUp

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

_EPILOG = """\
The configuration file is the one given with --config, else the one that
GODRIVE_CONFIG names, else config.toml in the working directory. Without a file
every setting has its default. A variable GODRIVE_<TABLE>_<KEY> overrides a
setting, and an option of the command line overrides both.

Exit codes: 0 done; 1 failed; 2 a mistake in the arguments or the configuration.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    _open_missing_streams()
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        return _complain(error.detail, error.hint, MISTAKE)
    except DriveError as error:
        return _complain(error.detail, error.hint, FAILED)
    except GaveUp as error:
        return _complain(f"Gave up: {error}.", "The log above has the cause.", FAILED)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        return _complain(f"{error.name} is not installed.", f"pip install 'godrive-server[{extra}]'", MISTAKE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe.  The interpreter would report that again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _open_missing_streams() -> None:
    """Stand in for standard streams that the parent process has closed; a file would get their numbers otherwise."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open for good


def _complain(detail: str, hint: str | None, code: int) -> int:
    sentence = detail if detail.endswith((".", "?", "!")) else f"{detail}."
    text = " ".join(f"{sentence} {hint or ''}".split())
    _write_error(f"godrive: {text}\n")
    return code


def _warn(text: str) -> None:
    _write_error(f"godrive: warning: {text}\n")


def _write_error(line: str) -> None:
    try:
        fd = sys.stderr.fileno()
    except OSError:  # replaced by a stream in memory
        sys.stderr.write(line)
        return
    writer = LogWriter(fd)  # a pipe without a reader must not prevent the process from exiting
    writer.write(line.encode(errors="backslashreplace"))
    writer.drain()


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="read the configuration from FILE")
    shared.add_argument("--data-dir", metavar="DIR", help="keep data in DIR (server.data_dir)")
    shared.set_defaults(configuration=configuration)

    parser = argparse.ArgumentParser(
        prog="godrive",
        description="A self-hosted storage backend for a drive: accounts, uploads, downloads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"godrive {__version__}", help="print the release")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        serve,
        setup,
        check_config,
        user,
        sweep,
        recount,
        fsck,
        backup,
        importing,
        exporting,
        actors,
        deadletters,
        doctor,
        keys,
        catalog,
        client,
        about,
    ):
        command.register(commands, shared)
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
