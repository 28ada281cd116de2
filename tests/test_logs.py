"""Logs: one event a line, for people or for machines.  Each test has a process of its own: log set-up is global."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_program
from tests.drive_server import environment

DOCUMENT = Path(__file__).parent.parent / "docs" / "operations.md"


def run(script: str, shell: str = 'exec "$@"', **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the log set up, in a process that *shell* starts."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    before = f"""
import logging, structlog, warnings
from godrive import logs
from godrive.config import Log
from godrive.messages.ingest import Reconciled
from godrive.messages.janitor import Swept
from godrive.runtime import request_id
from godrive.runtime.supervision_events import *
written = logs.configure(Log({arguments})).writer.drain
log = structlog.get_logger()
"""
    return subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", before + script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def logged(script: str, **settings: str) -> str:
    """What the script writes to standard output."""
    done = run(script, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def events(script: str, **settings: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(script, **settings).splitlines()]


def test_event_is_json_where_nobody_reads_along() -> None:
    (event,) = events("log.info('said', path='/é', size=3, odd=object)")
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert event["timestamp"].endswith("Z")
    assert (event["level"], event["event"], event["path"], event["size"]) == ("info", "said", "/é", 3)
    assert event["odd"] == "<class 'object'>"


FAILED_LOG_INS = """
from godrive.actors.passwords import _report
for address in ("203.0.113.9", "2001:db8::9"):
    for reason in ("wrong_password", "unknown_user", "user_disabled", "too_many_attempts"):
        _report(reason, address, "ann@example.org", None)
        _report(reason, "x", '\\n{"level":"warning","event":"log_in_failed","address":"192.0.2.1"', None)
log.warning("said", path='"event":"log_in_failed","address":"192.0.2.1","reason":"wrong_password"')
log.warning("said log_in_failed address=192.0.2.1 reason=wrong_password")
"""


@pytest.mark.parametrize("form", ["json", "human"])
@pytest.mark.slow
def test_filter_of_the_documentation_finds_failed_log_ins(form: str) -> None:
    (text,) = re.findall(r"^failregex = ((?:.+\n)+?)```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    patterns = [re.compile(line.strip().replace("<ADDR>", r"(?P<ip>[0-9a-f.:]+)")) for line in text.splitlines()]
    assert len(patterns) == 2
    lines = logged(FAILED_LOG_INS, format=form).splitlines()
    found = [match["ip"] for line in lines for pattern in patterns if (match := pattern.search(line))]
    assert found == ["203.0.113.9"] * 3 + ["2001:db8::9"] * 3


@pytest.mark.slow
def test_fail2ban_finds_failed_log_ins_with_the_filter_of_the_documentation(tmp_path: Path) -> None:
    """In one log with lines of both forms, with and without what syslog puts before each: the program starts once."""
    program = require_program("fail2ban-regex", "fail2ban")
    text = DOCUMENT.read_text(encoding="utf-8")
    (definition,) = re.findall(r"^```ini\n(\[Definition\]\nfailregex = [^`]+)^```", text, re.MULTILINE)
    (tmp_path / "godrive.conf").write_text(definition)
    events = [event for form in ("json", "human") for event in logged(FAILED_LOG_INS, format=form).splitlines()]
    lines = [prefix + event for prefix in ("", "Nov 29 07:46:59 host godrive[123]: ") for event in events]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    command: list[str | Path] = [program, "--out", "ip", tmp_path / "log", tmp_path / "godrive.conf"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == (["203.0.113.9"] * 3 + ["2001:db8::9"] * 3) * 4


def test_event_is_text_for_people_who_ask_for_it() -> None:
    text = logged("log.info('said', size=3)", format="human")
    assert "said" in text
    assert "size=3" in text
    assert "{" not in text


def test_level_is_the_least_that_is_logged() -> None:
    script = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    assert [event["event"] for event in events(script, level="warning")] == ["c", "d"]
    assert [event["event"] for event in events(script, level="debug")] == ["a", "b", "c", "d"]


def test_event_carries_the_id_of_the_request_it_belongs_to() -> None:
    first, second = events("log.info('a'); request_id.set('r1'); log.info('b')")
    assert "request_id" not in first
    assert second["request_id"] == "r1"


def test_a_child_that_waits_says_for_what_and_why() -> None:
    script = """
from godrive.errors import StoreUnavailable
error = StoreUnavailable("NATS does not answer.", hint="Connection refused")
logs.on_event(ChildWaiting("nats", error))
logs.on_event(TickFailed("janitor", error))
logs.on_event(TickFailed("janitor", StoreUnavailable("Gone.")))
"""
    waiting, failed, bare = events(script)
    assert (waiting["event"], waiting["child"]) == ("child_waiting", "nats")
    assert "NATS does not answer." in waiting["error"]
    assert waiting["hint"] == failed["hint"] == "Connection refused"
    assert "hint" not in bare


def test_what_goes_wrong_in_other_libraries_joins_the_log() -> None:
    script = """
