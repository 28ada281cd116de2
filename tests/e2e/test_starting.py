"""An operator's mistake is one line and exit code 2."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.drive_server import DriveServer
from tests.servers import free_port


def refusal(server: DriveServer) -> str:
    """The one line with which it refuses to start."""
    done = server.run()
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert "Traceback" not in done.stdout
    return line


def test_a_second_server_on_the_same_data_folder_refuses(server: DriveServer, tmp_path: Path) -> None:
    second = DriveServer(tmp_path / "second", tables={"server": {"data_dir": str(server.data)}})
    assert str(server.data) in refusal(second)
    assert server.process is not None
    assert server.process.running


def test_a_killed_server_leaves_no_lock_behind(server: DriveServer) -> None:
    server.kill9()
    server.start()
    assert server.process is not None
    assert server.process.running


def test_a_port_that_is_taken_is_named(drive_server: DriveServer) -> None:
    with socket.create_server(("127.0.0.1", drive_server.port)):
        assert str(drive_server.port) in refusal(drive_server)
    drive_server.start()


def test_an_address_that_is_not_up_may_come_up_so_a_restart_makes_sense(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["host"] = "192.0.2.1"  # nobody has it (RFC 5737)
    done = drive_server.run()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "192.0.2.1" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may serve the folder of another user: run the suite as root")
def test_root_is_told_that_the_data_folder_belongs_to_another_user(drive_server: DriveServer) -> None:
    drive_server.data.mkdir(parents=True)
    os.chown(drive_server.data, 1234, 2345)
    drive_server.start()
    drive_server.stop()
    (line,) = [line for line in drive_server.log.splitlines() if "running_as_root" in line]
    assert '"owner":1234' in line


def test_a_data_folder_that_cannot_be_made_is_named(drive_server: DriveServer, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    drive_server.tables["server"]["data_dir"] = str(in_the_way / "data")
    assert str(in_the_way) in refusal(drive_server)


def test_a_key_that_is_misspelt_is_named_with_the_nearest(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["prot"] = free_port()
    line = refusal(drive_server)
    assert "prot" in line
    assert "port" in line


def test_a_value_of_the_wrong_type_names_its_key(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["port"] = "eighty"
    assert "server.port" in refusal(drive_server)


def test_a_newer_layout_of_the_data_folder_is_refused(drive_server: DriveServer) -> None:
    drive_server.start()
    drive_server.stop()
    (drive_server.data / "LAYOUT").write_text("999\n")
    assert "999" in refusal(drive_server)


def test_the_secret_is_made_once_and_for_the_owner_alone(server: DriveServer) -> None:
    secret = server.data / "secret.key"
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_bytes()
    server.stop()
    server.start()
    assert secret.read_bytes() == before
