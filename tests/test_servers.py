"""The servers that other tests stand on."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.conftest import require
from tests.servers import CephGateway, MissingProgram, NatsServer, PostgresServer, Server, answers

pytestmark = pytest.mark.servers


def query(server: PostgresServer, dsn: str, sql: str) -> str:
    command = [server.path("psql"), "-X", "-q", "-At", "-d", dsn, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_nats_comes_back_on_the_same_port_and_a_wiped_one_starts_empty() -> None:
    require(NatsServer)
    with NatsServer() as server:
        server.kill9()
        assert not answers(server.port)
        server.start()
        assert answers(server.port)
        server.wipe()
        assert list(server.folder.iterdir()) == []
        server.start()
        assert answers(server.port)
    assert not server.folder.exists()


def test_postgres_keeps_its_rows_when_killed_and_loses_them_when_wiped() -> None:
    require(PostgresServer)
    with PostgresServer() as server:
        dsn = server.create_database("kept")
        query(server, dsn, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        assert server.process is not None
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert f"{server.folder}/data/pg_dynshmem/" in mapped
        assert "/dev/shm/PostgreSQL." not in mapped, "a server that is killed would leave it behind"
        server.kill9()
        server.start()
        assert query(server, dsn, "SELECT n FROM t") == "7"
        server.wipe()
        server.start()
        assert query(server, server.dsn, "SELECT count(*) FROM pg_database WHERE datname = 'kept'") == "0"


def test_postgres_that_is_killed_answers_nobody_any_more() -> None:
    require(PostgresServer)
    with PostgresServer() as server:
        busy = "SELECT count(*) FROM generate_series(1, 20000000)"
        command = [server.path("psql"), "-X", "-q", "-d", server.dsn, "-c", busy]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asker:
            at_work = f"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{busy}'"
            while query(server, server.dsn, at_work) != "1":
                assert asker.poll() is None
            server.kill9()
            assert asker.communicate(timeout=30)[0] == b""
        server.start()


def test_a_gateway_outage_keeps_the_store() -> None:
    require(CephGateway)
    with CephGateway() as server:
        server.kill9()
        assert not answers(server.port)
        server.start()
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{server.endpoint}/nobucket", timeout=5)
        with refused.value as answer:
            assert answer.code == 404


def test_a_missing_program_names_the_package() -> None:
    class Absent(NatsServer):
        programs = ("no-such-server",)

    with pytest.raises(MissingProgram, match=r"apt-get install -y --no-install-recommends nats-server"):
        Absent()
    assert issubclass(Absent, Server)
