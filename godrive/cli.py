"""The ``godrive`` command: its arguments, its exit codes, and what it prints when something goes wrong.

What each command does is in ``godrive.commands``.  Exit codes: 0 done; 1
failed, and trying again may help; 2 a mistake that the operator must correct
first.  A failure is one line on standard error.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import stat
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from godrive import __version__
from godrive.commands import add_command, write_error
from godrive.commands.table import COMMANDS
from godrive.errors import ConfigError, DriveError, GaveUp, Invalid, TooDeep
from godrive.extras import EXTRAS

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130
_OF_A_FULL_DISK = errno.ENOSPC, errno.EDQUOT, errno.EFBIG

_YOUNG = 20_000
"""Objects after which the garbage collector looks at young ones; 700 by default."""

_EPILOG = """\
The configuration file is the one given with --config, else the one that
GODRIVE_CONFIG names, else config.toml in the working directory. Without a file,
every setting has its default. The environment variable GODRIVE_<TABLE>_<KEY>
overrides a setting, and a command-line option overrides both.

Exit codes: 0 done; 1 failed; 2 a mistake in the arguments or the configuration.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    gc.set_threshold(_YOUNG)  # what modules are made of stays; to look through it took a tenth of a command
    _open_missing_streams()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except DriveError as error:
        # A subclass of Invalid is about bytes in transit, so another attempt may succeed.
        is_mistake = isinstance(error, ConfigError | TooDeep) or type(error) is Invalid
        return _complain(error.detail, error.hint, MISTAKE if is_mistake else FAILED)
    except GaveUp as error:
        return _complain(f"Gave up: {error}.", "The log above has the cause.", FAILED)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        return _complain(f"{error.name} is not installed.", f"pip install 'godrive-server[{extra}]'", MISTAKE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe
        _discard_output()
        return FAILED
    except OSError as error:
        # The stores report their errors as a DriveError, so this is probably about what the command prints.
        if error.errno not in _OF_A_FULL_DISK or error.filename is not None or not _may_be_full():
            raise
        _discard_output()
        return _complain(f"Standard output: {os.strerror(error.errno)}.", None, FAILED)


def _run(argv: Sequence[str]) -> int:
    try:
        arguments = _parse(argv)
    except SystemExit:  # after --help or --version
        sys.stdout.flush()
        raise
    code: int = arguments.run(arguments)
    sys.stdout.flush()
    return code


def _may_be_full() -> bool:
    """Whether standard output is a file, or a device other than a terminal; a pipe is never full."""
    mode = os.fstat(sys.stdout.fileno()).st_mode
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not sys.stdout.isatty())


def _discard_output() -> None:
    """Drop what cannot be written.  The interpreter would report that again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_missing_streams() -> None:
    """Stand in for standard streams that the parent process has closed; a file would get their numbers otherwise."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open for good


def _complain(detail: str, hint: str | None, code: int) -> int:
    sentence = detail if detail.endswith((".", "?", "!")) else f"{detail}."
    text = " ".join(f"{sentence} {hint or ''}".split())
    write_error(f"godrive: {text}\n")
    return code


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is not None and file is sys.stdout:
            file.write(message)  # newer releases of argparse would ignore that the disk is full
        else:
            super()._print_message(message, file)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments.  Only the module of the command that they name is imported."""
    parser: argparse.ArgumentParser = _Parser(
        prog="godrive",
        description="The server of a self-hosted drive, its tools, and a client.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"godrive {__version__}", help="print the release")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = next((word for word in argv if not word.startswith("-")), "")
    if named in COMMANDS:
        from godrive.commands.configuring import options  # noqa: PLC0415 - --help and --version do without

        import_module(f"godrive.commands.{COMMANDS[named].module}").register(commands, options())
    else:  # help, or a mistake
        for name in COMMANDS:
            add_command(commands, name)
    return parser.parse_args(argv)
