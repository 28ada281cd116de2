"""What the tests have of npm: the packages of ``tests/clients``, installed once for each state of the lock file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLIENTS = Path(__file__).resolve().parent / "clients"
UPPY_5 = "uppy-5"
"""A folder beside ``node_modules`` that has its own, with what cannot share a folder with the other packages."""


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """The folder ``node_modules``.  Without node, npm or its registry skip, which CI must not."""
    lock = hashlib.sha256((CLIENTS / "package-lock.json").read_bytes()).hexdigest()[:16]
    packages = pytestconfig.cache.mkdir(f"npm-{lock}")
    with (packages / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (packages / "complete").exists():
            _install(packages)
            (packages / "complete").touch()
    return packages / "node_modules"


@pytest.fixture
def workshop(tmp_path: Path, node_modules: Path) -> Path:
    """A folder with our files of ``tests/clients`` and the packages."""
    return furnish(tmp_path, node_modules)


def furnish(folder: Path, node_modules: Path) -> Path:
    """Lay our files of ``tests/clients`` and the packages in *folder*."""
    for source in CLIENTS.iterdir():
        if source.is_file():
            shutil.copy(source, folder)
    (folder / "node_modules").symlink_to(node_modules)
    return folder


def _install(folder: Path) -> None:
    reason = "node and npm are missing: apt-get install nodejs npm"
    if shutil.which("node") and shutil.which("npm"):
        (folder / UPPY_5).mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json", f"{UPPY_5}/package.json"):
            shutil.copy(CLIENTS / name, folder / name)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
        if done.returncode == 0:
            return
        reason = f"npm cannot install the packages: {done.stderr.strip()[-500:]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
