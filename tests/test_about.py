"""``godrive version`` and ``godrive licenses``."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import pytest

from godrive import __version__, about, cli


def test_the_version_names_what_matters_most(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"godrive {__version__}\n"
    assert cli.main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sqlite"] == sqlite3.sqlite_version
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["openssl"].startswith("OpenSSL ")
    assert (found["godrive"], found["commit"], found["executable"]) == (__version__, None, False)
    done = subprocess.run([sys.executable, "-m", "godrive", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"godrive {__version__}\n"


def test_every_package_that_is_needed_has_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {part.name: part for part in about.licenses()}
    assert {"aiohttp", "bcrypt", "msgspec", "anyio", about.NAME} <= parts.keys()
    assert "hypothesis" not in parts
    assert {name for name, part in parts.items() if part.license == "see below" and not part.texts} == set()
    assert any("Permission is hereby granted" in text for text in parts[about.NAME].texts)
    assert cli.main(["licenses", "--list"]) == 0
    assert f"{about.NAME} {__version__}: MIT" in capsys.readouterr().out.splitlines()
    assert cli.main(["licenses"]) == 0
    assert "Permission is hereby granted" in capsys.readouterr().out
