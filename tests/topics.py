"""Having a real gateway push the events of a bucket."""

from __future__ import annotations

import uuid

from aiobotocore.session import AioSession

from tests.servers import CephGateway


class Sns:
    """Topics of the real gateway."""

    def __init__(self, gateway: CephGateway) -> None:
        self._options = {
            "region_name": "us-east-1",
            "endpoint_url": gateway.endpoint,
            "aws_access_key_id": gateway.access_key,
            "aws_secret_access_key": gateway.secret_key,
            "verify": True,
        }

    async def push(self, bucket: str, url: str) -> None:
        """Have the bucket's creations pushed to *url*."""
        session = AioSession()
        async with session.create_client("sns", **self._options) as sns:
            topic = await sns.create_topic(Name=f"t{uuid.uuid4().hex}", Attributes={"push-endpoint": url})
        async with session.create_client("s3", **self._options) as s3:
            # Created only: with a subscription to removals, this release of the gateway dies of DeleteObjects.
            rule = {"Id": "all", "TopicArn": topic["TopicArn"], "Events": ["s3:ObjectCreated:*"]}
            await s3.put_bucket_notification_configuration(
                Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [rule]}
            )
