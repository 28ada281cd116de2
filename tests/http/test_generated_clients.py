"""Clients that generators make of openapi.json work: they compile under strict settings and use a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.http.client import Person, Site

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

CLIENTS = Path(__file__).resolve().parents[1] / "clients"


async def run(*command: str, cwd: Path) -> str:
    done = await anyio.run_process(command, cwd=cwd, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


async def write_document(stranger: Person, folder: Path) -> None:
    (folder / "openapi.json").write_bytes((await stranger("GET", "/openapi.json")).content)


async def test_a_client_in_python(stranger: Person, site: Site, tmp_path: Path) -> None:
    await write_document(stranger, tmp_path)
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    command = "generate --path openapi.json --meta none --output-path drive --config config.yaml --fail-on-warning"
    await run(sys.executable, "-m", "openapi_python_client", *command.split(), cwd=tmp_path)
    shutil.copy(CLIENTS / "usage.py", tmp_path)
    assert await run(sys.executable, "usage.py", site.url, cwd=tmp_path) == "done\n"


async def test_a_client_in_typescript(stranger: Person, site: Site, tmp_path: Path) -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            reason = f"{program} is missing: apt-get install nodejs npm"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    await write_document(stranger, tmp_path)
    for name in ("package.json", "package-lock.json", "tsconfig.json", "usage.mts"):
        shutil.copy(CLIENTS / name, tmp_path)
    await run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=tmp_path)
    await run("npx", "openapi-typescript", "openapi.json", "--output", "schema.d.ts", cwd=tmp_path)
    await run("npx", "tsc", "--project", "tsconfig.json", cwd=tmp_path)
    assert await run("node", "out/usage.mjs", site.url, cwd=tmp_path) == "done\n"
