"""``godrive actors`` beside a real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

from tests.drive_server import DriveServer, run


def actors(server: DriveServer, *options: str) -> subprocess.CompletedProcess[str]:
    return run("actors", "--data-dir", server.data, *options)


def test_the_actors_of_a_running_server_are_shown_and_only_to_its_user(server: DriveServer) -> None:
    done = actors(server)
    assert done.returncode == 0, done.stderr
    assert f"process {server.pid}, " in done.stdout
    (process,) = json.loads(actors(server, "--json").stdout)
    names = [child["status"]["name"] for child in process["children"]]
    assert names[:3] == ["storage", "metadata", "auth"]
    (path,) = server.data.glob("actors.*.sock")
    assert path.stat().st_mode & 0o777 == 0o600
    server.stop()
    assert list(server.data.glob("actors.*.sock")) == []
    done = actors(server)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No server runs" in done.stderr


def test_what_a_killed_server_leaves_is_removed_by_the_next(server: DriveServer) -> None:
    assert server.process is not None
    server.process.send(signal.SIGKILL)
    server.process.wait()
    assert len(list(server.data.glob("actors.*.sock"))) == 1
    assert actors(server).returncode == 1
    server.start()
    assert len(list(server.data.glob("actors.*.sock"))) == 1
    assert actors(server).returncode == 0


def test_a_server_whose_loop_is_stuck_is_reported(server: DriveServer) -> None:
    assert server.process is not None
    server.process.send(signal.SIGSTOP)
    try:
        done = actors(server)
        assert done.returncode == 1
        assert "is stuck" in done.stderr
    finally:
        server.process.send(signal.SIGCONT)


def test_a_path_that_is_too_long_for_a_socket_stops_no_server(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["data_dir"] = str(drive_server.folder / ("long" * 30))
    drive_server.start()
    with socket.create_connection(("127.0.0.1", drive_server.port)):
        pass
    drive_server.stop()
    assert "actors_not_shown" in drive_server.log
