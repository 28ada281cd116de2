"""``compose.yaml`` and the ``Dockerfile``: what can be known of them without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from godrive.blobs.layout import Layout
from godrive.commands.serve import _parts
from godrive.config import Config
from godrive.configfile import load
from tests.drive_server import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "godrive" and name != "secrets"}
SERVERS = {name: service for name, service in SERVICES.items() if name != "secrets"}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    make_secrets(tmp_path)
    return tmp_path


def make_secrets(root: Path) -> None:
    """Run what the first container runs."""
    mounted = [volume for volume in SERVICES["secrets"]["volumes"] if volume.startswith("./")]
    script, place, _ = mounted[0].split(":")
    assert SERVICES["secrets"]["entrypoint"][:2] == ["python", place]
    subprocess.run([sys.executable, REPOSITORY / script, root], check=True)


def configuration(name: str, secrets: Path) -> Config:
    """The settings of a container of ours, with the secrets that it mounts."""
    assert "godrive-secrets:/secrets:ro" in OURS[name]["volumes"]
    environment = {
        variable: value.replace("/secrets/", f"{secrets}/godrive/")
        for variable, value in OURS[name]["environment"].items()
    }
    return load(None, environment)


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_every_container_are_settings_of_ours(name: str, secrets: Path) -> None:
    config = configuration(name, secrets)
    assert config.catalog.driver == "postgres"
    assert config.blobs.s3.endpoint != config.blobs.s3.public_endpoint
    assert config.blobs.s3.secret_key
    assert config.ingest.webhook_token


def test_together_they_run_every_actor_once() -> None:
    parts = [part for service in OURS.values() for part in _parts(service["command"][-1]) - {"http"}]
    assert sorted(parts) == ["auth", "ingest", "janitor", "metadata", "storage"]


def test_every_volume_is_declared_and_every_dependency_is_a_service() -> None:
    for service in SERVICES.values():
        volumes = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {volume for volume in volumes if not volume.startswith("./")} <= COMPOSE["volumes"].keys()
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()


def test_secrets_agree_and_a_second_start_changes_none(secrets: Path) -> None:
    config = configuration("gateway", secrets)
    password = (secrets / "postgres" / "password").read_text()
    assert urlsplit(config.catalog.dsn).password == password
    assert f'token: "{config.nats.token}"' in (secrets / "nats" / "nats.conf").read_text()
    (identity,) = json.loads((secrets / "store" / "s3.json").read_text())["identities"]
    assert identity["credentials"] == [
        {"accessKey": config.blobs.s3.access_key, "secretKey": config.blobs.s3.secret_key}
    ]
    assert {action.partition(":")[2] for action in identity["actions"]} == {config.blobs.s3.bucket}
    events = tomllib.loads((secrets / "store" / "notification.toml").read_text())["notification"]["webhook"]
    assert events["bearer_token"] == config.ingest.webhook_token
    assert events["endpoint"].startswith("http://gateway:8080/v1/")
    layout = Layout(config.blobs.s3.prefix)
    assert [f"{path}/" for path in events["path_prefixes"]] == [
        f"/buckets/{config.blobs.s3.bucket}/{prefix}" for prefix in (layout.objects, layout.incoming)
    ]
    before = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    make_secrets(secrets)
    assert {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()} == before


def test_every_secret_is_random_and_needs_no_escaping_in_a_url(
    secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_secrets(other)
    for name in ("postgres/password", "godrive/nats-token", "godrive/s3-secret-key", "godrive/webhook-token"):
        secret = (secrets / name).read_text()
        assert re.fullmatch(r"[0-9a-f]{48}", secret)
        assert secret != (other / name).read_text()


def test_the_file_holds_no_secret_and_no_variable_with_a_default() -> None:
    text = (REPOSITORY / "compose.yaml").read_text()
    assert "${" not in text
    assert not re.search(r"change-?me|(PASSWORD|SECRET_KEY|TOKEN): ", text, re.IGNORECASE)


def test_a_container_mounts_its_own_secrets_only() -> None:
    for name, service in SERVERS.items():
        mounted = {volume.split(":")[0] for volume in service["volumes"] if "-secrets:" in volume}
        assert mounted == {"godrive-secrets" if name in OURS else f"{name}-secrets"}
        assert all(volume.endswith(":ro") for volume in service["volumes"] if "-secrets:" in volume)


def test_only_loopback_ports_are_open() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_every_image_is_pinned_to_a_release() -> None:
    images = {service["image"] for service in SERVICES.values()} - {"godrive"}
    assert images
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", image) for image in images)


def test_every_server_says_over_tcp_whether_it_is_well_and_waits_for_the_secrets() -> None:
    for name, service in SERVERS.items():
        test = " ".join(service["healthcheck"]["test"])
        assert "127.0.0.1" in test, name
        assert service["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}


def test_the_image_runs_as_nobody_in_particular_and_says_whether_it_is_well() -> None:
    stages = DOCKERFILE.split("FROM ")
    assert re.search(r"^USER (?!root)\w+$", stages[-1], re.MULTILINE)
    assert "HEALTHCHECK" in stages[-1]
    variables = dict(re.findall(r"(GODRIVE_\w+)=(\S+)", stages[-1]))
    assert load(None, variables).server.data_dir == "/data"
