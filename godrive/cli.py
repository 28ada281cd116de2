"""The ``godrive`` command: the arguments, and what is said when something goes wrong.

What each subcommand does is in ``godrive.commands``.  Exit codes: 0 done, 1
failed, 2 an operator's mistake, which is one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from godrive import __version__
from godrive.commands import add, catalog, deadletters, doctor, keys, serve, sweep, user
from godrive.commands import check as check_config
from godrive.config import Config
from godrive.configfile import load
from godrive.doctor import EXTRAS
from godrive.errors import ConfigError, DriveError
from godrive.runtime import GaveUp

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

_EPILOG = """\
The configuration is read from --config, else from the file that GODRIVE_CONFIG
names, else from config.toml in the working directory, else it is the default.
GODRIVE_<TABLE>_<KEY> in the environment overrides a key, a flag overrides both.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
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
        return _complain(f"{error.name} is not installed.", f"pip install 'godrive[{extra}]'", MISTAKE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _complain(detail: str, hint: str | None, code: int) -> int:
    sentence = detail if detail.endswith((".", "?", "!")) else f"{detail}."
    text = " ".join(f"{sentence} {hint or ''}".split())
    sys.stderr.write(f"godrive: {text}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    shared.add_argument("--data-dir", metavar="DIR", help="the data folder (server.data_dir)")
    shared.set_defaults(configuration=configuration)

    parser = argparse.ArgumentParser(
        prog="godrive",
        description="The storage backend behind a drive.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (serve, check_config, user, sweep, deadletters, doctor, keys, catalog):
        command.register(commands, shared)
    version = add(commands, "version", "say which release this is")
    version.set_defaults(run=_version)
    return parser


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that the arguments and the environment ask for.  Raises ``ConfigError``."""
    flags = {"server.data_dir": "data_dir", "server.host": "host", "server.port": "port"}
    overrides = {dotted: getattr(arguments, name, None) for dotted, name in flags.items()}
    overrides |= getattr(arguments, "overrides", {})
    return load(config_path(arguments), os.environ, overrides)


def config_path(arguments: argparse.Namespace) -> Path | None:
    """Where the configuration file is, if there is one.  Raises ``ConfigError``."""
    if arguments.config is not None:
        return Path(arguments.config)
    if named := os.environ.get("GODRIVE_CONFIG"):
        return Path(named)
    here = Path("config.toml")
    try:
        return here if here.is_file() else None
    except OSError as error:
        detail = f"The working directory cannot be searched for {here}: {error.strerror}."
        raise ConfigError(detail, hint="Go to another, or say which file with --config.") from None


def _version(_arguments: argparse.Namespace) -> int:
    sys.stdout.write(f"godrive {__version__}\n")
    return 0
