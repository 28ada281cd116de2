"""Signals: the ones that stop the server do, SIGHUP reloads, and no other ends it by accident."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.drive_server import DriveServer, environment, ready, toml

STRAY = sorted(
    {
        signal.SIGXCPU,
        signal.SIGXFSZ,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGVTALRM,
        signal.SIGPROF,
        signal.SIGIO,
        signal.SIGPIPE,
    }
    | {signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD, signal.SIGURG, signal.SIGCONT}
    | {getattr(signal, name) for name in ("SIGPWR", "SIGSTKFLT", "SIGRTMIN", "SIGRTMAX") if hasattr(signal, name)}
)


def events(server: DriveServer, name: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in server.log.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == name]


def send(server: DriveServer, number: int, *, until: str) -> None:
    """Send the signal, and wait for one more event of that name."""
    assert server.process is not None
    before = len(events(server, until))
    os.kill(server.pid, number)
    server.process.wait_until(lambda: len(events(server, until)) > before)


def log_in(server: DriveServer) -> int:
    """Log in with a wrong password; the status of the answer."""
    body = json.dumps({"email": "ann@example.org", "password": "a wrong guess"}).encode()
    request = urllib.request.Request(f"{server.url}/v1/login", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value:
        return refused.value.code


def test_stray_signals_are_logged_and_ignored(server: DriveServer) -> None:
    assert server.process is not None
    for number in STRAY:
        os.kill(server.pid, number)
    send(server, signal.SIGUSR1, until="signal_ignored")
    assert ready(server.port)
    names = {event["signal"] for event in events(server, "signal_ignored")}
    assert {"SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTTIN", "SIGTTOU"} <= names
    server.stop()
    assert server.process is not None
    assert server.process.status == 0


def test_signals_at_the_very_start_end_nothing(drive_server: DriveServer) -> None:
    script = """
import asyncio, os, signal, sys
from godrive import cli

def first(*_arguments):
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        os.kill(os.getpid(), number)

asyncio.Runner, runner = lambda **options: (first(), runner(**options))[1], asyncio.Runner
sys.exit(cli.main(sys.argv[1:]))
"""
    configuration = drive_server.folder / "config.toml"
    configuration.write_text(toml(drive_server.tables))
    command = [sys.executable, "-c", script, "serve", "--config", str(configuration)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as lines:
        assert any('"listening"' in line for line in lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stopping_signal_ends_with_0(server: DriveServer, number: signal.Signals) -> None:
    assert server.process is not None
    server.process.send(number)
    assert server.process.wait(15.0) == 0
    assert events(server, "stopping")[0]["signal"] == number.name


def test_stopping_says_what_it_waits_for(server: DriveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v1/signup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: 2\r\n\r\n{")  # fmt: skip
        assert server.process is not None
        server.process.wait_until(lambda: ready(server.port))
        for _ in range(3):  # GNU timeout sends it to the process and to its group
            server.process.send(signal.SIGINT)
        server.process.wait_until(lambda: bool(events(server, "stopping")))
        (stopping,) = events(server, "stopping")
        assert (stopping["requests"], stopping["seconds"]) == (1, 10.0)
        client.sendall(b"}")
        assert client.recv(12) == b"HTTP/1.1 422"
    assert server.process.wait(10.0) == 0


def test_hang_up_applies_the_log_level_and_names_what_needs_a_restart(server: DriveServer) -> None:
    server.tables["log"]["level"] = "debug"
    server.tables.setdefault("auth", {})["attempts_per_account"] = 2
    server.tables["server"] |= {"public_url": "https://drive.example", "port": server.port + 1}
    server.command()  # writes the file
    send(server, signal.SIGHUP, until="restart_needed")
    assert events(server, "reloaded")[0]["applied"] == ["auth.attempts_per_account", "log.level"]
    assert [log_in(server) for _ in range(3)] == [401, 401, 429]
    assert events(server, "restart_needed")[0]["settings"] == ["server.port", "server.public_url"]
    server.tables["log"]["level"] = "error"
    server.command()
    send(server, signal.SIGHUP, until="reloaded")
    requests = len(events(server, "request"))
    assert ready(server.port)
    assert len(events(server, "request")) == requests


def test_hang_up_with_a_mistake_in_the_configuration_changes_nothing(server: DriveServer) -> None:
    (server.folder / "config.toml").write_text("[server]\nprot = 1\n")
    send(server, signal.SIGHUP, until="reload_refused")
    assert "server.prot" in events(server, "reload_refused")[0]["error"]
    assert ready(server.port)


def test_a_terminal_that_is_closed_ends_the_server_in_good_order(drive_server: DriveServer) -> None:
    drive_server.tables["log"]["format"] = "json"
    command, log = drive_server.command(), drive_server.folder / "godrive.log"
    pid, terminal = pty.fork()
    if pid == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.execve(command[0], list(map(str, command)), environment())
    while not ready(drive_server.port):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.close(terminal)  # the kernel sends SIGHUP
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert '"stopped"' in log.read_text()
