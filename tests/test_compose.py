"""``compose.yaml`` and the ``Dockerfile``: what can be known of them without Docker."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from godrive.commands.serve import _parts
from godrive.configfile import load
from tests.drive_server import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service.get("image") == "godrive"}


def settings(environment: dict[str, str]) -> dict[str, str]:
    """The variables, their own defaults filled in as Docker does."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in environment.items()}


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_every_container_are_settings_of_ours(name: str) -> None:
    config = load(None, settings(OURS[name]["environment"]))
    assert config.catalog.driver == "postgres"
    assert config.blobs.s3.endpoint != config.blobs.s3.public_endpoint


def test_together_they_run_every_actor_once() -> None:
    parts = [part for service in OURS.values() for part in _parts(service["command"][-1]) - {"http"}]
    assert sorted(parts) == ["auth", "ingest", "janitor", "metadata", "storage"]


def test_every_volume_is_declared_and_every_dependency_is_a_service() -> None:
    for service in COMPOSE["services"].values():
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= COMPOSE["volumes"].keys()
        assert service.get("depends_on", {}).keys() <= COMPOSE["services"].keys()


def test_the_image_runs_as_nobody_in_particular_and_says_whether_it_is_well() -> None:
    stages = DOCKERFILE.split("FROM ")
    assert re.search(r"^USER (?!root)\w+$", stages[-1], re.MULTILINE)
    assert "HEALTHCHECK" in stages[-1]
    variables = dict(re.findall(r"(GODRIVE_\w+)=(\S+)", stages[-1]))
    assert load(None, variables).server.data_dir == "/data"
