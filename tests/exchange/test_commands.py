"""What ``godrive import`` and ``godrive export`` refuse: one line, and nothing is changed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from godrive.cli import main

ADA = "ada@example.com"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder with a drive: exit code and all output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GODRIVE_AUTH_BCRYPT_COST", "4")
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out + err

    assert run("user", "add", ADA)[0] == 0
    return run


def test_mistakes_are_one_line_and_change_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "data" / "inner").mkdir()
    (tmp_path / "source" / "one").write_text("1")
    (tmp_path / "users.json").write_text("{}")
    for arguments, text in (
        (("import", "source"), "Name the user with --user"),
        (("import", "absent", "--user", ADA), "is not a folder"),
        (("import", "source/one", "--user", ADA), "is not a folder"),
        (("import", "data", "--user", ADA), "is the folder of a drive"),
        (("import", "data/inner", "--user", ADA), "is the folder of a drive"),
        (("import", "source", "users.json"), "import filebrowser USERS.json"),
        (("import", "filebrowser", "users.json"), "is not what File Browser exports"),
        (("import", "source", "--user", ADA, "--data-dir", "elsewhere"), "There is no drive"),
        (("export", "data/out", "--user", ADA), "is the folder of a drive"),
        (("export", "out", "--user", ADA, "--data-dir", "elsewhere"), "There is no drive"),
    ):
        code, told = run(*arguments)
        assert (code, text in told, told.count("\n")) == (2, True, 1), told
    assert not (tmp_path / "elsewhere").exists()