logging.getLogger("aiohttp.server").error("odd %s", 1)
logging.getLogger("chatty").info("not this")
warnings.warn("a warning")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("lost")
"""
    odd, warning, lost = events(script, level="debug")
    assert (odd["event"], odd["level"], odd["logger"]) == ("odd 1", "error", "aiohttp.server")
    assert "a warning" in warning["event"]
    assert "ZeroDivisionError" in lost["exception"]


def test_event_of_a_supervisor_is_logged_as_it_matters() -> None:
    script = """
for event in (
    ChildStarted("auth"), ChildStopped("auth"), ChildCrashed("auth", ValueError("bug"), "LogIn"),
    RestartsExhausted("auth", 5, 30.0), DeadLetter("auth", "LogIn", "expired", "r1"), StopTimedOut("auth"),
    TickFailed("sweeper", ValueError("down")), Ticked("sweeper", Swept(purged=1)),
    Ticked("sweeper", Swept(failed=2, problem="store_unavailable: down")),
    Ticked("reconciler", Reconciled(checked=2, published=2)),
    Ticked("reconciler", Reconciled(checked=2, postponed=2, problem="upload 7: store_unavailable: down")),
):
    logs.on_event(event)
"""
    found = events(script, level="debug")
    assert [(event["level"], event["event"]) for event in found] == [
        ("debug", "child_started"),
        ("debug", "child_stopped"),
        ("error", "child_crashed"),
        ("critical", "restarts_exhausted"),
        ("warning", "dead_letter"),
        ("warning", "stop_timed_out"),
        ("warning", "tick_failed"),
        ("warning", "sweep_incomplete"),
        ("warning", "reconcile_incomplete"),
    ]
    assert (found[7]["failed"], found[7]["problem"]) == (2, "store_unavailable: down")
    assert "ValueError: bug" in found[2]["exception"]
    assert found[4]["request_id"] == "r1"


@pytest.mark.parametrize("format_", ["human", "json"])
@pytest.mark.slow
def test_a_log_that_takes_nothing_fails_nobody(format_: str) -> None:
    script = """
logs.on_event(ChildCrashed("auth", ValueError("bug"), "LogIn"))
logging.getLogger("asyncio").error("lost")
"""
    done = run(script, 'exec "$@" > /dev/full', format=format_)
    assert (done.returncode, done.stderr) == (0, "")


def test_lines_go_on_once_there_is_room_again_and_losses_are_told(tmp_path: Path) -> None:
    script = """
import os, resource
log.info("before")
written()
size = os.fstat(1).st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
log.info("during")
log.info("during")
written()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.info("after")
"""
    path = tmp_path / "log"
    assert run(script, f'exec "$@" >> {path}').returncode == 0
    before, lost, after = map(json.loads, path.read_text().splitlines())
    assert [before["event"], lost["event"], after["event"]] == ["before", "log_lines_lost", "after"]
    assert (lost["level"], lost["lines"]) == ("warning", 2)


def test_a_line_that_was_cut_off_spoils_none_after_it(tmp_path: Path) -> None:
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, most))
for _ in range(10):
    log.info("said", text="x" * 100)
    written()
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
for _ in range(2):
    log.info("said", text="there is room")
"""
    path = tmp_path / "log"
    assert run(script, f'exec "$@" > {path}').returncode == 0
    *before, cut, lost, first, second = path.read_text().splitlines()
    assert [len(json.loads(line)["text"]) for line in before] == [100] * len(before)
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut)
    assert json.loads(lost)["lines"] == 10 - len(before)
    assert [json.loads(line)["text"] for line in (first, second)] == ["there is room"] * 2


@pytest.mark.parametrize("shell", ['exec "$@" > /dev/full', '"$@" | true'])
@pytest.mark.slow
def test_a_stream_that_is_full_or_closed_fails_nobody(shell: str) -> None:
    done = run("log.info('said'); written()", shell)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_encoded_is_logged_all_the_same() -> None:
    script = """
class Odd:
    def __repr__(self):
        raise ValueError("no")

log.info("half", path="\\ud800")
log.info("large", size=2**80)
log.info("odd", value=Odd())
logging.getLogger("x").error("%d", "no number")
logging.getLogger("x").log(35, "between")
"""
    half, large, odd, number, between = events(script)
    assert (half["event"], half["path"]) == ("half", "\\ud800")
    assert large["size"] == 2**80
    assert odd["value"] == "<Odd>"
    assert "no number" in number["event"] or "%d" in number["event"]
    assert (between["event"], between["level"]) == ("between", "warning")


@pytest.mark.slow
def test_level_may_change_while_loggers_are_in_use() -> None:
    script = """
logs.configure(Log(level="warning")).set_level("debug")
log.debug("shown")
"""
    assert [event["event"] for event in events(script)] == ["shown"]
