"""Real servers, for tests and for ``scripts/stack``.

Each is a context manager that runs one server of Debian's packages on free
loopback ports with all it keeps in a temporary folder::

    with NatsServer() as nats:
        nats.url                 # nats://127.0.0.1:...
        nats.kill9()             # an outage
        nats.start()             # back, on the same port, with what it kept
        nats.wipe()              # stopped, and everything forgotten
        nats.start()

Starting waits until the server answers.  A program that is not installed is
:class:`MissingProgram`, which names the packages to install.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

from tests.daemon import READY_WITHIN, Daemon, MissingProgram, Server, answers, free_port

__all__ = ["CephGateway", "Daemon", "MissingProgram", "NatsServer", "PostgresServer", "Server", "answers", "free_port"]


class NatsServer(Server):
    """NATS, with JetStream unless told otherwise."""

    programs = ("nats-server",)
    packages = ("nats-server",)

    def __init__(
        self,
        folder: Path | None = None,
        port: int | None = None,
        *,
        jetstream: bool = True,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """*arguments* are added to the command line: ``("--user", "u", "--pass", "p")``."""
        super().__init__(folder, port)
        self.jetstream = jetstream
        self.arguments = arguments

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def _launch(self) -> Daemon:
        command = [self.path("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), *self.arguments]
        if self.jetstream:
            command += ["-js", "-sd", str(self.folder / "store")]
        daemon = Daemon([*command], self.folder / "nats.log", under=self.guard)
        daemon.wait_until(lambda: answers(self.port))
        return daemon


class PostgresServer(Server):
    """PostgreSQL, user ``postgres``, no password.

    Unless *durable* it syncs nothing to disk: the process may die, not the machine.
    """

    programs = ("initdb", "postgres")
    packages = ("postgresql",)

    def __init__(self, folder: Path | None = None, port: int | None = None, *, durable: bool = False) -> None:
        super().__init__(folder, port)
        self._sync = "on" if durable else "off"
        self._user: int | None = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._user = 65_534
            os.chown(self.folder, self._user, self._user)

    @classmethod
    def find(cls, program: str) -> str | None:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
        for place in reversed(places):
            if (place / program).exists():
                return str(place / program)
        return super().find(program)

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """Make a database that is empty, or a copy of another that nobody is connected to; its DSN."""
        name = name or f"t{uuid.uuid4().hex}"
        create = f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy'
        subprocess.run(
            [self.path("psql"), "-X", "-q", "-d", self.dsn, "-c", create],
            check=True,
            capture_output=True,
        )
        return self.dsn_of(name)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _launch(self) -> Daemon:
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        if not self._data.exists():
            command: list[str | Path] = [self.path("initdb"), "-D", self._data, "-U", "postgres"]
            init = [*command, "-A", "trust", "-E", "UTF8", "--no-sync"]
            maker = Daemon(init, self.folder / "initdb.log", env=env, user=self._user, under=self.guard)
            if maker.wait(READY_WITHIN):
                raise RuntimeError(f"initdb: {maker.log.read_text(errors='replace')}")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": self._sync,
            "full_page_writes": self._sync,
            "shared_buffers": "64MB",
            "max_wal_size": "128MB",
            "max_connections": "200",
            "dynamic_shared_memory_type": "mmap",  # in the folder, which goes: when killed, it leaves its segments
            "autovacuum": "off",  # no database of a test lives long enough to gain by it
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self.path("postgres"), "-D", self._data, *options]
        deadline = time.monotonic() + READY_WITHIN
        while True:
            # SIGQUIT, because a postmaster that is killed leaves a segment of shared memory behind.
            daemon = Daemon(
                [*command],
                self.folder / "postgres.log",
                env=env,
                user=self._user,
                under=self.guard,
                last=signal.SIGQUIT,
            )
            try:
                daemon.wait_until(lambda: self._ready(daemon))  # noqa: B023
            except RuntimeError:
                # After kill9 the old backends hold the shared memory until they are gone.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return daemon

    def _ready(self, daemon: Daemon) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(daemon.pid) and lines[7].strip() == "ready"

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(signal.SIGINT)  # "fast": does not wait for clients to leave

    def kill9(self) -> None:
        """Kill its backends with it: by themselves they would finish what they are at, and answer."""
        self.freeze()
        backends = self._backends()
        super().kill9()
        for backend in backends:
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)

    def close(self) -> None:
        self.stop()
        with suppress(FileNotFoundError):  # it removes the file itself, and the memory, unless it was killed
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            if len(lines) > 6 and lines[6].strip():
                subprocess.run(["ipcrm", "-m", lines[6].split()[1]], check=False, capture_output=True)
        super().close()

    def _backends(self) -> list[int]:
        if self.process is None or not self.process.running:
            return []
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found.append(int(process.name))
        return found


class CephGateway(Server):
    """An S3 store: Ceph's RADOS Gateway over one monitor and one storage daemon in memory.

    ``stop``, ``kill9``, ``freeze`` and ``start`` are of the gateway alone: a
    store outage, after which everything is still there.
    """

    programs = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    packages = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")

    access_key = "TESTACCESSKEY"
    secret_key = "TESTSECRETKEY"
    region = "us-east-1"

    def __init__(self, folder: Path | None = None, port: int | None = None) -> None:
        super().__init__(folder, port or free_port(64))
        self._cluster: list[Daemon] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def _config(self) -> Path:
        return self.folder / "ceph.conf"

    def _launch(self) -> Daemon:
        fresh = not self._cluster
        if fresh:
            self._launch_cluster()
        daemon = self._daemon("radosgw", "-n", "client.rgw", log="rgw.out")
        daemon.wait_until(lambda: answers(self.port))
        if fresh:
            self.add_user("test", self.access_key, self.secret_key)
        return daemon

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """Make a user of the store."""
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", f"--uid={name}", "--display-name=t", *keys)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.path(program), "-c", self._config, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def _launch_cluster(self) -> None:
        cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("mon", "osd", "rgw", "run"):
            (self.folder / name).mkdir(exist_ok=True)
        self._config.write_text(
            _CEPH_CONF.format(
                silent="\n".join(f"debug_{part} = 0/0" for part in _SILENT),
                folder=self.folder,
                port=self.port,
                mon=self.port + 1,
                fsid=cluster,
                first=self.port + 2,
                last=self.port + 63,
            )
        )
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{self.port + 1}]"
        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        monitor = self._daemon("ceph-mon", "-i", "a", log="mon.out")
        self._cluster.append(monitor)
        monitor.wait_until(lambda: self._answers("osd", "new", disk))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        storage = self._daemon("ceph-osd", "-i", "0", log="osd.out")
        self._cluster.append(storage)
        storage.wait_until(lambda: "1 up" in self._run("ceph", "osd", "stat"))

    def _daemon(self, program: str, *arguments: str, log: str) -> Daemon:
        command: list[str | Path] = [self.path(program), "-c", self._config, *arguments, "-f"]
        return Daemon(command, self.folder / log, under=self.guard)

    def _answers(self, *arguments: str) -> bool:
        try:
            self._run("ceph", *arguments)
        except RuntimeError:
            return False
        return True

    def _end_cluster(self) -> None:
        for daemon in reversed(self._cluster):
            daemon.stop(signal.SIGKILL)  # it keeps nothing that an orderly end would save
        self._cluster = []

    def release(self) -> None:
        for daemon in self._cluster:
            daemon.release()
        self._cluster = []
        super().release()

    def wipe(self) -> None:
        self.kill9()
        self._end_cluster()
        super().wipe()

    def close(self) -> None:
        self.kill9()
        self._end_cluster()
        super().close()


_SILENT = ("ms", "mon", "monc", "paxos", "auth", "osd", "objecter", "rados", "memstore", "rgw", "context", "finisher")
"""Parts of Ceph that by default keep their last 10 000 debug messages in memory, which is a third of what it does."""

_CEPH_CONF = """\
[global]
{silent}
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon}/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
ms_bind_port_min = {first}
ms_bind_port_max = {last}
ms_mon_client_mode = crc
ms_crc_data = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
keyring = /dev/null
run_dir = {folder}/run
crash_dir = {folder}/run
admin_socket = {folder}/run/$name.asok
log_file = {folder}/$name.log
mon_data = {folder}/mon
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
paxos_propose_interval = 0.05
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off

[client.rgw]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_dns_name = localhost
rgw_rados_pool_pg_num_min = 1
rgw_run_sync_thread = false
rgw_thread_pool_size = 32
"""
