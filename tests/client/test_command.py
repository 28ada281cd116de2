"""The commands of a client, against a real server: what they print, what they copy, how they fail."""

from __future__ import annotations

import hashlib
import http.client
import inspect
import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from godrive import cli
from godrive.client import uploads
from godrive.client.logins import LogInFile
from godrive.client.transfers import Progress, modified_at
from tests.cases import each
from tests.drive_server import DriveServer
from tests.noise import noise

GODRIVE = [sys.executable, "-m", "godrive"]
PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
PASSWORD = "correct horse"
LARGE = noise(3_000_000)
LARGER = noise(9_000_000)
"""More than one request carries."""

AFTER = {"ls": [], "get": ["local"], "put": ["/"], "rm": [], "mv": ["/x"], "cp": ["/x"]}
"""What follows the name of an entry, for each command that takes one."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[DriveServer]:
    with DriveServer() as server:
        yield server


@pytest.fixture
def email(server: DriveServer, request: pytest.FixtureRequest) -> str:
    """A new account."""
    address = f"{abs(hash(request.node.name))}@example.org"
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"email": address, "password": PASSWORD})
    connection.request("POST", "/v1/signup", body, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 201
    connection.close()
    return address


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``godrive`` with a home of its own.  Returns the exit code and what it wrote."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("GODRIVE_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = cli.main(arguments)
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


@pytest.fixture
def run(bare: Run, server: DriveServer, email: str) -> Run:
    """The same, logged in."""
    code, out, err = bare("login", email, "--server", server.url, stdin=f"{PASSWORD}\n")
    assert (code, err) == (0, ""), err
    assert out == f"Logged in on {server.url} as {email}.\n"
    return bare


def listed(run: Run, path: str = "/") -> list[str]:
    """The names that ``ls`` prints."""
    code, out, err = run("ls", path)
    assert code == 0, err
    return [line[34:] for line in out.splitlines()]


def entries(run: Run, path: str) -> dict[str, dict[str, Any]]:
    """The entries that ``ls --json`` prints, by name."""
    found: list[dict[str, Any]] = [json.loads(line) for line in run("ls", path, "--json")[1].splitlines()]
    return {str(entry["name"]): entry for entry in found}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; ``None`` for a folder."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def test_a_folder_goes_to_the_server_and_comes_back_the_same(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    (source / "2026" / "empty").mkdir(parents=True)
    (source / "2026" / "été #1 %41.jpg").write_bytes(LARGE)
    (source / "none").write_bytes(b"")
    os.utime(source / "none", (1_000_000_000, 1_000_000_000))
    code, out, err = run("put", "photos", "/backup/")
    assert (code, err) == (0, ""), err
    assert sorted(line.split(maxsplit=1)[1] for line in out.splitlines()) == [
        "backup/photos/2026/été #1 %41.jpg", "backup/photos/none",
    ]  # fmt: skip
    assert listed(run, "/backup/photos") == ["2026/", "none"]
    code, out, err = run("get", "/backup/photos", "copy")
    assert (code, err) == (0, ""), err
    assert tree(tmp_path / "copy") == tree(source)
    assert (tmp_path / "copy" / "none").stat().st_mtime == 1_000_000_000


def test_files_whose_names_differ_only_in_their_ends_arrive_side_by_side(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "lectures"
    source.mkdir()
    for number in range(6):  # a name of a draft has no room for all of such a name
        (source / f"{'Лекция ' * 17} {number}.mp3").write_bytes(noise(3_000_000))
    for number in range(2):
        (source / f"{'Лекция ' * 17} {number}.mp4").write_bytes(noise(9_000_000))
    assert run("put", "lectures", "/")[0] == 0
    code, _, err = run("get", "/lectures", "copy")
    assert (code, err) == (0, "")
    assert tree(tmp_path / "copy") == tree(source)


def test_a_tree_may_have_more_levels_than_the_interpreter_has_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, limit = 200, sys.getrecursionlimit()
    monkeypatch.chdir(tmp_path)
    Path("d/" * levels).mkdir(parents=True)
    Path("d/" * levels + "leaf").touch()
    sys.setrecursionlimit(len(inspect.stack()) + levels)
    try:
        found = list(uploads._walk(Path("d"), "/d", cast("Progress", None)))
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == levels + 1
    assert found[-1] == (Path("d/" * levels + "leaf"), "/" + "d/" * levels + "leaf")


def test_a_path_that_no_entry_can_have_is_a_mistake_in_the_arguments(run: Run) -> None:
    for command in (("ls", "/a/../b"), ("find", "a", "--in", "a/.."), ("get", "/", "-")):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_find_takes_several_words(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sea and foam").write_bytes(b"1")
    (tmp_path / "sea").write_bytes(b"1")
    assert run("put", "sea and foam", "sea", "/")[0] == 0
    code, out, err = run("find", "foam", "sea")
    assert (code, err, [line[34:] for line in out.splitlines()]) == (0, "", ["/sea and foam"])


def test_a_target_that_ends_in_a_slash_is_a_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    assert run("put", "file", "/top/")[0] == 0
    for _ in range(2):
        code, _, err = run("get", "/top", "/top/file", "new/copy/")
        assert (code, err) == (0, "")
        assert tree(tmp_path / "new") == {"copy": None, "copy/top": None, "copy/top/file": b"1", "copy/file": b"1"}
    for command in ("mv", "cp"):
        assert run(command, "/top/file", "/none/") == (1, "", "godrive: /top/file: There is no folder /none/.\n")
    assert run("get", "/top", "file/") == (1, "", "godrive: file: File exists\n")
    assert (listed(run), listed(run, "/top")) == (["top/"], ["file"])


def test_a_file_is_put_under_a_name_or_into_a_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "b.txt").write_bytes(b"b")
    for arguments in (["a.txt", "/"], ["a.txt", "/new.txt"], ["a.txt", "b.txt", "/dir"], ["b.txt", "/dir"]):
        code, _, err = run("put", *arguments)
        assert (code, err) == (0, ""), arguments
    assert listed(run) == ["a.txt", "dir/", "new.txt"]
    assert listed(run, "dir") == ["a.txt", "b.txt"]
    (tmp_path / "a.txt").write_bytes(b"other")
    assert run("put", "a.txt", "/new.txt")[0] == 0
    assert run("get", "/new.txt", "back")[0] == 0
    assert (tmp_path / "back").read_bytes() == b"other"
    (tmp_path / "a.txt").write_bytes(b"different")
    (tmp_path / "large").write_bytes(LARGER)
    for name in ("a.txt", "large"):
        code, _, err = run("put", "--on-conflict", "fail", name, "/new.txt")
        assert code == 1
        assert err == f"godrive: {name}: There is an entry named 'new.txt' already.\n"
    code, out, _ = run("put", "--on-conflict", "rename", "large", "/new.txt")
    assert code == 0
    assert out == f"{len(LARGER):>14}  new (1).txt\n"


def test_what_is_there_already_is_skipped(run: Run, tmp_path: Path) -> None:
    """Same size and time; or same size and digest, and then the other side gets the time."""
    source, copy = tmp_path / "photos", tmp_path / "copy"
    (source / "sub").mkdir(parents=True)
    (source / "large").write_bytes(LARGER)
    (source / "sub" / "small").write_bytes(b"small")
    os.utime(source / "sub" / "small", ns=(1_000_000_001, 1_000_000_001))  # finer than a server keeps
    assert len(run("put", "photos", "/")[1].splitlines()) == 2
    first = entries(run, "/photos")
    assert run("put", "photos", "/") == (0, "", "")
    os.utime(source / "large", (1_000_000_000, 1_000_000_000))
    assert run("put", "--on-conflict", "fail", "photos/large", "/photos") == (0, "", "")
    dated = entries(run, "/photos")
    assert dated["large"]["modified_at"] == "2001-09-09T01:46:40Z"
    assert dated["large"]["version_id"] == first["large"]["version_id"]
    assert len(run("get", "/photos", "copy")[1].splitlines()) == 2
    inode = (copy / "large").stat().st_ino
    os.utime(copy / "large", (1, 1))
    assert run("get", "/photos/large", "/photos/sub/small", "copy")[0] == 0
    assert (copy / "large").stat().st_ino == inode
    assert (copy / "large").stat().st_mtime == 1_000_000_000
    for path, content in ((source / "large", LARGER[::-1]), (source / "sub" / "small", b"other")):
        before = path.stat()
        path.write_bytes(content)
        os.utime(path, (before.st_atime + 1, before.st_mtime + 1))
    assert len(run("put", "photos", "/")[1].splitlines()) == 2
    assert entries(run, "/photos")["large"]["sha256"] == hashlib.sha256(LARGER[::-1]).hexdigest()
    assert len(run("get", "/photos/large", "copy")[1].splitlines()) == 1
    assert (copy / "large").read_bytes() == LARGER[::-1]


def test_entries_are_made_moved_copied_found_and_trashed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    assert run("mkdir", "x")[0] == 0
    assert run("mkdir", "x")[0] == 1
    assert run("mkdir", "-p", "x", "y/z")[0] == 0
    assert run("put", "a.txt", "x/report.txt")[0] == 0
    assert run("mv", "x/report.txt", "y/z")[0] == 0
    assert run("mv", "y/z/report.txt", "y/z/Report May.txt")[0] == 0
    assert run("cp", "y/z", "x")[0] == 0
    assert listed(run, "x/z") == ["Report May.txt"]
    code, out, _ = run("find", "report")
    assert code == 0
    assert sorted(line[34:] for line in out.splitlines()) == ["/x/z/Report May.txt", "/y/z/Report May.txt"]
    code, out, _ = run("find", "report", "--in", "x", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["Report May.txt"]
    assert run("rm", "x", "y/z/Report May.txt")[0] == 0
    assert listed(run) == ["y/"]
    assert listed(run, "y/z") == []


@each("command", AFTER)
def test_a_name_that_does_not_exist_is_one_line_and_exit_code_1(run: Run, command: str) -> None:
    code, out, err = run(command, "nothing", *AFTER[command])
    assert code == 1
    assert out == ""
    assert err.startswith("godrive: ")
    assert err.count("\n") == 1


@each(
    ("ns", "expected"),
    [
        (10**21, datetime.max.replace(tzinfo=UTC)),
        (-(10**20), datetime.min.replace(tzinfo=UTC)),
        (-1_500, datetime(1969, 12, 31, 23, 59, 59, 999998, UTC)),
        (1_600_000_000_123_456_789, datetime(2020, 9, 13, 12, 26, 40, 123456, UTC)),
    ],
)
def test_a_time_that_no_server_has_becomes_the_nearest(ns: int, expected: datetime) -> None:
    status = os.stat_result((0,) * 10, {"st_mtime_ns": ns})
    assert modified_at(status) == expected


def test_what_cannot_be_copied_is_named_and_the_rest_is_copied(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "good").write_bytes(b"1")
    (source / "link").symlink_to("good")
    (source / "back\\slash").write_bytes(b"2")
    os.mkfifo(source / "pipe")
    (tmp_path / os.fsdecode(b"source/\xff")).write_bytes(b"3")
    code, _, err = run("put", "source", "/")
    assert code == 1
    assert listed(run, "source") == ["good"]
    assert len(err.splitlines()) == 4


def test_of_two_names_that_are_one_on_the_server_neither_replaces_the_other(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("e\u0301", "\u00e9"):
        (source / f"folder {name}").mkdir(parents=True)
        (source / f"folder {name}" / "inside").write_bytes(name.encode())
        (source / f"file {name}").write_bytes(name.encode())
    code, _, err = run("put", "source", "/")
    assert (code, len(err.splitlines())) == (1, 2), err
    assert err.count("has the same name in Unicode's NFC") == 2
    assert listed(run, "source") == ["file e\u0301", "folder e\u0301/"]
    assert run("get", "/source/file e\u0301", "-")[1] == "e\u0301"


def test_of_two_sources_of_one_name_neither_replaces_the_other(run: Run, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "same").write_bytes(noise(3_000_000))
    code, _, err = run("put", "0/same", "1/same", "/top/")
    assert (code, "named before it" in err) == (1, True), err
    assert run("put", "0", "1", "/")[0] == 0
    code, _, err = run("get", "/0/same", "/1/same", "copy/")
    assert (code, "named before it" in err) == (1, True), err
    assert tree(tmp_path / "copy") == {"same": (tmp_path / "0" / "same").read_bytes()}
    assert run("get", "/top", "back")[0] == 0
    assert tree(tmp_path / "back") == {"same": (tmp_path / "0" / "same").read_bytes()}


def test_a_log_in_is_private_survives_and_ends(run: Run, server: DriveServer, tmp_path: Path) -> None:
    path = tmp_path / "config" / "godrive" / "log-ins.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in path.read_text()
    before = LogInFile(path).read().servers[server.url].refresh_token
    assert run("ls")[0] == 0
    assert LogInFile(path).read().servers[server.url].refresh_token != before
    assert run("logout") == (0, "", "")
    code, _, err = run("ls", "--server", server.url)
    assert code == 2
    assert err == f"godrive: You are not logged in to {server.url}. Run: godrive login --server {server.url}\n"


@each("url", ["drive.example.org", "ftp://example.org", "http://", "http://example.org/?a"])
def test_what_is_no_server_is_refused(bare: Run, url: str) -> None:
    code, _, err = bare("ls", "--server", url)
    assert code == 2
    assert err.startswith(f"godrive: {url!r} is not the URL of a server.")


def test_without_a_server_the_command_says_what_to_do(bare: Run) -> None:
    code, _, err = bare("ls")
    assert code == 2
    assert err == "godrive: No server is named, and there is no log-in. Run: godrive login --server URL\n"


def test_a_wrong_password_is_refused(bare: Run, server: DriveServer, email: str) -> None:
    code, _, err = bare("login", email, "--server", server.url, stdin="wrong horse\n")
    assert code == 1
    assert err.startswith("godrive: ")


def test_a_file_replaces_no_device_and_no_pipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"film")
    assert run("put", "film", "/")[0] == 0
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for target in ("pipe", "device"):
        code, _, err = run("get", "/film", target)
        assert code == 1
        assert "A device or a pipe is there." in err
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "device").is_symlink()


def test_a_device_or_a_pipe_is_not_put(run: Run, tmp_path: Path) -> None:
    """A device would become an empty file, and the command would wait for somebody who writes to the pipe."""
    os.mkfifo(tmp_path / "pipe")
    for source in ("pipe", "/dev/zero"):
        code, _, err = run("put", source, "/")
        assert (code, err) == (1, f"godrive: {source}: It is neither a file nor a folder.\n")
    assert listed(run) == []


def test_a_file_goes_to_standard_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    assert run("put", "large", "/")[0] == 0
    done = subprocess.run([*GODRIVE, "get", "large", "-"], capture_output=True, check=True)
    assert done.stdout == LARGE


def test_the_commands_of_the_page_work(bare: Run, server: DriveServer, email: str, tmp_path: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    script = script.replace("ann@example.org", email).replace("http://127.0.0.1:8080", server.url)
    (tmp_path / "password.txt").write_text(PASSWORD)
    (tmp_path / "beach.jpg").write_bytes(LARGE)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_bytes(b"a")
    program = f'godrive() {{ {shlex.join(GODRIVE)} "$@"; }}\n'
    done = subprocess.run(["bash", "-euc", program + script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "/photos/2026/sea.jpg\n" in done.stdout
    assert (tmp_path / "sea.jpg").read_bytes() == LARGE
    assert tree(tmp_path / "copy") == {"sea.jpg": LARGE, "notes": None, "notes/a.txt": b"a"}


def test_a_terminal_sees_a_bar(run: Run, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run([*GODRIVE, "put", "large", "/"], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of a terminal that nobody has open
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)
    assert done.stdout == b""
    assert b"100%" in shown
    assert b"2.86M/2.86M" in shown
