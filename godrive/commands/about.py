"""``godrive version`` and ``godrive licenses``."""

from __future__ import annotations

import argparse
import sys

import msgspec

from godrive import about
from godrive.commands import Commands, add_command


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    version = add_command(commands, "version")
    version.add_argument("--json", action="store_true", help="print JSON, with commit, Python, SQLite and OpenSSL")
    version.set_defaults(run=_version)
    licenses = add_command(commands, "licenses")
    licenses.add_argument("--list", action="store_true", help="print only names, versions and kinds of licences")
    licenses.set_defaults(run=_licenses)


def _version(arguments: argparse.Namespace) -> int:
    found = about.versions()
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
    else:
        sys.stdout.write(f"godrive {found.godrive}\n")
    return 0


def _licenses(arguments: argparse.Namespace) -> int:
    for part in about.licenses():
        sys.stdout.write(f"{part.name} {part.version}: {part.license}\n".replace(" : ", ": "))
        if not arguments.list:
            for text in part.texts:
                sys.stdout.write(f"\n{text.strip()}\n\n")
    return 0
