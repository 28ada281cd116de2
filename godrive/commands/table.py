"""The commands of ``godrive``, in the order in which its help lists them.

A command starts sooner if the modules of the others are not imported, and
``godrive --help`` imports none.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """The module in ``godrive.commands`` that registers the command, and what the command does."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("serve", "run the server until SIGTERM or SIGINT"),
    "setup": Command("setup", "ask four questions, write the configuration and add the first user"),
    "check-config": Command("check", "check the configuration and print the settings that differ from their defaults"),
    "user": Command("user", "manage accounts"),
    "sweep": Command("sweep", "purge what is due and remove leftovers; works beside a running server"),
    "recount": Command(
        "recount",
        "correct the usage of users and the index of names; works beside a running server",
    ),
    "fsck": Command("fsck", "compare files with their bytes; works beside a running server"),
    "backup": Command("backup", "make, verify and restore backups"),
    "import": Command(
        "importing",
        "import a local folder into the drive of a user, or accounts of File Browser; works beside a running server",
    ),
    "export": Command("exporting", "write the drive of a user to a local folder; works beside a running server"),
    "actors": Command("actors", "show what the actors of a running server are doing"),
    "deadletters": Command("deadletters", "list, replay and drop bucket events that could not be processed"),
    "doctor": Command("doctor", "check everything that the drive needs, and say how to correct what is wrong"),
    "keys": Command("keys", "manage the keys that sign tokens and URLs"),
    "catalog": Command("catalog", "copy the catalog from SQLite to PostgreSQL"),
    "login": Command("client", "log in to a server; the password is read from the terminal or standard input"),
    "logout": Command("client", "log out of a server"),
    "ls": Command("client", "list a folder on the server, or one file"),
    "put": Command("client", "copy files and folders to the server; existing files get a new version"),
    "get": Command("client", "copy files and folders from the server to this machine"),
    "mkdir": Command("client", "create folders on the server"),
    "mv": Command("client", "move or rename files and folders on the server"),
    "cp": Command("client", "copy files and folders on the server"),
    "rm": Command("client", "move files and folders on the server to the trash"),
    "find": Command("client", "find files and folders on the server by name, best matches first"),
    "version": Command("about", "print the release"),
    "licenses": Command("about", "print the licences of GoDrive and of what it contains"),
}
