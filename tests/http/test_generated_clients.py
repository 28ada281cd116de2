"""Clients that generators make of openapi.json work: they compile under strict settings and use a real server."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.http.client import Person, Site

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = Path(__file__).resolve().parents[1] / "clients"


async def run(*command: str, cwd: Path) -> str:
    done = await anyio.run_process(command, cwd=cwd, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


async def write_document(stranger: Person, folder: Path) -> None:
    (folder / "openapi.json").write_bytes((await stranger("GET", "/openapi.json")).content)


@pytest.mark.slow
async def test_a_client_in_python(stranger: Person, site: Site, tmp_path: Path) -> None:
    await write_document(stranger, tmp_path)
    (tmp_path / "config.yaml").write_text(
        "post_hooks: []\ncontent_type_overrides: {application/zip: application/octet-stream}\n"
    )
    command = "generate --path openapi.json --meta none --output-path drive --config config.yaml --fail-on-warning"
    await run(sys.executable, "-m", "openapi_python_client", *command.split(), cwd=tmp_path)
    shutil.copy(CLIENTS / "usage.py", tmp_path)
    assert await run(sys.executable, "usage.py", site.url, cwd=tmp_path) == "done\n"


def install(folder: Path) -> None:
    """Have the npm packages of the lock file in *folder*.  Without npm or its registry skip, which CI must not."""
    reason = "node and npm are missing: apt-get install nodejs npm"
    if shutil.which("node") and shutil.which("npm"):
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENTS / name, folder)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
        if done.returncode == 0:
            return
        reason = f"npm cannot install the packages: {done.stderr.strip()[-500:]}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def workshop(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with our files and the npm packages, which are installed once for each lock file."""
    lock = hashlib.sha256((CLIENTS / "package-lock.json").read_bytes()).hexdigest()[:16]
    packages = request.config.cache.mkdir(f"npm-{lock}")
    with (packages / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (packages / "complete").exists():
            install(packages)
            (packages / "complete").touch()
    for source in CLIENTS.iterdir():
        if source.is_file():
            shutil.copy(source, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    return tmp_path


@pytest.mark.slow
async def test_a_client_in_typescript(stranger: Person, site: Site, workshop: Path) -> None:
    await write_document(stranger, workshop)
    await run("node_modules/.bin/openapi-typescript", "openapi.json", "--output", "schema.ts", cwd=workshop)
    await run("node_modules/.bin/tsc", "--project", "tsconfig.json", cwd=workshop)
    assert await run("node", "out/usage.mjs", site.url, cwd=workshop) == "done\n"


async def test_the_page_of_the_documentation_sends_a_put(ann: Person, workshop: Path) -> None:
    file = workshop / "notes.txt"
    file.write_bytes(b"Hello, drive.\n")
    body = {"filename": "invoice\u202efdp.exe", "size_bytes": file.stat().st_size, "mime": "text/plain"}
    intent = await ann("POST", "/v1/files/upload-intent", body)
    shown = await run("node", "page.mjs", ann.url, intent.json["upload_url"], str(file), cwd=workshop)
    assert shown.startswith("201 ")
    assert "invoice\\u202efdp.exe" in shown
    assert "\u202e" not in shown
    (stored,) = (await ann("GET", "/v1/files")).json["files"]
    assert (stored["size_bytes"], stored["mime"]) == (14, "text/plain")
