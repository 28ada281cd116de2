"""What this installation consists of: release, commit, libraries, licences."""

from __future__ import annotations

import platform
import re
import sqlite3
import ssl
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.resources import files
from pathlib import Path

import msgspec

from godrive import __version__

BUILD = "build.json"
"""A file of the package that ``scripts/build`` writes; see :class:`Build`."""

NAME = "godrive-server"
"""The name of the distribution.  The command and the package to import are ``godrive``."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)""")
_LICENSE_FILE = re.compile(r"(licen[cs]e|copying|notice|copyright|authors)", re.IGNORECASE)


class Build(msgspec.Struct, frozen=True):
    """What an installation was built from; unknown for a checkout."""

    commit: str | None = None


class Versions(msgspec.Struct, frozen=True):
    """The versions of GoDrive and of what it depends on most."""

    godrive: str
    commit: str | None
    python: str
    sqlite: str
    openssl: str
    platform: str
    executable: bool


class License(msgspec.Struct, frozen=True):
    """A part of this installation and the texts of its licence."""

    name: str
    version: str
    license: str
    texts: list[str]


def is_executable() -> bool:
    """Whether this is the single executable, which contains its Python."""
    return bool(getattr(sys, "frozen", False))


def build() -> Build:
    """Return what this installation was built from."""
    try:
        return msgspec.json.decode((files("godrive") / BUILD).read_bytes(), type=Build)
    except FileNotFoundError:
        return Build()


def versions() -> Versions:
    """Return the versions."""
    return Versions(
        godrive=__version__,
        commit=build().commit,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        openssl=ssl.OPENSSL_VERSION,
        platform=f"{sys.platform}-{platform.machine()}",
        executable=is_executable(),
    )


def licenses() -> Iterator[License]:
    """Yield every part of this installation: GoDrive, the packages that it needs, and the executable's libraries."""
    for each in sorted(_parts(), key=lambda part: part.name.lower()):
        texts = [text for file in each.files or [] if _LICENSE_FILE.match(file.name) for text in _text(each, str(file))]
        yield License(each.name, each.version, _license(each), texts)
    for path in sorted((Path(__file__).parent / "licenses").glob("*.txt")):
        name, _, version = path.stem.partition("_")
        yield License(name, version, "see below", [path.read_text(encoding="utf-8", errors="replace")])


def _parts() -> Iterator[Distribution]:
    if is_executable():  # it contains nothing else
        yield from distributions()
        return
    seen: set[str] = set()
    wanted = [f"{NAME}[nats,postgres,s3]"]
    while wanted:
        match = _REQUIREMENT.match(wanted.pop())
        assert match is not None  # noqa: S101 - pip has read it
        name, extras = re.sub(r"[-_.]+", "-", match[1]).lower(), {*(match[2] or "").split(","), ""}
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # an extra that is not installed, or a requirement of another system
            continue
        yield found
        for requirement in found.requires or []:
            extra = _EXTRA.search(requirement)
            if (extra[1] if extra else "") in extras:
                wanted.append(requirement)


def _license(part: Distribution) -> str:
    known = part.metadata
    if "License-Expression" in known:
        return str(known["License-Expression"])
    classified = [each.rpartition("::")[2].strip() for each in known.get_all("Classifier") or [] if "License" in each]
    said = str(known["License"]).partition("\n")[0] if "License" in known else ""
    return ", ".join(classified) or said or "see below"


def _text(part: Distribution, name: str) -> list[str]:
    try:
        return [Path(str(part.locate_file(name))).read_text(encoding="utf-8", errors="replace")]
    except FileNotFoundError:
        return []
