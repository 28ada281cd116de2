"""The command line: what an operator sees, and above all what when something is wrong."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from godrive import __version__, network
from godrive.cli import main
from godrive.commands.table import COMMANDS
from godrive.credentials import check_password
from tests.cases import each
from tests.drive_server import DriveServer, environment
from tests.drive_server import run as run_command
from tests.servers import Daemon, PostgresServer, answers, free_port

PASSWORD = "correct horse"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GODRIVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GODRIVE_AUTH_BCRYPT_COST", "4")

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def ann(run: Run) -> str:
    code, out, err = run("user", "add", "ann@example.org", stdin=PASSWORD + "\n")
    assert (code, err) == (0, "")
    match = re.search(r"the id (\S+)\.", out)
    assert match
    return match[1]


def users(run: Run) -> list[dict[str, Any]]:
    code, out, _ = run("user", "list", "--json")
    assert code == 0
    listed: list[dict[str, Any]] = json.loads(out)
    return listed


def spawn(*arguments: str | Path, folder: Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, cwd=folder, stdin=stdin, within=30, **env)


# In general


def test_version_is_said(run: Run) -> None:
    assert run("version") == (0, f"godrive {__version__}\n", "")


@each(
    "arguments",
    [(), ("swerve",), ("user",), ("user", "add"), ("serve", "--port", "x"), ("serve", "--only", "auth,http,x"),
     ("serve", "--only", ""), ("keys", "rotate", "--keep", "-1"), ("user", "set-quota", "a@b", "lots"),
     ("version", "x")],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_a_mistake(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: godrive")


def test_help_says_where_the_configuration_is_read_from(run: Run) -> None:
    _, out, _ = run("--help")
    for place in ("--config", "GODRIVE_CONFIG", "config.toml", "GODRIVE_<TABLE>_<KEY>"):
        assert place in out


ACTIONS = [
    *COMMANDS, "user add", "user list", "user disable", "user enable", "user delete", "user rename",
    "user set-password", "user set-quota", "user invite", "backup create", "backup list", "backup verify",
    "backup prune", "backup passphrase", "backup restore", "deadletters list", "deadletters replay",
    "deadletters drop", "keys create", "keys rotate", "catalog copy",
]  # fmt: skip


@each("command", ACTIONS)
def test_help_of_each_command_says_what_it_does_and_no_option_is_guessed(run: Run, command: str) -> None:
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert re.search(r"^\n[A-Z].*\.\n", out.split("options:")[0], re.MULTILINE | re.DOTALL), out
    assert run(*command.split(), "--hel")[0] == 2


def test_reader_who_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m godrive check-config --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@each("module", sorted({command.module for command in COMMANDS.values()}))
def test_a_module_registers_the_commands_that_the_table_says(module: str) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    import_module(f"godrive.commands.{module}").register(commands, argparse.ArgumentParser(add_help=False))
    assert set(commands.choices) == {name for name, command in COMMANDS.items() if command.module == module}
    assert not commands.choices.keys() - COMMANDS.keys()


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_needs_no_command_imports_none(option: str) -> None:
    script = """
