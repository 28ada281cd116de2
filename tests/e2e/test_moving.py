"""From one size to the next: the same users and files, on other stores."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import botocore.session
import pytest

from tests.drive_server import DriveServer, run
from tests.e2e.client import Client
from tests.servers import CephGateway, PostgresServer

pytestmark = pytest.mark.anyio


def copy_blobs(server: DriveServer, store: CephGateway, bucket: str) -> None:
    """Copy ``blobs/objects`` to ``objects/`` in the bucket, as any tool would that keeps names."""
    s3 = botocore.session.Session().create_client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
    )
    s3.create_bucket(Bucket=bucket)
    objects = server.data / "blobs" / "objects"
    for path in server.blobs("objects"):
        s3.put_object(Bucket=bucket, Key=f"objects/{path.relative_to(objects)}", Body=path.read_bytes())


async def test_from_a_folder_to_s3_and_postgres_everything_is_still_there(
    drive_server: DriveServer, ceph_gateway: CephGateway, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    drive_server.tables["janitor"]["orphan_age"] = 0.0
    drive_server.start()
    contents = {f"{number}.bin": os.urandom(size) for number, size in enumerate((0, 5, 70_000, 2_000_000))}
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        for name, content in contents.items():
            await client.upload(name, content)
        trashed = await client.upload("trashed.bin", b"trashed")
        await client.request("DELETE", f"/v1/files/{trashed['id']}")
        before = await client.files()
        drive_server.stop()

        config = drive_server.folder / "config.toml"
        run("sweep", "--unpack", "--config", config).check_returncode()

        bucket = f"t{uuid.uuid4().hex}"
        copy_blobs(drive_server, ceph_gateway, bucket)
        drive_server.tables["catalog"] = {"driver": "postgres", "dsn": postgres_server.create_database()}
        drive_server.tables["blobs"] |= {
            "driver": "s3",
            "s3": {
                "endpoint": ceph_gateway.endpoint,
                "bucket": bucket,
                "access_key": ceph_gateway.access_key,
                "secret_key": ceph_gateway.secret_key,
            },
        }
        drive_server.command()  # writes the configuration
        run("catalog", "copy", "--config", config).check_returncode()

        drive_server.start()
        assert await client.files() == before
        for file in before:
            assert await client.download(file["id"]) == contents[file["name"]]
        await client.request("POST", f"/v1/files/{trashed['id']}/restore")
        assert await client.download(trashed["id"]) == b"trashed"
        assert len(await client.files()) == len(contents) + 1
