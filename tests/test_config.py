"""Configuration: every mistake is one sentence that names the key, and nothing is ever ignored."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from godrive.config import Actors, ActorTable, Auth, Blobs, Catalog, Config, Server
from godrive.configfile import check, load, settings
from godrive.errors import ConfigError
from tests.cases import each

ROOT = Path(__file__).parent.parent


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    assert "\n" not in caught.value.detail
    return caught.value.detail


# config.toml


def test_config_toml_lists_every_key_with_its_default_in_order() -> None:
    listed = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
    assert listed == msgspec.to_builtins(Config())
    assert list(leaves(listed)) == [setting.dotted for setting in settings().values()]


def leaves(table: dict[str, Any], prefix: str = "") -> Any:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_config_toml_says_something_about_every_key() -> None:
    for line in (ROOT / "config.toml").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            assert re.fullmatch(r'[a-z_]+ = (?:"[^"]*"|[^"#]+) +# \S.{5,}', line), line


def test_config_toml_of_the_repository_loads_as_the_defaults() -> None:
    assert load(ROOT / "config.toml").auth == Auth()


# Where values come from


def test_without_a_file_or_environment_everything_is_default() -> None:
    assert load() == Config()
    check(load())


def test_file_overrides_defaults_environment_the_file_and_flags_both(tmp_path: Path) -> None:
    path = written(tmp_path, '[server]\nport = 1\nhost = "a"\nmax_body_bytes = 2048\n')
    env = {"GODRIVE_SERVER_PORT": "2", "GODRIVE_SERVER_HOST": "b", "PATH": "/bin"}
    config = load(path, env, {"server.port": 3, "server.host": None})
    assert (config.server.port, config.server.host, config.server.max_body_bytes) == (3, "b", 2048)


@each(
    ("name", "text", "read"),
    [
        ("GODRIVE_SERVER_PORT", " 81 ", lambda c: c.server.port == 81),
        ("GODRIVE_SERVER_BODY_TIMEOUT", "2.5", lambda c: c.server.body_timeout == 2.5),
        ("GODRIVE_SERVER_BODY_TIMEOUT", "2", lambda c: c.server.body_timeout == 2.0),
        ("GODRIVE_LOG_REQUESTS", "false", lambda c: c.log.requests is False),
        ("GODRIVE_LOG_REQUESTS", "0", lambda c: c.log.requests is False),
        ("GODRIVE_AUTH_SIGNUP", "closed", lambda c: c.auth.signup == "closed"),
        ("GODRIVE_BLOBS_S3_ENDPOINT", "http://s3:9000", lambda c: c.blobs.s3.endpoint == "http://s3:9000"),
        ("GODRIVE_ACTORS_AUTH_CAPACITY", "7", lambda c: c.actors.auth.capacity == 7),
        (
            "GODRIVE_SERVER_TRUSTED_PROXIES",
            "10.0.0.0/8, ::1",
            lambda c: c.server.trusted_proxies == ["10.0.0.0/8", "::1"],
        ),
        ("GODRIVE_SERVER_PORT", "", lambda c: c.server.port == 8080),
        ("GODRIVE_SERVER_PORT", "81\r", lambda c: c.server.port == 81),
        ("GODRIVE_AUTH_SIGNUP", "closed\r", lambda c: c.auth.signup == "closed"),
        ("GODRIVE_AUTH_SIGNUP", "\r", lambda c: c.auth.signup == "open"),
    ],
)
def test_variable_is_read_as_the_type_of_its_key(name: str, text: str, read: Any) -> None:
    assert read(load(env={name: text}))


def test_no_two_keys_share_a_variable() -> None:
    names = [setting.variable for setting in settings().values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("service", ["GODRIVE", "GODRIVE_NATS", "GODRIVE_BLOBS_S3", "GODRIVE_DB_0"])
def test_variables_that_kubernetes_and_docker_make_of_a_service_are_ignored_in_silence(service: str) -> None:
    env = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "80",
        f"{service}_SERVICE_PORT_HTTP": "80",
        f"{service}_PORT": "tcp://10.0.0.1:80",
        f"{service}_PORT_80_TCP": "tcp://10.0.0.1:80",
        f"{service}_PORT_80_TCP_PROTO": "tcp",
        f"{service}_PORT_80_TCP_PORT": "80",
        f"{service}_PORT_80_TCP_ADDR": "10.0.0.1",
        f"{service}_PORT_53_UDP": "udp://10.0.0.1:53",
        f"{service}_NAME": "/web/db",
        f"{service}_ENV_VERSION": "1",
    }
    warnings: list[str] = []
    assert load(env=env, warn=warnings.append) == Config()
    assert warnings == []


def test_relative_path_in_a_file_counts_from_the_file_and_in_the_environment_from_here(tmp_path: Path) -> None:
    path = written(tmp_path, '[server]\ndata_dir = "d"\n[blobs]\npath = "/blobs"\n')
    config = load(path, {"GODRIVE_CATALOG_PATH": "here.db"})
    assert config.data_dir == tmp_path / "d"
    assert config.blobs_path == Path("/blobs")
    assert config.catalog_path == Path("here.db")


def test_everything_lies_in_the_data_folder_unless_a_key_says_otherwise() -> None:
    config = Config.embedded("/srv/drive")
    assert config.secret_path == Path("/srv/drive/secret.key")
    assert config.catalog_path == Path("/srv/drive/godrive.db")
    assert config.blobs_path == Path("/srv/drive/blobs")
    assert {config.lock_path.parent, config.layout_path.parent} == {Path("/srv/drive")}
    moved = Config(auth=Auth(secret_file="/s"), catalog=Catalog(path="/c"), blobs=Blobs(path="/b"))
    assert [str(path) for path in (moved.secret_path, moved.catalog_path, moved.blobs_path)] == ["/s", "/c", "/b"]


@pytest.mark.parametrize("line", ["stream = 'a b'", "stream = 'a.b'", "consumer = 'a.b'", "consumer = ''"])
def test_a_name_that_jetstream_does_not_take_is_named_before_anything_starts(tmp_path: Path, line: str) -> None:
    assert f"ingest.{line.partition(' ')[0]} must be 1 to 200 letters" in problem(
        written(tmp_path, f"[ingest]\n{line}\n")
    )


@pytest.mark.parametrize("subject", ["a b", "a..b", ".a", "a.", ""])
def test_a_subject_that_nats_does_not_take_is_named_before_anything_starts(tmp_path: Path, subject: str) -> None:
    assert "ingest.subject must be" in problem(written(tmp_path, f"[ingest]\nsubject = '{subject}'\n"))


@each(
    ("server", "base_url"),
    [
        (Server(), "http://127.0.0.1:8080"),
        (Server(host="0.0.0.0"), "http://127.0.0.1:8080"),
        (Server(host="::", port=81), "http://[::1]:81"),
        (Server(host="0:0::0", port=81), "http://[::1]:81"),
        (Server(host="*"), "http://127.0.0.1:8080"),
        (Server(host="[::1]"), "http://[::1]:8080"),
        (Server(host="Drive.Example"), "http://drive.example:8080"),
        (Server(host="fe80::1%eth0"), "http://[fe80::1%25eth0]:8080"),
        (Server(public_url="HTTPS://Dr\u00f6ve.Example:8443"), "https://xn--drve-6qa.example:8443"),
        (Server(host="fe80::1"), "http://[fe80::1]:8080"),
        (Server(public_url="https://files.example/drive/"), "https://files.example/drive"),
    ],
)
def test_base_url_is_the_public_one_or_that_of_the_socket(server: Server, base_url: str) -> None:
    assert server.base_url == base_url


# Values that could never match are mistakes


@each(
    ("written", "sent"),
    [
        ("HTTPS://Drive.Example", "https://drive.example"),
        ("https://drive.example:443", "https://drive.example"),
        ("http://drive.example:80", "http://drive.example"),
        ("http://drive.example:443", "http://drive.example:443"),
        ("https://dr\u00f6ve.example", "https://xn--drve-6qa.example"),
        ("https://fa\u00df.example", "https://xn--fa-hia.example"),  # as browsers send it: IDNA 2008, not 2003
        ("http://[0::1]:3000", "http://[::1]:3000"),
        ("tauri://localhost", "tauri://localhost"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai", "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai"),
        ("app://.", None),
        ("null", "null"),
        ("*", "*"),
        ("https://*.drive.example", None),
        ("*.drive.example", None),
        ("drive.example", None),
        ("localhost:3000", None),
        ("https://drive.example/", None),
        ("https://drive.example/app", None),
        ("https://ann@drive.example", None),
        ("https://drive.example?x", None),
        ("https://drive.example:99999", None),
        ("https://drive example", None),
        ("https://", None),
        ("file://", None),
        ("Null", None),
        ("", None),
    ],
)
def test_an_origin_is_compared_as_browsers_send_it_or_is_refused(written: str, sent: str | None) -> None:
    server = Server(cors_origins=[written])
    if sent is None:
        with pytest.raises(ConfigError, match=r"server\.cors_origins"):
            check(Config(server=server))
    else:
        check(Config(server=server))
        assert server.origins == {sent}


@each("host", ["0", "127.1", "256.0.0.1", "0.0.0.0:80", "http://h", "a b", "-a", "[h]", "unix:/run/x", "a..b", "::1::"])
def test_a_host_that_nobody_can_listen_on_is_a_mistake(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.host"):
        check(Config(server=Server(host=host)))


@each("url", ["http://0.0.0.0:80", "http://[::]", "http://*", "http://a..b", "http://1.2.3"])
def test_a_public_url_that_no_client_can_reach_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.public_url"):
        check(Config(server=Server(public_url=url)))


@each("proxy", ["*", "localhost", "10.0.0.0/40", "10.0.0", ""])
def test_a_proxy_that_is_no_address_is_a_mistake(proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies"):
        check(Config(server=Server(trusted_proxies=[proxy])))


# What editors write


def test_file_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 81\r\n")
    assert load(path).server.port == 81


def test_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes("[server]\n".encode("utf-16"))
    assert problem(path) == f"{path} is not TOML: it is UTF-16; save it as UTF-8"


@pytest.mark.parametrize("text", ["\ufeffword\r\n", "word\n", "word\r\n\r\n", "\ufeff word \n", "word"])
def test_secret_in_a_file_is_the_word_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_bytes(text.encode())
    assert load(written(tmp_path, '[nats]\ntoken_file = "token"\n')).nats.token == "word"


@pytest.mark.parametrize("text", ["one\ntwo", "one\r\ntwo\r\n", "one\0two"])
def test_secret_of_several_lines_is_a_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_bytes(text.encode())
    assert problem(written(tmp_path, '[nats]\ntoken_file = "token"\n')).endswith("has more than one line")


# Secrets


def test_secret_in_a_file_is_read_and_stripped(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("  postgresql://u:p@h/d \n")
    path = written(tmp_path, '[catalog]\ndriver = "postgres"\ndsn_file = "dsn"\n')
    assert load(path).catalog.dsn == "postgresql://u:p@h/d"


def test_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("a")
    path = written(tmp_path, '[catalog]\ndsn = "b"\ndsn_file = "dsn"\n')
    assert problem(path) == "catalog.dsn_file and catalog.dsn are both given: keep one"


def test_secret_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, '[nats]\ntoken_file = "token"\n')
    assert problem(path) == f"nats.token_file names {tmp_path}/token, which cannot be read: No such file or directory"
    (tmp_path / "token").write_text("\n")
    assert problem(path) == f"nats.token_file names {tmp_path}/token, which is empty"


def test_secrets_are_shown_neither_in_a_repr_nor_in_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, '[blobs.s3]\naccess_key = "hush"\nsecret_key = "hush"\n[nats]\nurl = "nats://u:hush@h"\n')
    assert "hush" not in repr(load(path))
    assert "region='us-east-1'" in repr(load(path))
    assert "1234" not in problem(written(tmp_path, "[nats]\ntoken = 1234\n"))


# Mistakes

WHOLE = " a whole number of at least "
PORT = f"server.port must be{WHOLE}0 and at most 65535, not "
HOSTS = "server.allowed_hosts must list hosts without a scheme or a wildcard, as host or host:port, not "
URL = "server.public_url must be http(s)://host[/path] without a query, not "
ORIGINS = "server.cors_origins must list '*', 'null' or scheme://host[:port] without a path or a wildcard, not "
NATS = "nats.url must be nats://host[:port], several separated by commas"
BOTH = "blobs.s3.secret_key and blobs.s3.access_key must be given together, or neither"


@each(
    ("text", "detail"),
    [
        ("[server]\nprot = 1", "server.prot is not a setting ({path}); did you mean port?"),
        ("[sever]\nport = 1", "sever is not a setting ({path}); did you mean server?"),
        ("[blobs.s4]\nbucket = 'x'", "blobs.s4 is not a setting ({path}); did you mean s3?"),
        ("[blobs.s3]\nbuckets = 'x'", "blobs.s3.buckets is not a setting ({path}); did you mean bucket?"),
        ("[actors.authh]\n", "actors.authh is not a setting ({path}); did you mean auth?"),
        ("xyz = 1", "xyz is not a setting ({path})"),
        ("server = 1", "server is a table: write [server] ({path})"),
        ("[server]\nport = '80'", PORT + "'80' ({path})"),
        ("[server]\nport = 70000", PORT + "70000 ({path})"),
        ("[server]\nport = 80.5", PORT + "80.5 ({path})"),
        ("[server]\nport = true", PORT + "True ({path})"),
        ("[server]\nport = {}", PORT + "{{}} ({path})"),
        ("[server]\nhost = 1", "server.host must be a string, not 1 ({path})"),
        ("[server]\nshutdown = nan", "server.shutdown must be a number over 0 and at most 315360000, not nan ({path})"),
        ("[server]\nshutdown = inf", "server.shutdown must be a number over 0 and at most 315360000, not inf ({path})"),
        ("[server]\nshutdown = 0", "server.shutdown must be a number over 0 and at most 315360000, not 0 ({path})"),
        ("[server]\ntrusted_proxies = '::1'", "server.trusted_proxies must be a list of strings, not '::1' ({path})"),
        ("[auth]\nsignup = 'opne'", "auth.signup must be 'open', 'invite' or 'closed', not 'opne' ({path})"),
        ("[auth]\nbcrypt_cost = 3", "auth.bcrypt_cost must be" + WHOLE + "4 and at most 16, not 3 ({path})"),
        ("[janitor]\nbatch = 1001", "janitor.batch must be" + WHOLE + "1 and at most 1000, not 1001 ({path})"),
        ("[log]\nrequests = 1", "log.requests must be true or false, not 1 ({path})"),
        ("[server]\npublic_url = 'files.example'", URL + "'files.example'"),
        ("[server]\npublic_url = 'http://h/?a=b'", URL + "'http://h/?a=b'"),
        ("[server]\npublic_url = 'ftp://h'", URL + "'ftp://h'"),
        *(
            (f"[server]\nallowed_hosts = ['{text}']", HOSTS + repr(text))
            for text in ("https://h", "*", "*.h", "h/a", "h:", "h:0", "h:99999", "a@h", "", "h:a", "[::1", "256.1.1.1")
        ),
        ("[server]\npublic_url = 'http://h:99999'", URL + "'http://h:99999'"),
        ("[server]\ntrusted_proxies = ['x']", "server.trusted_proxies must list addresses or networks, not 'x'"),
        ("[server]\ncors_origins = ['http://h/']", ORIGINS + "'http://h/'"),
        ("[server]\nhost = ''", "server.host must not be empty"),
        ("[auth]\nrefresh_ttl = 60", "auth.refresh_ttl must not be under auth.access_ttl"),
        ("[catalog]\ndriver = 'postgres'", "catalog.dsn must be given when catalog.driver is 'postgres'"),
        ("[blobs]\ndriver = 's3'\n[blobs.s3]\naccess_key = 'a'", BOTH),
        ("[actors.auth]\nconcurrency = 8", "actors.auth.concurrency must be 0 or greater than 96; otherwise "
         "queued log-ins can block authenticated requests"),
        ("[blobs.s3]\nprefix = 'x'", "blobs.s3.prefix must be empty, or end in '/' and not begin with one, "
         "not 'x' ({path})"),
        ("[blobs.s3]\nbucket = 'ab'", "blobs.s3.bucket must be 3 to 63 letters, digits, '.', '-' and '_', "
         "not 'ab' ({path})"),
        ("[blobs.s3]\naccept_faults = ['all']", "blobs.s3.accept_faults must be a list of 'unsigned-writes', "
         "'unsigned-deletes', 'unsigned-reads', 'loose-signatures', 'copies', 'public-acls' or 'ignored-overrides', "
         "not ['all'] ({path})"),
        ("[auth]\nissuer = ''", "auth.issuer must be a string that is not empty, not '' ({path})"),
        ("[nats]\nnamespace = 'a b'", "nats.namespace must be words of letters, digits, '_' and '-', "
         "with dots between them, not 'a b' ({path})"),
        ("[nats]\nurl = 'http://h'", NATS),
        ("[nats]\nurl = 'nats://'", NATS),
        ("[nats]\nurl = 'nats://h, nats://h:port'", NATS),
        ("[nats]\ntls_key_file = '/k'", "nats.tls_key_file and nats.tls_cert_file go together"),
        ("[ingest]\nevents = 'jetstream'", "nats.url must be given when ingest.events is not 'none'"),
        ("[actors.ingest]\nlocation = 'nats'", "nats.url must be given when actors.ingest.location is 'nats'"),
    ],
)  # fmt: skip
def test_mistake_is_named_with_what_was_expected(tmp_path: Path, text: str, detail: str) -> None:
    path = written(tmp_path, text)
    assert problem(path) == detail.format(path=path)


@pytest.mark.parametrize("actor", ["auth", "metadata", "storage"])
def test_store_that_one_process_has_cannot_have_its_actors_elsewhere(tmp_path: Path, actor: str) -> None:
    path = written(tmp_path, f"[nats]\nurl = 'nats://h'\n[actors.{actor}]\nlocation = 'nats'")
    assert problem(path).startswith(f"actors.{actor}.location must be 'local' with ")


@pytest.mark.parametrize("url", ["nats://h", "nats://u:p@h:4222, tls://[::1]:4222", ""])
def test_nats_servers_may_be_several_or_none(tmp_path: Path, url: str) -> None:
    assert load(written(tmp_path, f"[nats]\nurl = '{url}'")).nats.url == url


def test_ingest_and_janitor_may_run_elsewhere_beside_sqlite(tmp_path: Path) -> None:
    text = "[nats]\nurl = 'nats://h'\n[actors.ingest]\nlocation = 'nats'\n[actors.janitor]\nlocation = 'nats'"
    assert load(written(tmp_path, text)).actors.janitor.location == "nats"


def test_file_that_is_not_toml_is_named_with_the_line(tmp_path: Path) -> None:
    assert "line 2" in problem(written(tmp_path, "[server]\nport 80\n"))
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[server]\nhost = "\xe9"\n')
    assert problem(path).startswith(f"{path} is not TOML")


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert problem(tmp_path / "no.toml") == f"{tmp_path}/no.toml cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("name", "text", "warning"),
    [
        ("GODRIVE_SERVER_PROT", "1", "GODRIVE_SERVER_PROT is not a setting and is ignored; "
         "did you mean GODRIVE_SERVER_PORT?"),
        ("godrive_server_port", "1", "godrive_server_port is not a setting and is ignored; "
         "did you mean GODRIVE_SERVER_PORT?"),
        ("GODRIVE_PORT", "80", "GODRIVE_PORT is not a setting and is ignored; did you mean GODRIVE_SERVER_PORT?"),
        ("GODRIVE_ZZZZZZZZZZZZZZZZZZZZ", "x", "GODRIVE_ZZZZZZZZZZZZZZZZZZZZ is not a setting and is ignored."),
        ("GODRIVE_SERVER_PORT", "tcp://10.0.0.1:80", "GODRIVE_SERVER_PORT is ignored: 'tcp://10.0.0.1:80' is the "
         "address of a service, set by Kubernetes or Docker."),
    ],
)  # fmt: skip
def test_variable_with_our_prefix_that_is_no_setting_is_ignored_with_a_warning(
    name: str, text: str, warning: str
) -> None:
    warnings: list[str] = []
    assert load(env={name: text}, warn=warnings.append) == Config()
    assert warnings == [warning]


@pytest.mark.parametrize(
    ("name", "text"),
    [("GODRIVE_SERVER_PORT", "http"), ("GODRIVE_LOG_REQUESTS", "maybe"), ("GODRIVE_AUTH_SIGNUP", "yes")],
)
def test_variable_with_a_wrong_value_is_named(name: str, text: str) -> None:
    assert problem(env={name: text}).endswith(f"not {text!r} ({name})")


def test_flag_with_a_wrong_value_says_where_it_came_from() -> None:
    assert problem(overrides={"server.port": 70000}).endswith("not 70000 (the command line)")


def test_configuration_made_by_hand_is_checked_like_one_that_was_read() -> None:
    for config in (
        Config(server=Server(port=-1)),
        Config(auth=Auth(bcrypt_cost=20)),
        Config(actors=Actors(ingest=ActorTable(location="nats"))),
    ):
        with pytest.raises(ConfigError):
            check(config)