import sys
from godrive.cli import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(" ".join(name for name in sys.modules if "." not in name or name.startswith("godrive.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, option], capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(done.stderr.split())
    assert "godrive.cli" in imported
    assert imported.isdisjoint({"asyncio", "msgspec", "structlog", "aiohttp", "godrive.config", "godrive.runtime"})
    assert {name for name in imported if name.startswith("godrive.commands.")} == {"godrive.commands.table"}


def test_version_is_an_option_too(run: Run) -> None:
    assert run("--version") == (0, f"godrive {__version__}\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "--version", "version --json", "check-config --json", "licenses --list"])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1(
    tmp_path: Path, command: str, unbuffered: str
) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m godrive {command} >/dev/full"],
        cwd=tmp_path,
        env=environment() | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "godrive: Standard output: No space left on device.\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.slow
def test_streams_may_be_closed(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -m godrive user list {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_variable_that_is_no_setting_is_one_line_and_no_failure(tmp_path: Path) -> None:
    done = spawn("check-config", folder=tmp_path, GODRIVE_SERVER_PROT="1", GODRIVE_NATS_SERVICE_HOST="10.0.0.1")
    assert done.returncode == 0
    assert done.stderr == (
        "godrive: warning: GODRIVE_SERVER_PROT is not a setting and is ignored; did you mean GODRIVE_SERVER_PORT?\n"
    )


# Configuration


def test_configuration_comes_from_the_flag_else_the_variable_else_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def port() -> int:
        flags = ["--config", "flag.toml"] if (tmp_path / "flag.toml").exists() else []
        _, out, _ = run("check-config", "--json", *flags)
        chosen: int = json.loads(out)["server"]["port"]
        return chosen

    assert port() == 8080
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    assert port() == 1
    (tmp_path / "other.toml").write_text("[server]\nport = 2\n")
    monkeypatch.setenv("GODRIVE_CONFIG", "other.toml")
    assert port() == 2
    (tmp_path / "flag.toml").write_text("[server]\nport = 3\n")
    assert port() == 3
    monkeypatch.setenv("GODRIVE_SERVER_PORT", "4")
    assert port() == 4


@pytest.mark.parametrize(
    "command",
    ["check-config", "serve --port 0", "user list", "user list --config /dev/null", "keys rotate", "sweep",
     "catalog copy --config /dev/null"],
)  # fmt: skip
@pytest.mark.slow
def test_folder_that_this_user_may_not_look_into_is_one_line_and_exit_code_2(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    # Root may look everywhere, unless it gives that up.
    run_as = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    program = [*run_as, sys.executable, "-m", "godrive", *command.split()]
    done = subprocess.run(
        ["sh", "-c", 'chmod 0 . && exec "$@"', "sh", *program],
        cwd=folder,
        env=environment() | {"GODRIVE_CATALOG_DSN": "postgresql://h/d"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "Permission denied" in done.stderr


def test_check_config_says_what_differs_and_shows_no_secret(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[nats]\nurl = "nats://u:hush@h"\n[log]\nlevel = "debug"\n')
    code, out, _ = run("check-config")
    assert code == 0
    assert "log.level = 'debug'\n" in out
    assert "nats.url = '***'\n" in out
    for arguments in ((), ("--json",)):
        assert "hush" not in run("check-config", *arguments)[1]


@pytest.mark.parametrize("command", ["check-config", "serve", "sweep", "user list", "keys rotate"])
def test_wrong_configuration_is_one_line_and_exit_code_2(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "config.toml").write_text("[server]\nprot = 1\n")
    assert run(*command.split()) == (
        2,
        "",
        "godrive: server.prot is not a setting (config.toml); did you mean port?\n",
    )


# Users


def test_password_is_the_first_line_as_any_editor_writes_it(run: Run) -> None:
    for number, stdin in enumerate((f"\ufeff{PASSWORD}\r\n", f"{PASSWORD}\r\nmore", PASSWORD)):
        assert run("user", "add", f"{number}@example.org", stdin=stdin)[0] == 0
    hashes = password_hashes(Path("data/godrive.db"))
    assert [check_password(PASSWORD, hashed) for hashed in hashes] == [True] * 3


def password_hashes(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute("SELECT password_hash FROM users")]


def test_user_who_is_added_is_listed_and_may_be_named_by_address_or_id(run: Run, ann: str) -> None:
    (listed,) = users(run)
    assert listed["id"] == ann
    assert (listed["email"], listed["state"], listed["quota_bytes"], listed["used_bytes"]) == (
        "ann@example.org", "active", None, 0
    )  # fmt: skip
    _, out, _ = run("user", "list")
    assert out.startswith("ann@example.org  active")
    for name in ("ANN@example.org", ann):
        assert run("user", "disable", name) == (0, "ann@example.org is disabled.\n", "")
    assert users(run)[0]["state"] == "disabled"
    assert run("user", "enable", ann)[0] == 0
    assert users(run)[0]["state"] == "active"


@pytest.mark.parametrize(
    ("size", "quota"), [("1000", 1000), ("10K", 10_240), ("5g", 5 * 2**30), ("2TiB", 2 * 2**40), ("none", None)]
)
def test_quota_is_set_in_any_unit(run: Run, ann: str, size: str, quota: int | None) -> None:
    assert run("user", "set-quota", ann, size)[0] == 0
    assert users(run)[0]["quota_bytes"] == quota


@each("size", ["", "-1", "0", "1.5G", "10X", "K", "9" * 30])
def test_quota_that_is_no_size_is_a_mistake(run: Run, size: str) -> None:
    code, _, err = run("user", "set-quota", "a@b", size)
    assert code == 2
    assert "is not a size" in err


@pytest.mark.parametrize("command", ["disable", "enable", "set-password"])
def test_user_who_is_unknown_is_one_line(run: Run, ann: str, command: str) -> None:
    assert run("user", command, "bob@example.org", stdin=PASSWORD) == (
        1, "", "godrive: No user has the e-mail address bob@example.org.\n"
    )  # fmt: skip
    code, _, err = run("user", command, "no-such-id", stdin=PASSWORD)
    assert (code, err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("typed", "code", "complaint"),
    [
        (("nonsense", PASSWORD), 2, "That is not an e-mail address."),
        (("bob@example.org", "short"), 2, "A password has 8 to 1024 characters."),
        (("bob@example.org", ""), 2, "A password has 8 to 1024 characters."),
        (("ann@example.org", PASSWORD), 1, "There is an account with that e-mail address."),
    ],
)
def test_user_who_cannot_be_added_is_one_line(
    run: Run, ann: str, typed: tuple[str, str], code: int, complaint: str
) -> None:
    email, password = typed
    assert run("user", "add", email, stdin=password + "\n") == (code, "", f"godrive: {complaint}\n")
    assert len(users(run)) == 1


def test_a_user_who_cannot_be_added_makes_no_drive(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for command, password in (
        ("user add nonsense", PASSWORD),
        ("user add bob@example.org", "short"),
        ("user add bob@example.org", ""),
        ("user invite --days 0", ""),
    ):
        assert run(*command.split(), "--data-dir", str(target), stdin=password + "\n")[0] == 2
        assert not target.exists(), command


def test_commands_on_a_folder_without_a_drive_make_none(run: Run, tmp_path: Path) -> None:
    target = str(tmp_path / "target")
    for command in (
        "user list",
        "user disable x@y",
        "user set-quota x@y 1",
        "sweep",
        "recount",
        "recount --check",
        "fsck",
        f"import {tmp_path} --user x@y",
        f"export {target} --user x@y",
    ):
        code, out, err = run(*command.split(), "--data-dir", "typo")
        assert (code, out) == (2, ""), command
        assert "There is no drive in typo" in err
    assert not (tmp_path / "typo").exists()
    assert not (tmp_path / "target").exists()


def test_an_address_that_may_come_later_is_no_mistake(run: Run) -> None:
    refused = "Cannot assign requested address. The network may not be up yet; otherwise correct server.host."
    assert run("serve", "--host", "192.0.2.1", "--port", "0") == (
        1,
        "",
        f"godrive: Cannot listen on 192.0.2.1: {refused}\n",
    )


def test_dead_letters_without_nats_say_so(run: Run) -> None:
    assert run("deadletters", "list") == (
        2,
        "",
        "godrive: Only bucket events that come through NATS become dead letters: nats.url is not set.\n",
    )


def test_invite_is_a_code_of_its_own_each_time(run: Run) -> None:
    code, first, err = run("user", "invite")
    assert code == 0
    assert "auth.signup is 'open'" in err
    assert run("user", "invite", "--days", "0.5")[1] != first
    assert len(first.strip()) >= 22


def test_user_commands_need_no_blob_store(run: Run, ann: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODRIVE_BLOBS_DRIVER", "s3")
    monkeypatch.setenv("GODRIVE_BLOBS_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert run("user", "disable", ann) == (0, "ann@example.org is disabled.\n", "")
    assert users(run)[0]["state"] == "disabled"


def test_invite_for_an_absurd_time_is_refused(run: Run) -> None:
    for days in ("0", "-1", "1e9", "nan"):
        assert run("user", "invite", "--days", days)[0] == 2


def test_users_are_kept_in_postgresql_by_the_same_commands(
    run: Run, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> None:
    monkeypatch.setenv("GODRIVE_CATALOG_DRIVER", "postgres")
    monkeypatch.setenv("GODRIVE_CATALOG_DSN", postgres_server.create_database())
    assert users(run) == []
    assert run("user", "add", "ann@example.org", "--quota", "1K", stdin=PASSWORD)[0] == 0
    assert run("user", "disable", "ann@example.org")[0] == 0
    (ann,) = users(run)
    assert (ann["state"], ann["quota_bytes"]) == ("disabled", 1024)


# Keys


def test_rotation_puts_a_new_key_first_and_keeps_as_many_as_asked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, _, err = run("keys", "rotate")
    assert code == 2
    assert "data/secret.key" in err
    (tmp_path / "data" / "secret.key").touch(mode=0o600)
    (tmp_path / "data" / "secret.key").write_text(f"first:{'00' * 32}\n")
    assert run("keys", "rotate")[0] == 0
    assert run("keys", "rotate")[0] == 0
    assert len((tmp_path / "data" / "secret.key").read_text().splitlines()) == 3
    assert "no more verify" in run("keys", "rotate", "--keep", "0")[1]
    assert len((tmp_path / "data" / "secret.key").read_text().splitlines()) == 1


def test_a_key_is_made_once(run: Run, tmp_path: Path) -> None:
    for arguments, path in ((), tmp_path / "data" / "secret.key"), (("--config", "shared.toml"), tmp_path / "shared"):
        (tmp_path / "shared.toml").write_text(f'[auth]\nsecret_file = "{tmp_path}/shared"\n')
        code, out, err = run("keys", "create", *arguments)
        assert (code, err) == (0, "")
        assert "signs" in out
        assert path.stat().st_mode & 0o777 == 0o600
        before = path.read_text()
        code, out, err = run("keys", "create", *arguments)
        assert (code, out) == (2, "")
        assert "godrive keys rotate" in err
        assert path.read_text() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user: run the suite as root")
@pytest.mark.parametrize(("made", "first"), [("data", ("user", "invite")), (".", ("keys", "create"))])
@pytest.mark.slow
def test_what_root_makes_in_the_folder_of_a_service_belongs_to_the_service(
    made: str, first: tuple[str, ...], public_folder: Path
) -> None:
    home = public_folder / "home"
    (home / "data").mkdir(parents=True)
    if made == ".":
        (home / "data").rmdir()
    for path in (home, home / made):
        os.chown(path, 1234, 2345)
    for command in (first, ("user", "invite"), ("keys", "rotate"), ("sweep",), ("doctor",)):
        done = spawn(*command, "--data-dir", str(home / "data"), folder=home)
        assert done.returncode == 0, done.stdout + done.stderr
    owners = {path: (path.stat().st_uid, path.stat().st_gid) for path in home.rglob("*")}
    assert set(owners.values()) == {(1234, 2345)}, owners
    assert {"godrive.db", "secret.key", "LAYOUT", "blobs"} <= {path.name for path in owners}


# Sweep


@pytest.mark.slow
def test_recount_corrects_a_usage_and_an_index_that_differ_from_the_files(tmp_path: Path) -> None:
    made = spawn("user", "add", "ann@example.org", folder=tmp_path, stdin="correct horse\n")
    assert made.returncode == 0, made.stderr
    with closing(sqlite3.connect(tmp_path / "data" / "godrive.db")) as catalog, catalog:
        catalog.execute("INSERT INTO names (number, entry_id, created_at, text) VALUES (7, 'gone', 1, 'gone')")
    astray = spawn("recount", "--check", "--json", folder=tmp_path)
    assert (astray.returncode, json.loads(astray.stdout)["names"]) == (1, 1)
    assert "the index by 1 name;" in spawn("recount", folder=tmp_path).stdout
    right = spawn("recount", "--check", folder=tmp_path)
    assert (right.returncode, "equals their files" in right.stdout) == (0, True)
    with closing(sqlite3.connect(tmp_path / "data" / "godrive.db")) as catalog, catalog:
        catalog.execute("UPDATE users SET live_bytes = 7, entry_count = 2")
    wrong = spawn("recount", "--check", "--json", folder=tmp_path)
    assert (wrong.returncode, json.loads(wrong.stdout)) == (1, {"bytes": 7, "rows": 2, "corrected": 0, "names": 0})
    done = spawn("recount", folder=tmp_path)
    assert (done.returncode, "7 bytes and 2 rows, the index by 0 names; corrected 1 user.\n" in done.stdout) == (
        0,
        True,
    )
    assert spawn("recount", "--check", folder=tmp_path).returncode == 0


def test_sweep_of_an_empty_drive_says_so(tmp_path: Path) -> None:
    assert spawn("user", "invite", folder=tmp_path).returncode == 0  # makes the drive
    done = spawn("sweep", folder=tmp_path)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "purged"], "")
    counts = json.loads(spawn("sweep", "--json", folder=tmp_path).stdout)
    assert counts["failed"] == 0


# Serve


@pytest.mark.slow
def test_store_that_is_down_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    env = {
        "GODRIVE_BLOBS_DRIVER": "s3",
        "GODRIVE_BLOBS_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "GODRIVE_BLOBS_S3_ACCESS_KEY": "a",
        "GODRIVE_BLOBS_S3_SECRET_KEY": "s",
    }
    for command in ("serve", "sweep"):
        done = spawn(command, folder=tmp_path, **env)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith("godrive: ")


@pytest.mark.slow
def test_package_that_a_configuration_needs_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "aiobotocore").mkdir()
    (tmp_path / "aiobotocore" / "__init__.py").write_text("raise ModuleNotFoundError(name='aiobotocore')")
    path = f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "godrive", "serve"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": path, "GODRIVE_BLOBS_DRIVER": "s3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2, "godrive: aiobotocore is not installed. pip install 'godrive-server[s3]'\n"
    )  # fmt: skip


@pytest.mark.slow
def test_only_without_nats_is_a_mistake(tmp_path: Path) -> None:
    done = spawn("serve", "--only", "auth,metadata,storage", folder=tmp_path)
    assert done.returncode == 2
    assert "nats.url" in done.stderr


@pytest.mark.slow
def test_tree_that_gives_up_is_one_line_after_the_log_and_exit_code_1(tmp_path: Path) -> None:
    script = """
import sys
from godrive.actors.ingest import IngestActor
from godrive.cli import main
from godrive.messages.ingest import Reconcile

async def bug(actor, ask):
    raise ZeroDivisionError("a bug")

IngestActor.handlers[Reconcile] = bug
sys.exit(main(["serve", "--port", "0"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment() | {"GODRIVE_INGEST_RECONCILE_EVERY": "0.01"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("godrive: Gave up: ingest ")
    assert done.stderr.count("\n") == 1
    crashes = [json.loads(line) for line in done.stdout.splitlines() if "child_crashed" in line]
    assert len(crashes) >= 5
    assert (crashes[0]["child"], crashes[0]["doing"]) == ("ingest", "Reconcile")
    assert "ZeroDivisionError: a bug" in crashes[0]["exception"]


def daemon(folder: Path, *arguments: str, **env: str) -> Daemon:
    command: list[str | Path] = [sys.executable, "-m", "godrive", "serve", "--data-dir", folder / "data", *arguments]
    return Daemon(command, folder / "log", env=environment() | env)


@pytest.mark.slow
def test_port_0_is_one_that_is_free_and_is_said(tmp_path: Path) -> None:
    server, log = daemon(tmp_path, "--port", "0"), tmp_path / "log"
    try:
        server.wait_until(lambda: "listening" in log.read_text())
        line = json.loads(log.read_text().splitlines()[-1])
        (url,) = line["urls"]
        assert line["public_url"] == url
        assert answers(int(url.rpartition(":")[2]))
    finally:
        server.stop()
    assert server.status == 0


@pytest.mark.slow
def test_human_is_told_where_it_listens(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    server = daemon(tmp_path, "--port", str(port), GODRIVE_LOG_FORMAT="human")
    try:
        server.wait_until(lambda: f"listens on http://127.0.0.1:{port}\n" in log.read_text())
    finally:
        server.stop(signal.SIGINT)
    assert server.status == 0
    first, second, *_, last = log.read_text().splitlines()
    assert first == f"GoDrive {__version__} listens on http://127.0.0.1:{port}"
    assert second == f"The URLs that it hands out begin with http://127.0.0.1:{port}"
    assert "stopped" in last


def test_a_server_without_a_public_url_on_every_address_says_what_its_urls_are_good_for(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    server = daemon(tmp_path, "--port", str(port), "--host", "0.0.0.0")
    try:
        server.wait_until(lambda: "public_url_not_set" in log.read_text())
    finally:
        server.stop()
    (warning,) = [json.loads(line) for line in log.read_text().splitlines() if "public_url_not_set" in line]
    assert warning["urls_begin_with"] == f"http://127.0.0.1:{port}"
    assert "GODRIVE_SERVER_PUBLIC_URL" in warning["hint"]


@each("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost", "unix:/run/godrive"])
def test_only_this_machine_reaches_a_loopback_address(host: str) -> None:
    assert network.binds_loopback(host)


@each("host", ["0.0.0.0", "*", "::", "192.0.2.1", "2001:db8::1", "drive.example", "localhost.example"])
def test_other_machines_reach_any_other_address(host: str) -> None:
    assert not network.binds_loopback(host)


@pytest.mark.slow
def test_log_is_json_and_carries_the_request_id(tmp_path: Path) -> None:
    server = DriveServer(tmp_path / "drive")
    with server:
        request = urllib.request.Request(f"{server.url}/health", headers={"X-Request-Id": "mine-1"})
        urllib.request.urlopen(request, timeout=10).close()
    events = [json.loads(line) for line in server.log.splitlines()]
    assert {"timestamp", "level", "event"} <= set.intersection(*(set(event) for event in events))
    (mine,) = [event for event in events if event.get("request_id") == "mine-1"]
    assert (mine["event"], mine["path"], mine["status"]) == ("request", "/health", 200)


@pytest.mark.slow
def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    server = DriveServer(tmp_path / "drive")
    server.start()
    assert server.process is not None
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /v1/signup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            server.process.wait_until(lambda: answers(server.port))
            server.process.send(signal.SIGTERM)
            server.process.wait_until(lambda: "stopping" in server.log)

            def has_ended() -> bool:  # one that comes with the first is no second one
                assert server.process is not None
                server.process.send(signal.SIGTERM)
                return server.process.status is not None

            server.process.wait_until(has_ended)
            assert server.process.wait(5.0) == 128 + signal.SIGTERM
    finally:
        server.close()


@pytest.mark.slow
def test_a_running_server_turns_away_a_user_disabled_by_command(tmp_path: Path) -> None:
    def call(path: str, token: str | None = None, body: dict[str, str] | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(server.url + path, json.dumps(body).encode() if body else None, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    server = DriveServer(tmp_path / "drive")
    with server:
        who = {"email": "ann@example.org", "password": PASSWORD}
        call("/v1/signup", body=who)
        token = call("/v1/login", body=who)["token"]
        call("/v1/me", token)
        done = spawn("user", "disable", "ann@example.org", "--config", server.folder / "config.toml", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        while call("/v1/me", token) != 401:  # a session is cached for a second at most: tests/actors/test_auth.py
            pass
        assert call("/health")["ok"]


def test_a_catalog_moves_to_postgresql_by_one_command(
    run: Run, ann: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GODRIVE_CATALOG_DSN", postgres_server.create_database())
    code, out, err = run("catalog", "copy", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["users"] == 1
    monkeypatch.setenv("GODRIVE_CATALOG_DRIVER", "postgres")
    assert ann in run("user", "list", "--json")[1]


def test_a_catalog_is_copied_only_into_an_empty_database(
    run: Run, ann: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GODRIVE_CATALOG_DSN", postgres_server.create_database())
    assert run("catalog", "copy")[0] == 0
    code, out, err = run("catalog", "copy")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "users already" in err


def test_a_catalog_to_copy_and_a_place_to_copy_it_to_must_be_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("catalog", "copy")
    assert (code, err.count("\n")) == (2, 1)
    assert "catalog.dsn" in err
    monkeypatch.setenv("GODRIVE_CATALOG_DSN", "postgresql://nobody@127.0.0.1:9/none")
    code, _, err = run("catalog", "copy")
    assert (code, err.count("\n")) == (2, 1)
    assert "no SQLite catalog" in err
