"""docs/api.md: its commands work, and its tables are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest

from godrive.errors import STATUS
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


async def test_the_commands_of_the_page_work(site: Site, ann: Person, tmp_path: Path) -> None:
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install {program}")
    await ann("DELETE", "/v1/me", {"password": "correct horse"})
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    script = script.replace("http://127.0.0.1:8080", site.url).replace("curl -s", "curl -s --fail-with-body")
    with anyio.fail_after(60):
        done = await anyio.run_process(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, stderr=subprocess.STDOUT, check=False
        )
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    assert "Hello, drive." in shown
    assert '"name":"letter.txt"' in shown
    assert "problem" not in shown


def test_every_code_is_in_the_table_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE)
    assert {code: int(status) for code, status in rows} == STATUS
    assert [int(status) for _, status in rows] == sorted(int(status) for _, status in rows)
