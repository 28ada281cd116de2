"""The documentation is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.cases import each
from tests.conftest import require_program
from tests.drive_server import REPOSITORY, DriveServer

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])

CHANGES = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z|expires=\d+|key=\w+|127\.0\.0\.1:\d+")
"""What differs from run to run: ids, instants, the port, and what depends on them."""


def sessions(text: str) -> list[list[tuple[str, list[str]]]]:
    """The terminal sessions of a document: commands, each with the lines that it printed."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        steps: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        found.append(steps)
    return found


def test_the_session_of_the_readme_happens_as_it_is_shown(server: DriveServer, tmp_path: Path) -> None:
    require_program("curl", "curl")
    (start, greeting), *rest = sessions((REPOSITORY / "README.md").read_text())[0]
    assert rest == []
    assert (REPOSITORY / start).exists()
    assert greeting[0].startswith("GoDrive ")
    steps = sessions((REPOSITORY / "README.md").read_text())[1]
    separator = "---8<---"
    script = "\n".join(f"{command}\necho; echo '{separator}'" for command, _ in steps)
    script = script.replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run(["sh", "-e"], input=script, cwd=tmp_path, capture_output=True, text=True, check=True)
    outputs = [output.split() for output in done.stdout.split(separator)]
    for (command, shown), printed in zip(steps, outputs, strict=False):
        for expected, actual in zip(shown, printed, strict=True):
            wanted, got = CHANGES.sub("*", expected), CHANGES.sub("*", actual)
            assert got == wanted or (wanted.endswith("...") and got.startswith(wanted[:-3])), command


@each("document", DOCUMENTS)
def test_what_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
