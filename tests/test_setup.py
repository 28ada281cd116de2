"""``godrive setup``."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from godrive import cli
from godrive.commands import setup
from godrive.configfile import load
from tests.conftest import require_program


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "config.toml"


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Give the command *text* on standard input, which is no terminal."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Iterator[str]:
    """Answer at a terminal; the answers that were not asked for are left."""
    left = iter(answers)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: next(left))
    monkeypatch.setattr("getpass.getpass", lambda _question: "correct horse")
    return left


def test_without_a_terminal_the_options_answer_and_the_user_can_log_in(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, "correct horse\n")
    options = [
        "--data-dir",
        str(tmp_path / "files"),
        "--listen",
        "*:9000",
        "--public-url",
        "https://drive.example.org/",
    ]
    assert cli.main(["setup", "--config", str(config), *options, "--email", "ann@example.org"]) == 0
    found = load(config)
    assert (found.server.data_dir, found.server.host, found.server.port) == (str(tmp_path / "files"), "*", 9000)
    assert (found.server.public_url, found.auth.signup) == ("https://drive.example.org", "closed")
    said = capsys.readouterr().out
    assert "ann@example.org has the id" in said
    assert f"godrive serve --config {config}" in said
    assert cli.main(["user", "list", "--config", str(config)]) == 0
    assert "ann@example.org" in capsys.readouterr().out


def test_a_drive_without_a_user_says_how_to_add_one(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, "")
    assert cli.main(["setup", "--config", str(config)]) == 0
    assert f"No user was added. Add one with: godrive user add EMAIL --config {config}\n" in capsys.readouterr().out


def test_a_wrong_answer_is_asked_for_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / 'a "folder" é')
    answers = (folder, "nowhere", "[::1]:8081", "ftp://x", "", "everybody", "invite", "bob@example.org")
    left = answering(monkeypatch, *answers)
    assert cli.main(["setup", "--config", str(config)]) == 0
    assert list(left) == []
    found = load(config)
    assert (found.server.data_dir, found.server.host, found.server.port) == (folder, "::1", 8081)
    assert (found.server.base_url, found.auth.signup) == ("http://[::1]:8081", "invite")
    assert tomllib.loads(config.read_text())["server"]["public_url"] == ""
    assert capsys.readouterr().out.count("That does not do") == 3


def test_again_it_keeps_the_file_before_and_offers_its_answers(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["setup", "--config", str(config), "--no-user"]
    given(monkeypatch, "")
    assert cli.main([*options, "--listen", "127.0.0.1:9001"]) == 0
    before = config.read_text()
    assert cli.main([*options, "--signup", "open"]) == 0
    assert (load(config).server.port, load(config).auth.signup) == (9001, "open")
    assert config.with_name("config.toml.before").read_text() == before
    config.write_text("[server]\nkeepalive_timeout = 9.0\n")
    capsys.readouterr()
    assert cli.main(options) == 2
    assert "other settings" in capsys.readouterr().err
    assert config.read_text() == "[server]\nkeepalive_timeout = 9.0\n"


def test_a_mistake_writes_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "")
    for options in (["--listen", "127.0.0.1"], ["--listen", "a b:1"], ["--listen", "unix:relative"]):
        assert cli.main(["setup", "--config", str(config), "--no-user", *options]) == 2
    assert not config.exists()
    assert not config.with_name("config.toml.new").exists()


def test_a_full_disk_is_no_mistake(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    given(monkeypatch, "")
    monkeypatch.setattr(Path, "write_text", write)
    assert cli.main(["setup", "--config", str(config), "--no-user"]) == 1


def test_a_unit_that_has_the_configuration_is_what_starts_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unit, other = tmp_path / "godrive.service", config.with_name("other.toml")
    unit.write_text(f"[Service]\nExecStart=/opt/godrive/godrive serve --config {config}\n")
    monkeypatch.setattr(setup, "PACKAGED_UNIT", unit)
    monkeypatch.setattr(setup, "UNIT", tmp_path / "absent")
    given(monkeypatch, "")
    folder = str(tmp_path / "data")
    assert cli.main(["setup", "--config", str(config), "--no-user", "--data-dir", folder]) == 0
    assert "Start it with: systemctl restart godrive\n" in capsys.readouterr().out
    assert cli.main(["setup", "--config", str(other), "--no-user", "--data-dir", folder]) == 0
    assert f"Start it with: godrive serve --config {other}\n" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root")
def test_the_unit_names_this_program_and_the_folder(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = require_program("systemd-analyze", "systemd")
    unit = tmp_path / "godrive.service"
    monkeypatch.setattr(setup, "UNIT", unit)
    monkeypatch.setattr(setup, "SERVICE_USER", "root")
    monkeypatch.setattr(setup, "_HIDDEN", ())
    given(monkeypatch, "")
    folder = tmp_path / "my files 100%"
    assert cli.main(["setup", "--config", str(config), "--no-user", "--systemd", "--data-dir", str(folder)]) == 0
    assert "systemctl enable --now godrive" in capsys.readouterr().out
    assert "Documentation=" not in unit.read_text()
    text = unit.read_text()
    assert f'ReadWritePaths="{folder}"'.replace("%", "%%") in text
    assert f"-m godrive serve --config {config}" in text
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "godrive.service" not in done.stderr, done.stderr
    done = subprocess.run(
        [program, "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root")
@pytest.mark.parametrize(
    ("closed", "said"), [("etc", "cannot run"), ("files", "cannot write to"), ("", "A service cannot see")]
)
def test_no_unit_is_written_for_what_the_service_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed: str, said: str
) -> None:
    """As in the home of root, of which other users see nothing."""
    unit = tmp_path / "godrive.service"
    monkeypatch.setattr(setup, "UNIT", unit)
    monkeypatch.setattr(setup, "SERVICE_USER", "nobody")
    monkeypatch.setattr(setup, "_make_user", lambda: None)
    monkeypatch.setattr("shutil.chown", lambda *_: None)
    given(monkeypatch, "")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for folder in ("etc", "files"):
            (place / folder).mkdir(mode=0o700 if folder == closed else 0o777)
        if closed:
            monkeypatch.setattr(setup, "_HIDDEN", ())
            monkeypatch.setattr(sys, "executable", "/bin/true" if closed == "files" else "/bin/cat")
        options = ["--config", str(place / "etc" / "config.toml"), "--data-dir", str(place / "files")]
        assert cli.main(["setup", *options, "--no-user", "--systemd"]) == 2
    assert said in capsys.readouterr().err
    assert not unit.exists()
